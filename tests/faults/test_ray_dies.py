"""Ray's own processes die under a sweep: the user is told in a line, in seconds, and resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import NodeDiedError

from pdo_search.base.errors import PdoError
from pdo_search.results.schema import Decision
from pdo_search.search.retries import Retries
from pdo_search.search.watch import Watch

from ..conftest import Pdo
from ..sweeps import SERIAL, WHOLE_TRIALS, assert_whole, wait_for

pytestmark = pytest.mark.faults

LONG: dict[str, Any] = {
    **WHOLE_TRIALS,
    "trial": {**SERIAL["trial"], "epochs": 60},
    "search": {"num_trials": 4},
}
"""Trials that take some seconds each."""
TOLD_S = 60.0
"""Five seconds to notice and a few to end; the rest is for a machine that does four times as much
beside."""


def children_of(pid: int) -> dict[int, str]:
    """All processes below one, by their command."""
    listed = subprocess.check_output(["ps", "-ewwo", "pid,ppid,args"], text=True).splitlines()[1:]
    rows = [line.split(None, 2) for line in listed]
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        here = {int(p): c for p, pp, c in rows if int(pp) in parents and int(p) not in found}
        found |= here
        parents = set(here)
    return found


def one_of(pid: int, words: str) -> int:
    return next(p for p, command in children_of(pid).items() if words in command)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("victim", "says"),
    [
        ("raylet/raylet", "its raylet on this machine died"),
        ("gcs/gcs_server", "its head process (GCS) at"),
        ("runtime_env/agent/main.py", "its raylet on this machine died"),
    ],
    ids=["raylet", "gcs", "runtime-env agent"],
)
def test_a_dead_ray_is_told_at_once_and_resumed(pdo: Pdo, victim: str, says: str) -> None:
    file = pdo.experiment(**LONG)
    process = pdo.start("run", str(file), "--name", "struck")
    wait_for(process, "[  1/4]")
    below = children_of(process.pid)
    os.kill(one_of(process.pid, victim), signal.SIGKILL)
    struck = time.monotonic()
    said, _ = process.communicate(timeout=TOLD_S)
    told_s = time.monotonic() - struck
    assert process.returncode == 1, said
    assert says in said, said
    assert "resume" in said
    assert "Traceback" not in said
    assert told_s < TOLD_S
    deadline = time.monotonic() + 90
    while left := [p for p in below if Path(f"/proc/{p}").exists() and not is_zombie(p)]:
        assert time.monotonic() < deadline, [below[p] for p in left]
        time.sleep(0.5)
    sweep = pdo.folder / "results" / "struck"
    pdo.run("resume", str(sweep))
    assert_whole(sweep, 4)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_first_reason_counts_and_the_end_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr("pdo_search.search.watch.GRACE_S", 0.0)
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr("os._exit", sent.append)
    watch = Watch()
    watch.fail("first")
    watch.fail("second")
    assert watch.reason == "first"
    assert sent == [signal.SIGTERM, PdoError.exit_code]
    done = Watch()
    with done.over(lambda: None):
        pass
    done.fail("too late")
    assert done.reason is None


def test_a_machine_that_goes_away_with_the_teachers_task_is_no_failure_of_it() -> None:
    retries = Retries(1)
    gone = NodeDiedError("the node was dead")
    told = [retries.note(0, gone) for _ in range(3)]
    assert [(what, again) for what, _, again in told] == 3 * [(Decision.NODE_LOST, True)]
