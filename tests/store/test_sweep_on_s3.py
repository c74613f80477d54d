"""What a driver leaves in a sweep on S3: its lease, by which others know it, and its log."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from pdo_search.base.errors import PdoError, StoreError
from pdo_search.base.lease import STALE_S
from pdo_search.base.log import log_to_file
from pdo_search.base.storage import Storage
from pdo_search.results.driver import driver_of
from pdo_search.search.lock import only_driver

HOLDING = """
import sys, time
from pdo_search.search.lock import only_driver
with only_driver(sys.argv[1], say=print, lost=print):
    print("holding", flush=True)
    time.sleep(120)
"""


def test_of_two_drivers_the_second_is_refused_until_the_first_is_dead(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdo_search.base.lease.POLL_S", 0.5)
    sweep = f"{bucket}/two"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDING, sweep], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "holding\n"
    driver = driver_of(Storage(sweep))
    assert driver is not None
    assert driver.alive
    assert driver.pid == first.pid
    said: list[str] = []
    with (
        pytest.raises(PdoError, match=f"another driver runs this sweep, process {first.pid} on"),
        only_driver(sweep, say=said.append, lost=print),
    ):
        pass
    assert len(said) == 1
    first.kill()
    first.communicate()
    started = time.monotonic()
    with only_driver(sweep, say=print, lost=print):
        assert time.monotonic() - started < STALE_S / 2
    assert driver_of(Storage(sweep)) is None


def test_a_driver_leaves_its_log_there(bucket: str) -> None:
    storage = Storage(f"{bucket}/logged")
    with log_to_file(storage.root):
        logging.getLogger("pdo_search.test").info("said on the way")
    (name,) = storage.files("logs")
    assert name.startswith("driver-")
    assert b"said on the way" in storage.read(f"logs/{name}")


def test_the_log_of_a_sweep_that_breaks_down_is_there_too(bucket: str) -> None:
    storage = Storage(f"{bucket}/broken")

    def broken() -> None:
        with log_to_file(storage.root):
            logging.getLogger("pdo_search.test").info("the last word")
            raise PdoError("over")

    with pytest.raises(PdoError, match="over"):
        broken()
    (name,) = storage.files("logs")
    assert b"the last word" in storage.read(f"logs/{name}")


def test_a_log_that_cannot_be_copied_breaks_nothing(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(self: Storage, name: str, data: bytes) -> None:
        raise StoreError("the object store does not answer")

    monkeypatch.setattr(Storage, "write", gone)
    monkeypatch.setattr("pdo_search.base.log.COPIED_EVERY_S", 0.05)
    with log_to_file(f"{bucket}/silent"):
        time.sleep(0.3)
    assert capsys.readouterr().err == ""
