"""Trials that break down, hang, run out of memory or lose their process: the sweep goes on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import pdo_search

from ..conftest import Cluster, Pdo
from ..sweeps import SERIAL, WHOLE_TRIALS, assert_free, assert_whole, same_numbers

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(240)]

STUDENTS = """
import os, resource, time, torch
from torch import nn

class Student(nn.Module):
    def __init__(self, num_outputs, kind):
        super().__init__()
        self.kind = kind
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))

    def forward(self, pictures):
        logits = self.net(pictures)
        if not self.training or len(pictures) <= 2:
            return logits
        if self.kind in ("RLIMIT_AS", "RLIMIT_DATA"):
            kind = getattr(resource, self.kind)
            before = resource.getrlimit(kind)
            resource.setrlimit(kind, (8 << 30, before[1]))
            try:
                return logits + torch.zeros(4 << 30).sum()
            finally:
                resource.setrlimit(kind, before)
        if self.kind == "numbers of python":
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, before[1]))
            try:
                bytearray(16 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
        if self.kind == "gpu":
            return logits + torch.zeros(1 << 40, device=logits.device).sum()
        if self.kind == "raises":
            raise RuntimeError("no such operator")
        if self.kind == "hangs":
            time.sleep(3600)
        if self.kind == "nan":
            return logits * float("nan")
        if self.kind == "explodes":
            return logits * 1e38
        return logits

def student(num_outputs, kind):
    return Student(num_outputs, kind)
"""

KINDS = {
    "RLIMIT_AS": ("infeasible", "raised", "out of memory on cpu"),
    "RLIMIT_DATA": ("infeasible", "raised", "out of memory on cpu"),
    "numbers of python": ("infeasible", "raised", "out of memory on cpu"),
    "hangs": ("failed", "timeout", "limits.trial_timeout (45 s)"),
    "raises": ("failed", "raised", "RuntimeError: no such operator"),
    "nan": ("failed", "raised", "Diverged: the loss became nan"),
    "explodes": ("failed", "raised", "Diverged: the loss became"),
    "fine": ("finished", "completed", None),
}


def by_kind(sweep: Path) -> dict[str, dict[str, Any]]:
    trials = pdo_search.open_sweep(sweep).trials.to_dict("records")
    return {str(row["param.student.args.kind"]): row for row in trials}  # type: ignore[misc]


def grid(pdo: Pdo, kinds: list[str], **more: Any) -> Path:
    """An experiment of one trial of each kind, one after the other."""
    (pdo.folder / "students.py").write_text(STUDENTS)
    return pdo.experiment(
        student={"arch": "students:student", "width": None, "args": {"kind": {"choice": kinds}}},
        trial={"num_stages": 1, "temperature": 4.0, "optimizer": {"batch_size": 32}},
        search={
            "sampler": "grid",
            "num_trials": len(kinds),
            "points": [{"student.args.kind": kind} for kind in kinds],
        },
        **more,
    )


@pytest.mark.slow
def test_what_breaks_is_recorded_as_what_it_is(pdo: Pdo, ray_cluster: Cluster) -> None:
    limits = {"trial_timeout": 45}
    resources = {"cpus": 1, "max_concurrent": 2}
    file = grid(pdo, list(KINDS), limits=limits, resources=resources)
    pdo.run("run", str(file), "--address", "auto")
    found = by_kind(pdo.folder / "results" / "tiny")
    assert set(found) == set(KINDS)
    for kind, (status, decision, cause) in KINDS.items():
        row = found[kind]
        assert (row["status"], row["decision"]) == (status, decision), row["cause"]
        assert row["attempt"] == 1, row["cause"]
        assert pd.isna(row["cause"]) if cause is None else (cause in row["cause"])
    assert 45 <= found["hangs"]["wall_s"] < 60
    assert_free(ray_cluster)


@pytest.mark.slow
def test_workers_that_hang_in_a_trial_of_two_are_ended(pdo: Pdo, ray_cluster: Cluster) -> None:
    limits, resources = {"trial_timeout": 60}, {"cpus": 1, "workers": 2}
    file = grid(pdo, ["hangs", "fine"], limits=limits, resources=resources)
    pdo.run("run", str(file), "--address", "auto", timeout=200)
    found = by_kind(pdo.folder / "results" / "tiny")
    assert (found["hangs"]["decision"], found["hangs"]["attempt"]) == ("timeout", 1)
    assert found["fine"]["status"] == "finished"
    assert_free(ray_cluster)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_trial_too_large_for_the_gpu_is_infeasible_and_the_next_one_runs(pdo: Pdo) -> None:
    file = grid(pdo, ["gpu", "fine"], resources={"cpus": 1, "gpus": 1})
    pdo.run("run", str(file))
    found = by_kind(pdo.folder / "results" / "tiny")
    assert found["gpu"]["status"] == "infeasible"
    assert "out of memory on cuda" in found["gpu"]["cause"]
    assert found["fine"]["status"] == "finished"


DATA = """
from pathlib import Path
import torch

def pictures(folder):
    broken, trials = Path(folder, "broken"), Path(folder, "results", "tiny", "trials")
    # Whoever prepares the sweep reads it well, and the first trial does not.
    if trials.exists() and not broken.exists():
        broken.touch()
        raise OSError("the tape broke")
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(600) % 3
    inputs = torch.rand(600, 1, 8, 8, generator=generator) / 4
    inputs[torch.arange(600), 0, targets] += 0.5
    return {"inputs": inputs, "targets": targets}
"""


def test_a_data_source_that_raises_in_one_trial_costs_that_trial(pdo: Pdo) -> None:
    (pdo.folder / "pictures.py").write_text(DATA)
    data = {"source": "pictures:pictures", "args": {"folder": str(pdo.folder)}}
    file = pdo.experiment(**SERIAL, task={"data": data}, search={"num_trials": 2})
    pdo.run("run", str(file), "--address", "auto")
    trials = pdo_search.open_sweep(pdo.folder / "results" / "tiny").trials
    assert trials["status"].tolist() == ["failed", "finished"]
    assert "OSError: the tape broke" in trials["cause"][0]


SLOW = """
import os, time
from torch import nn

class Student(nn.Module):
    def __init__(self, num_outputs, steps, pause):
        super().__init__()
        self.steps, self.pause = steps, pause
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_outputs))

    def forward(self, pictures):
        if self.training and len(pictures) == 16:
            time.sleep(self.pause)
            with open(self.steps, "a") as file:
                file.write(f"{os.getpid()}\\n")
        return self.net(pictures)

