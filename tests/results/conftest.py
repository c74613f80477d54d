"""A small sweep on disk, written as the recorder writes one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdo_search.results.schema import Type, trial_id
from pdo_search.results.sweepfile import SweepInfo, write_sweep_file
from pdo_search.results.writer import TableWriter

PARAMS: dict[str, Type] = {
    "temperature": "float64",
    "num_stages": "int64",
    "teacher_order": "string",
    "curriculum.adaptive": "bool",
}


def sweep_info(**changes: Any) -> SweepInfo:
    values: dict[str, Any] = {
        "name": "digits",
        "given": {"name": "digits"},
        "resolved": {"search": {"seed": 3}, "task": {"seed": 0}},
        "file": "experiments/digits.yaml",
        "base_dir": "experiments",
        "metric": "val_accuracy",
        "mode": "max",
        "num_trials": 8,
        "store": "results/.store",
    }
    return SweepInfo(**{**values, **changes})


def trial_row(number: int, **columns: Any) -> dict[str, Any]:
    """A finished trial."""
    values: dict[str, Any] = {
        "trial_id": trial_id(number),
        "number": number,
        "method": "progressive",
        "status": "finished",
        "decision": "completed",
        "attempt": 1,
        "seed": 3,
        "param.temperature": 1.0 + number,
        "param.num_stages": number % 4,
        "param.teacher_order": "descending",
        "param.curriculum.adaptive": number % 2 == 0,
        "epochs_done": 12,
        "objective": 0.5 + number / 100,
        "val_accuracy": 0.5 + number / 100,
        "val_score": 0.5 + number / 100,
        "params": 1000 * (number + 1),
        "flops": 1e6 * (number + 1),
        "started_at": time.time(),
    }
    return {**values, **columns}


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """Write a sweep with the given rows of ``trials``; its directory."""

    def make(*rows: dict[str, Any], **info: Any) -> Path:
        sweep = tmp_path / "sweep"
        write_sweep_file(sweep, sweep_info(**info))
        writer = TableWriter(sweep, PARAMS)
        for row in rows:
            writer.upsert("trials", row)
        writer.flush()
        return sweep

    return make
