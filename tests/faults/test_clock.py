"""Clocks that are set back: durations stay what they were, and order stays order."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import pdo_search
from pdo_search.base.clock import SteadyClock
from pdo_search.config.search import SchedulerConfig
from pdo_search.config.space import Space
from pdo_search.search.resume import plan_resume

from ..conftest import Cluster, Pdo
from ..sweeps import assert_free, assert_whole, same_numbers, wait_for

pytestmark = pytest.mark.faults

REPLAY = Path(__file__).parent.parent / "search" / "replay.py"
NUM_TRIALS = 12

JUMPY = """
import runpy, sys, time
wall, hours, began = time.time, float(sys.argv.pop(1)), time.monotonic()
# Set back by some hours at first, and by another one every two seconds.
time.time = lambda: wall() - 3600 * (hours + (time.monotonic() - began) // 2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_clock_goes_forward_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [1000.0, 1001.0, 500.0, 500.5, 1001.0, 2000.0]
    monkeypatch.setattr(time, "time", lambda: said.pop(0))
    clock = SteadyClock(999.0)
    told = [clock() for _ in range(6)]
    assert told == sorted(set(told))
    assert (told[0], told[1], told[5]) == (1000.0, 1001.0, 2000.0)
    assert told[4] - told[1] < 1e-3


@pytest.mark.parametrize("clock", ["epoch", "stage"])
def test_resume_sees_reports_in_the_order_in_which_they_were_heard(clock: Any) -> None:
    heard = [(number, epoch) for epoch in (1, 2) for number in (3, 1, 0, 2)]
    random.Random(0).shuffle(heard)
    times = [datetime.fromtimestamp(at, UTC) for at in range(8)]
    epochs = [
        {"number": n, "epoch": e, "val_accuracy": 0.5, "reported_at": at}
        for at, (n, e) in zip(times, heard, strict=True)
    ]
    stages = [
        {"number": n, "stage": e, "last_epoch": e, "val_accuracy": 0.5} for n, e in sorted(heard)
    ]
    plan = plan_resume(
        [], epochs, Space(), metric="val_accuracy", num_trials=4, stages=stages,
        scheduler=SchedulerConfig(clock=clock),
    )  # fmt: skip
    # A trial's own reports are counted in their order, wherever its last epochs stand.
    assert [o.number for o in plan.observations] == [n for n, _ in heard]
    assert plan.latest == 7


def jumpy(pdo: Pdo, sweep: Path, hours: float) -> subprocess.Popen[str]:
    arguments = [str(hours), str(REPLAY), str(sweep), str(NUM_TRIALS), "1", "0.3", "asha"]
    return subprocess.Popen(
        [sys.executable, "-c", JUMPY, *arguments],
        env=pdo.env,
        cwd=pdo.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_sweep_under_a_clock_that_is_set_back_again_and_again(
    pdo: Pdo, ray_cluster: Cluster
) -> None:
    command = [sys.executable, str(REPLAY), "", str(NUM_TRIALS), "1", "0.3", "asha"]
    command[2] = str(pdo.folder / "whole")
    subprocess.run(command, env=pdo.env, cwd=pdo.folder, check=True, capture_output=True)
    sweep = pdo.folder / "jumpy"
    first = jumpy(pdo, sweep, 0)
    wait_for(first, f"[  5/{NUM_TRIALS}]")
    first.kill()
    first.communicate()
    second = jumpy(pdo, sweep, 20)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert_whole(sweep, NUM_TRIALS)
    same_numbers(pdo.folder / "whole", sweep)
    opened = pdo_search.open_sweep(sweep)
    trials = opened.trials.sort_values("end_index")
    assert trials["ended_at"].is_monotonic_increasing
    assert (trials["ended_at"] > trials["started_at"]).all()
    assert trials["wall_s"].between(0, 30).all()
    assert opened.epochs.groupby("number")["reported_at"].is_monotonic_increasing.all()
    assert_free(ray_cluster)