def student(num_outputs, steps, pause=0.01):
    return Student(num_outputs, steps, pause)
"""  # noqa: E501


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_numbers(
    pdo: Pdo, ray_cluster: Cluster
) -> None:
    (pdo.folder / "slow.py").write_text(SLOW)
    steps = pdo.folder / "steps"
    student = {"arch": "slow:student", "width": None, "args": {"steps": str(steps)}}
    file = pdo.experiment(**WHOLE_TRIALS, student=student, search={"num_trials": 3})
    pdo.run("run", str(file), "--address", "auto", "--name", "whole")
    whole = len(steps.read_text().splitlines())
    steps.unlink()
    process = pdo.start("run", str(file), "--address", "auto", "--name", "killed")
    sweep = pdo.folder / "results" / "killed"
    killed: dict[int, int] = {}
    while process.poll() is None:
        time.sleep(0.1)
        if not (sweep / "trials" / "part-00000.parquet").exists():
            continue
        trials = pdo_search.open_sweep(sweep).trials
        halfway = trials[(trials["status"] == "running") & (trials["stages_done"] >= 2)]
        for row in halfway.to_dict("records"):
            if row["number"] not in killed:
                killed[row["number"]] = row["pid"]
                os.kill(row["pid"], signal.SIGKILL)
    assert process.returncode == 0, process.communicate()
    assert len(killed) >= 2
    assert_whole(sweep, 3)
    same_numbers(pdo.folder / "results" / "whole", sweep)
    trials = pdo_search.open_sweep(sweep).trials.set_index("number")
    assert (trials.loc[list(killed), "attempt"] == 2).all()
    for number, pid in killed.items():
        assert str(pid) in str(trials.loc[number, "cause"])
    taken = Counter(steps.read_text().splitlines())
    # A stage of a trial and some epochs are trained twice, not whole trials.
    assert whole <= sum(taken.values()) < whole + len(killed) * whole / 3 / 2
    assert_free(ray_cluster)
