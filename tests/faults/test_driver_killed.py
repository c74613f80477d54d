"""SIGKILL of the driver at any moment: nothing that had ended is lost, and resume ends the rest."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import pdo_search

from ..conftest import Cluster, Pdo
from ..sweeps import WHOLE_TRIALS, assert_free, assert_whole, same_numbers, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.slow]

NUM_TRIALS = 120
REPLAY = Path(__file__).parent.parent / "search" / "replay.py"


def replaying(pdo: Pdo, sweep: Path) -> subprocess.Popen[str]:
    """Start a sweep of replayed trials, or go on with it."""
    command = [sys.executable, str(REPLAY), str(sweep), str(NUM_TRIALS), "1", "0.3", "asha"]
    return subprocess.Popen(
        command,
        env=pdo.env,
        cwd=pdo.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(sweep: Path) -> pd.DataFrame:
    """The rows of the trials that have ended, without the index of all columns that may follow."""
    if not (sweep / "trials" / "part-00000.parquet").exists():
        return pd.DataFrame()
    trials = pdo_search.open_sweep(sweep).trials.set_index("number")
    return trials[trials["status"].isin(["finished", "stopped"])].astype(object)


@pytest.mark.timeout(600)
def test_a_sweep_killed_twenty_times_ends_as_if_it_never_was(
    pdo: Pdo, ray_cluster: Cluster
) -> None:
    whole = replaying(pdo, pdo.folder / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    sweep = pdo.folder / "killed"
    moments = random.Random(0)
    for number in range(20):
        before = ended(sweep)
        process = replaying(pdo, sweep)
        if number % 2:  # While trials run; else at any time from the imports on.
            wait_for(process, f"/{NUM_TRIALS}]")
        time.sleep(moments.uniform(0.0, 1.0 if number % 2 else 5.0))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        after = ended(sweep)
        assert len(after) >= len(before) + number % 2
        if len(before):
            pd.testing.assert_frame_equal(after.loc[before.index, before.columns], before)
    assert len(after) < NUM_TRIALS
    last = replaying(pdo, sweep)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert_whole(sweep, NUM_TRIALS)
    assert set(ended(sweep)["status"]) == {"finished", "stopped"}
    same_numbers(pdo.folder / "whole", sweep)
    assert_free(ray_cluster)


@pytest.mark.timeout(300)
def test_a_training_sweep_killed_three_times_ends_as_if_it_never_was(
    pdo: Pdo, ray_cluster: Cluster
) -> None:
    file = pdo.experiment(**WHOLE_TRIALS)
    pdo.run("run", str(file), "--address", "auto", "--name", "whole")
    sweep = pdo.folder / "results" / "killed"
    moments = random.Random(1)
    first = ["run", str(file), "--address", "auto", "--name", "killed"]
    for number, arguments in enumerate([first, *2 * [["resume", str(sweep), "--address", "auto"]]]):
        process = pdo.start(*arguments)
        wait_for(process, f"[  {2 * number + 1}/6]")
        time.sleep(moments.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    pdo.run("resume", str(sweep), "--address", "auto")
    assert_whole(sweep, 6)
    same_numbers(pdo.folder / "results" / "whole", sweep)
    assert_free(ray_cluster)
