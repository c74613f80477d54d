"""Whole sweeps on a real cluster: run, extend, kill, interrupt, nest, submit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pdo_search

from ..conftest import Cluster, Pdo
from ..sweeps import (
    SERIAL,
    TIMINGS,
    assert_free,
    assert_whole,
    same_numbers,
    tables,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def test_a_sweep_leaves_tables_and_a_student_and_can_be_extended(pdo: Pdo) -> None:
    file = pdo.experiment()
    output = pdo.run("run", str(file), "--address", "auto")
    sweep = pdo.folder / "results" / "tiny"
    assert_whole(sweep, 6)
    opened = pdo_search.open_sweep(sweep)
    best = opened.best()
    assert best.trial_id in output
    assert pdo_search.load_model(sweep / best.model) is not None
    assert pdo_search.load_model(sweep / best.composite) is not None
    assert (opened.stages.groupby("number")["last_epoch"].max() <= 4).all()

    again = pdo.run("run", str(file), "--address", "auto", code=2)
    assert "exists already" in again

    pdo.run("resume", str(sweep), "--trials", "+2", "--address", "auto")
    assert_whole(sweep, 8)
    finished = opened.trials.set_index("trial_id")["ended_at"]
    later = opened.refresh().trials.set_index("trial_id")["ended_at"]
    assert (later[finished.index] == finished).all()
    summary = json.loads(pdo.run("show", str(sweep), "--json"))
    assert summary


STUDENTS = """
import os, signal, torch
from torch import nn

class Student(nn.Module):
    def __init__(self, num_outputs, kind):
        super().__init__()
        self.kind = kind
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))
        if kind == "huge":
            self.unused = nn.Linear(1000, 1000)

    def forward(self, pictures):
        logits = self.net(pictures)
        if not self.training or len(pictures) <= 2:  # As it is tried before the sweep.
            return logits
        if self.kind == "raises":
            raise RuntimeError("no such operator")
        if self.kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return logits * float("nan") if self.kind == "nan" else logits

def student(num_outputs, kind):
    return Student(num_outputs, kind)
