"""Whether a driver runs a sweep: seen from its own note."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from pdo_search.search.alive import is_alive
from pdo_search.search.lock import HOLDER, only_driver


def test_a_driver_is_alive_while_it_holds_the_sweep(tmp_path: Path) -> None:
    assert is_alive(str(tmp_path)) is False
    with only_driver(str(tmp_path)):
        assert is_alive(str(tmp_path)) is True
    assert is_alive(str(tmp_path)) is False


def test_a_killed_driver_leaves_its_name_and_is_dead(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    note = {"host": socket.gethostname(), "pid": gone.pid}
    (tmp_path / HOLDER).write_text(json.dumps(note))
    assert is_alive(str(tmp_path)) is False


@pytest.mark.parametrize("text", ['{"host": "elsewhere", "pid": 1}', "{", "[]", '{"host": 3}'])
def test_what_cannot_be_known_is_not_claimed(tmp_path: Path, text: str) -> None:
    (tmp_path / HOLDER).write_text(text)
    assert is_alive(str(tmp_path)) is None
    assert is_alive("s3://bucket/sweep") is None
    assert os.path.exists(tmp_path / HOLDER)
