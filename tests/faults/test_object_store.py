"""A sweep on an object store that goes away, is slow, or is wanted by two drivers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import pdo_search
from pdo_search.base import remote
from pdo_search.base.process import began_at, descendants

from ..conftest import Pdo
from ..s3 import s3_settings
from ..sweeps import WHOLE_TRIALS, assert_whole, same_numbers, wait_for
from .object_store import BUCKET, Hold, ObjectStore, object_store
from .test_trials import SLOW

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_TRIALS = 3
OUTAGE_S = 20.0
ENDED_S = 90.0
"""How long a driver may take to end when its store is gone for good and ``storage_timeout`` is 5 s."""  # noqa: E501
REFUSED_S = 60.0
"""Of the lease: Ray is not started before it is had."""
GONE_S = 90.0
"""How long Ray's processes may outlive their driver: its agent looks for a minute for a head that
was killed."""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    pytest.importorskip("moto.server")
    with object_store() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_settings(found.direct).items():
            patch.setenv(name, value)
        remote._filesystem.cache_clear()
        yield found
        remote._filesystem.cache_clear()


class Sweeps:
    """Sweeps of one experiment, on the object store and off it.

    Attributes:
        pdo: the command line; what it starts uses the store through its proxy.
        steps: a file with a line for each step of a student's training.
    """

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        cache = {"PDO_SEARCH_CACHE": str(folder / "cache")}
        self.pdo = Pdo(folder, {**os.environ, **cache, **s3_settings(store.address)})
        self.steps = folder / "steps"
        (folder / "slow.py").write_text(SLOW)
        self._seen: dict[int, str] = {}

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        """Start a sweep on the store, and the count of its steps."""
        self.steps.unlink(missing_ok=True)
        student = {"arch": "slow:student", "width": None, "args": {"steps": str(self.steps)}}
        file = self.pdo.experiment(
            **WHOLE_TRIALS, student=student, search={"num_trials": NUM_TRIALS}
        )
        root = f"output.root=s3://{BUCKET}/sweeps"
        return self.pdo.start("run", str(file), "--name", name, "--set", root, *more)

    def resume(self, name: str) -> subprocess.Popen[str]:
        return self.pdo.start("resume", uri(name))

    def whole(self) -> Path:
        """The same sweep on the disk, where nothing befalls it."""
        process = self.start("whole", "--set", f"output.root={self.pdo.folder / 'results'}")
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return self.pdo.folder / "results" / "whole"

    def trained(self) -> int:
        """How many steps were trained since the latest sweep was started."""
        return len(self.steps.read_text().splitlines())

    def note(self, process: subprocess.Popen[str]) -> None:
        """Remember what a driver has started, to see it gone."""
        below = {process.pid, *descendants(process.pid)}
        self._seen |= {pid: began_at(pid) for pid in below}

    def assert_gone(self) -> None:
        """Nothing of what was remembered is left."""
        deadline = time.monotonic() + GONE_S
        while left := [p for p, began in self._seen.items() if began and lives(p, began)]:
            assert time.monotonic() < deadline, [
                Path(f"/proc/{pid}/cmdline").read_bytes()[:80] for pid in left
            ]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Sweeps:
    return Sweeps(tmp_path_factory.mktemp("object-store"), store)


@pytest.fixture(scope="module")
def whole(sweeps: Sweeps) -> tuple[Path, int]:
    """A sweep that nothing befell, and how many steps it took."""
    return sweeps.whole(), sweeps.trained()


@pytest.fixture(autouse=True)
def mended(store: ObjectStore) -> Iterator[None]:
    """The store is well before the next test, whatever becomes of this one."""
    yield
    if store.hold is not None:
        store.hold.let_go.set()
    store.down, store.hold = False, None


def uri(name: str) -> str:
    return f"s3://{BUCKET}/sweeps/{name}"


def lives(pid: int, began: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return began_at(pid) == began and state != "Z"


def ended(process: subprocess.Popen[str], code: int, within_s: float = 150) -> str:
    said, _ = process.communicate(timeout=within_s)
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    return said


def assert_finished(name: str) -> None:
    assert_whole(uri(name), NUM_TRIALS)
    assert set(pdo_search.open_sweep(uri(name)).trials["status"]) == {"finished"}


def test_an_outage_in_the_middle_is_lived_through(
    sweeps: Sweeps, store: ObjectStore, whole: tuple[Path, int]
) -> None:
    process = sweeps.start("outage")
    wait_for(process, f"[  1/{NUM_TRIALS}]")
    sweeps.note(process)
    store.down = True
    time.sleep(OUTAGE_S)
    assert process.poll() is None
    store.down = False
    ended(process, 0)
    assert_finished("outage")
    same_numbers(whole[0], uri("outage"))
    sweeps.assert_gone()


def test_without_its_store_a_sweep_ends_by_itself_and_says_how_to_go_on(
    sweeps: Sweeps, store: ObjectStore, whole: tuple[Path, int]
) -> None:
    process = sweeps.start("gone", "--set", "limits.storage_timeout=5s")
    wait_for(process, f"[  1/{NUM_TRIALS}]")
    sweeps.note(process)
    store.down = True
    said = ended(process, 1, ENDED_S)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert f"s3://{BUCKET}" in errors[0]
    assert "resume" in errors[0]
    sweeps.assert_gone()
    store.down = False
    kept = pdo_search.open_sweep(uri("gone")).epochs
    ended(sweeps.resume("gone"), 0)
    assert_finished("gone")
    same_numbers(whole[0], uri("gone"))
    assert_kept(kept, pdo_search.open_sweep(uri("gone")).epochs)


@pytest.mark.parametrize("table", ["epochs", "trials"])
def test_a_driver_killed_while_it_writes_loses_nothing(
    sweeps: Sweeps, store: ObjectStore, whole: tuple[Path, int], table: str
) -> None:
    name = f"killed-{table}"
    process = sweeps.start(name)
    wait_for(process, f"[  1/{NUM_TRIALS}]")
    models = f"/sweeps/{name}/models/t0001/"
    # What is written after the second trial's model is its end.
    deadline = time.monotonic() + 60
    while not any(models in path for _, path in store.requests):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hold = store.hold = Hold("PUT", f"/sweeps/{name}/{table}/", forwarded=False)
    assert hold.met.wait(30)
    sweeps.note(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store.hold = None
    hold.let_go.set()
    before = pdo_search.open_sweep(uri(name))
    assert set(before.trials["status"]) == {"finished", "running"}
    ended(sweeps.resume(name), 0)
    assert_finished(name)
    same_numbers(whole[0], uri(name))
    assert_kept(before.epochs, pdo_search.open_sweep(uri(name)).epochs)
    # The second trial had trained all its steps; the third may have begun.
    assert whole[1] <= sweeps.trained() < whole[1] * 1.2
    sweeps.assert_gone()


def assert_kept(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Epochs that were written are still there, as they were reported then."""
    key = ["number", "epoch"]
    was, found = before.set_index(key), after.set_index(key)
    assert len(was) > 0
    pd.testing.assert_series_equal(found.loc[was.index, "reported_at"], was["reported_at"])


def test_of_two_drivers_the_second_is_refused_and_a_dead_one_is_succeeded_at_once(
    sweeps: Sweeps, store: ObjectStore
) -> None:
    # The first has something to do for as long as it takes to look whether it lives.
    hold = store.hold = Hold("PUT", "/sweeps/two/models/t0001/", forwarded=False)
    first = sweeps.start("two")
    assert hold.met.wait(90)
    started = time.monotonic()
    said = ended(sweeps.resume("two"), 1, REFUSED_S)
    assert time.monotonic() - started < REFUSED_S
    refusal = rf"another driver runs this sweep, process {first.pid} on \S+; wait for it or stop it"
    assert re.search(refusal, " ".join(said.split())), said
    assert first.poll() is None
    sweeps.note(first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    store.hold = None
    hold.let_go.set()
    said = ended(sweeps.resume("two"), 0)
    assert "Looking for" not in said
    assert_finished("two")
    sweeps.assert_gone()