"""


def test_trials_that_break_are_recorded_and_the_others_go_on(pdo: Pdo) -> None:
    (pdo.folder / "students.py").write_text(STUDENTS)
    kinds = ["fine", "huge", "raises", "nan", "dies"]
    file = pdo.experiment(
        student={"arch": "students:student", "width": None, "args": {"kind": {"choice": kinds}}},
        trial={"num_stages": 1, "temperature": 4.0, "optimizer": {"batch_size": 32}},
        search={
            "sampler": "grid",
            "num_trials": 5,
            "points": [{"student.args.kind": kind} for kind in kinds],
        },
        limits={"params": 100_000},
    )
    pdo.run("run", str(file), "--address", "auto")
    sweep = pdo.folder / "results" / "tiny"
    trials = pdo_search.open_sweep(sweep).trials.to_dict("records")
    found = {str(row["param.student.args.kind"]): row for row in trials}
    expected = {
        "fine": ("finished", None),
        "huge": ("infeasible", "over the limit 100000"),
        "raises": ("failed", "RuntimeError: no such operator"),
        "nan": ("failed", "Diverged: the loss became nan"),
        "dies": ("failed", "died"),
    }
    for kind, (status, cause) in expected.items():
        assert found[kind]["status"] == status
        assert cause is None or cause in found[kind]["cause"]
    assert found["dies"]["attempt"] == 2
    traceback = sweep / "errors" / f"{found['raises']['trial_id']}.txt"
    assert "no such operator" in traceback.read_text()


def test_a_killed_driver_loses_nothing_and_resumes_to_the_same_tables(pdo: Pdo) -> None:
    file = pdo.experiment(**SERIAL)
    pdo.run("run", str(file), "--address", "auto", "--name", "whole")
    process = pdo.start("run", str(file), "--address", "auto", "--name", "killed")
    wait_for(process, "[  3/6]")
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    sweep = pdo.folder / "results" / "killed"
    before = pdo_search.open_sweep(sweep).trials
    ended = before[before["status"].isin(["finished", "stopped"])].set_index("number")
    assert len(ended) >= 3
    pdo.run("resume", str(sweep), "--address", "auto")
    assert_whole(sweep, 6)
    after = pdo_search.open_sweep(sweep).trials.set_index("number")
    assert (after.loc[ended.index, "ended_at"] == ended["ended_at"]).all()
    same_numbers(pdo.folder / "results" / "whole", sweep)


def test_ctrl_c_ends_in_seconds_and_says_how_to_go_on(pdo: Pdo) -> None:
    file = pdo.experiment(**SERIAL)
    process = pdo.start("run", str(file), "--address", "auto")
    wait_for(process, "[  1/6]")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert time.monotonic() - began < 10
    assert "Go on with: pdo-search resume results/tiny" in rest
    sweep = pdo.folder / "results" / "tiny"
    assert "running" not in set(pdo_search.open_sweep(sweep).trials["status"])
    pdo.run("resume", "results/tiny", "--address", "auto")
    assert_whole(sweep, 6)


def test_a_second_driver_is_refused_with_the_first_ones_process(pdo: Pdo) -> None:
    file = pdo.experiment(**SERIAL)
    process = pdo.start("run", str(file), "--address", "auto")
    wait_for(process, "Teacher")
    refused = pdo.run("resume", "results/tiny", "--address", "auto", code=1)
    assert str(process.pid) in refused
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.nightly
def test_trials_of_two_workers_stop_early_and_leak_nothing(pdo: Pdo, ray_cluster: Cluster) -> None:
    file = pdo.experiment(
        resources={"cpus": 1, "workers": 2},
        search={"num_trials": 4},
        trial={**SERIAL["trial"], "epochs": 4, "num_stages": {"int": [1, 2]}},
        scheduler={"grace": 1, "reduction": 3},
    )
    pdo.run("run", str(file), "--address", "auto", timeout=220)
    sweep = pdo.folder / "results" / "tiny"
    assert_whole(sweep, 4)
    statuses = list(pdo_search.open_sweep(sweep).trials["status"])
    assert "stopped" in statuses
    assert "finished" in statuses
    assert_free(ray_cluster)


@pytest.mark.nightly
def test_a_sweep_submitted_as_a_job_needs_the_token_and_leaves_its_tables(
    pdo: Pdo, ray_cluster: Cluster
) -> None:
    file = pdo.experiment(search={"num_trials": 2})
    ray = str(Path(sys.executable).parent / "ray")
    command = [
        ray, "job", "submit", "--address", ray_cluster.dashboard, "--",
        sys.executable, "-m", "pdo_search.cli", "run", str(file), "--address", "auto",
        "--set", f"output.root={pdo.folder / 'results'}",
    ]  # fmt: skip
    env = {k: v for k, v in ray_cluster.env.items() if k != "RAY_ADDRESS"}
    stranger = {**env, "RAY_AUTH_TOKEN": "0" * 64}
    refused = subprocess.run(command, env=stranger, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert not (pdo.folder / "results").exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(pdo.folder / "results" / "tiny", 2)


PROMOTED: dict[str, Any] = {
    **SERIAL,
    "trial": {**SERIAL["trial"], "epochs": 6, "num_stages": 1},
    "search": {"num_trials": 6, "startup_trials": 3, "sampler": "random"},
    "scheduler": {"kind": "asha_promotion", "grace": 1, "reduction": 2},
}


@pytest.mark.nightly
def test_promoted_trials_go_on_as_if_they_had_never_paused(pdo: Pdo) -> None:
    file = pdo.experiment(**PROMOTED)
    said = pdo.run("run", str(file), "--address", "auto", "--name", "promoted")
    sweep = pdo.folder / "results" / "promoted"
    assert_whole(sweep, 6)
    trials = pdo_search.open_sweep(sweep).trials.set_index("number")
    assert set(trials["status"]) == {"finished", "stopped"}
    assert set(trials["rung_reached"]) >= {1, 4}
    paused_once = re.findall(r" (t\d+) +progressive paused ", said)
    finished = set(trials["trial_id"][trials["status"] == "finished"])
    assert finished & set(paused_once)
    assert set(trials["attempt"]) == {1}

    pdo.run(
        "run", str(file), "--address", "auto", "--name", "whole", "--set", "scheduler.kind=none"
    )  # fmt: skip
    undisturbed = tables(pdo.folder / "results" / "whole")["epochs"]
    paused = tables(sweep)["epochs"]
    kept = [c for c in paused.columns if not c.endswith(TIMINGS)]
    for number, row in trials.iterrows():
        mine, theirs = (e[e["number"] == number] for e in (paused, undisturbed))
        pd.testing.assert_frame_equal(
            mine[kept].reset_index(drop=True),
            theirs[kept].head(row["epochs_done"]).reset_index(drop=True),
            check_exact=True,
        )


@pytest.mark.nightly
def test_a_killed_driver_leaves_paused_trials_that_are_promoted_on_resume(pdo: Pdo) -> None:
    file = pdo.experiment(**PROMOTED)
    pdo.run("run", str(file), "--address", "auto", "--name", "whole")
    process = pdo.start("run", str(file), "--address", "auto", "--name", "killed")
    wait_for(process, "t0002  progressive paused")
    process.send_signal(signal.SIGKILL)
    process.wait()
    sweep = pdo.folder / "results" / "killed"
    assert "paused" in set(pdo_search.open_sweep(sweep).trials["status"])
    pdo.run("resume", str(sweep), "--address", "auto")
    assert_whole(sweep, 6)
    same_numbers(pdo.folder / "results" / "whole", sweep)
    pdo.run("resume", str(sweep), "--trials", "+4", "--address", "auto")
    assert_whole(sweep, 10)
    before = pdo_search.open_sweep(pdo.folder / "results" / "whole").trials["epochs_done"]
    after = pdo_search.open_sweep(sweep).trials["epochs_done"]
    assert (after.head(6) >= before).all()
    assert after.sum() > before.sum() + 4
