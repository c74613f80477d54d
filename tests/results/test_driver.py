"""Which driver runs a sweep, and whether it lives: seen from what it leaves there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from pdo_search.base.errors import PdoError
from pdo_search.base.lease import STALE_S
from pdo_search.base.process import identity
from pdo_search.base.storage import Storage
from pdo_search.results.driver import HOLDER, Driver, driver_of
from pdo_search.search.lock import only_driver


def driver(folder: Path) -> Driver | None:
    return driver_of(Storage(folder))


def test_a_driver_is_heard_while_it_holds_the_sweep(tmp_path: Path) -> None:
    assert driver(tmp_path) is None
    with only_driver(str(tmp_path), say=print, lost=print):
        found = driver(tmp_path)
        assert found is not None
        assert found.alive
        assert str(found).startswith(f"running on {found.host}, heard ")
        with (
            pytest.raises(PdoError, match=f"another driver runs this sweep, {found.name}"),
            only_driver(str(tmp_path), say=print, lost=print),
        ):
            pass
    assert driver(tmp_path) is None


def test_a_killed_driver_is_dead_at_once_and_taken_over(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    note = {**identity(), "pid": gone.pid, "renewed_at": time.time()}
    (tmp_path / HOLDER).write_text(json.dumps(note))
    found = driver(tmp_path)
    assert found is not None
    assert not found.alive
    assert str(found) == f"its driver (process {gone.pid} on {found.host}) is dead: resume"
    started = time.monotonic()
    with only_driver(str(tmp_path), say=print, lost=print):
        assert time.monotonic() - started < STALE_S / 4


@pytest.mark.parametrize("text", ["{", "[]", '{"host": 3}', '{"host": "a", "pid": "b"}'])
def test_what_cannot_be_read_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / HOLDER).write_text(text)
    assert driver(tmp_path) is None
