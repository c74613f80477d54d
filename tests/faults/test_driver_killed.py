"""SIGKILL of the driver at any moment: nothing that had ended is lost, and resume ends the rest."""

from __future__ import annotations

import random
import re
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
    arguments = [str(sweep), str(NUM_TRIALS), "1", "0.3", "asha_promotion"]
    return subprocess.Popen(
        [sys.executable, str(REPLAY), *arguments],
        env=pdo.env,
        cwd=pdo.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kept(sweep: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What must not change any more: rows of the finished trials, and of all epochs."""
    if not (sweep / "trials" / "part-00000.parquet").exists():
        return pd.DataFrame(), pd.DataFrame()
    opened = pdo_search.open_sweep(sweep)
    trials = opened.trials.set_index("number")
    epochs = opened.epochs.set_index(["number", "epoch"])
    return trials[trials["status"] == "finished"].astype(object), epochs[["val_accuracy"]]


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
        before = kept(sweep)
        process = replaying(pdo, sweep)
        said = set()
        if number % 2:  # While trials run; else at any time from the imports on.
            line = wait_for(process, f"/{NUM_TRIALS}]").splitlines()[-1]
            said = {tuple(map(int, re.findall(r" t(\d+) .* epoch +(\d+)\b", line)[0]))}
        time.sleep(moments.uniform(0.0, 1.0 if number % 2 else 5.0))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        after = kept(sweep)
        assert said <= set(after[1].index)
        for was, found in zip(before, after, strict=True):
            if len(was):
                pd.testing.assert_frame_equal(found.loc[was.index, was.columns], was)
    assert len(pdo_search.open_sweep(sweep).trials) < NUM_TRIALS
    last = replaying(pdo, sweep)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert_whole(sweep, NUM_TRIALS)
    assert set(pdo_search.open_sweep(sweep).trials["status"]) == {"finished", "stopped"}
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
