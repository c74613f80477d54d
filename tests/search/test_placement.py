"""A cluster is kept full, what waited goes first, and each level is built once: on a real Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import pdo_search
from pdo_search.results.schema import param_types
from pdo_search.results.sweepfile import write_sweep_file
from pdo_search.results.writer import TableWriter
from pdo_search.search import sweep

from ..conftest import Pdo
from .replay import experiment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SECONDS = 1.5


def replay(folder: Path, env: dict[str, str], *arguments: float) -> pd.DataFrame:
    """Run a sweep of replayed trials; its trials."""
    script = Path(__file__).with_name("replay.py")
    command = [sys.executable, str(script), str(folder), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = pdo_search.open_sweep(folder).trials
    assert set(trials["status"]) == {"finished"}
    return trials


def running(trials: pd.DataFrame) -> pd.Series:
    """How many trials run, by the time from which on it holds."""
    starts = pd.Series(1, index=trials["started_at"])
    ends = pd.Series(-1, index=trials["ended_at"])
    return pd.concat([starts, ends]).sort_index(kind="stable").cumsum()


def occupancy(trials: pd.DataFrame, slots: int) -> float:
    """Share of the slots' time in use, from when all are until the last trial starts."""
    began, ended = trials["started_at"].nsmallest(slots).iloc[-1], trials["started_at"].max()
    busy = (
        trials["ended_at"].clip(upper=ended) - trials["started_at"].clip(lower=began)
    ).dt.total_seconds()
    return float(busy.clip(lower=0).sum() / (slots * (ended - began).total_seconds()))


def test_no_slot_is_idle_while_trials_are_left(pdo: Pdo) -> None:
    trials = replay(pdo.folder / "full", pdo.env, 16, 4, SECONDS)
    assert len(trials) == 16
    assert running(trials).max() == 4
    assert trials["pid"].nunique() == 4
    assert occupancy(trials, 4) > 0.8


def test_interrupted_trials_go_first(pdo: Pdo) -> None:
    folder = pdo.folder / "again"
    loaded = experiment(folder, 6)
    info, _ = sweep.new_sweep(loaded)
    write_sweep_file(folder, info)
    writer = TableWriter(folder, param_types(loaded.space))
    for number in range(4):
        status = "interrupted" if number in (1, 3) else "finished"
        point = {"param.temperature": 2.0 + number}
        row = {
            "number": number,
            "trial_id": f"t{number:04d}",
            "method": "progressive",
            "status": status,
            "attempt": 1,
        }
        writer.upsert("trials", {**row, **point})
    writer.flush()
    trials = replay(folder, pdo.env, 6, 1, 0.3).set_index("number")
    assert list(trials["attempt"]) == [1, 2, 1, 2, 1, 1]
    assert list(trials["ended_at"].dropna().sort_values().index) == [1, 3, 4, 5]
    assert list(trials.loc[[1, 3], "param.temperature"]) == [3.0, 5.0]


@pytest.mark.nightly
def test_a_sweep_builds_each_rung_once(pdo: Pdo) -> None:
    file = pdo.experiment(
        trial={
            "epochs": 4,
            "num_stages": {"int": [2, 3]},
            "prune_ratio": {"float": [0.1, 0.3], "step": 0.1},
            "optimizer": {"batch_size": 32},
            "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
            "composite": None,
        },
        task={"data": {"source": "digits", "limit": 600}},
        search={"num_trials": 32, "sampler": "random"},
        scheduler={"kind": "none"},
        resources={"cpus": 1, "max_concurrent": 2},
    )
    pdo.run("run", str(file), "--address", "auto")
    teachers = pdo_search.open_sweep(pdo.folder / "results" / "tiny").teachers
    levels = teachers[teachers["level"] > 0]
    assert levels["number"].nunique() > levels["key"].nunique() > 3
    built = levels[~levels["cached"]].groupby("key").size()
    assert set(built.index) == set(levels["key"])
    assert (built == 1).all()
    assert teachers.loc[teachers["level"] == 0, "cached"].all()
