"""Leaders, counts, and the student against its teacher, from tables alone."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pdo_search.analysis.leaderboard import (
    against,
    best_student,
    causes,
    composite_of,
    leaderboard,
    plain,
    status_counts,
    teacher_of,
)
from pdo_search.analysis.pareto import model_front
from pdo_search.results.schema import TABLES, TRIALS, all_columns


def trials_of(*rows: dict[str, Any]) -> pd.DataFrame:
    names = [column.name for column in all_columns(TRIALS, {})]
    full = [
        {"number": i, "trial_id": f"t{i:04d}", "method": "progressive", "status": "finished"} | row
        for i, row in enumerate(rows)
    ]
    return pd.DataFrame(full, columns=[*names, *sorted({k for r in rows for k in r} - {*names})])


def composites_of(*rows: dict[str, Any]) -> pd.DataFrame:
    full = [{"trial_id": f"t{row['number']:04d}", **row} for row in rows]
    return pd.DataFrame(
        full, columns=[column.name for column in all_columns(TABLES["composites"], {})]
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (pd.NA, None),
        (pd.NaT, None),
        (math.nan, None),
        ("text", "text"),
        (None, None),
    ],
)
def test_cells_become_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_lines_are_jsonable_and_in_order() -> None:
    trials = trials_of(
        {"objective": 0.8, "flops": 10.0, "param.loss.kl": 0.5, "params": 7},
        {"objective": 0.6, "status": "stopped", "epochs_done": 3},
        {"objective": 0.9, "flops": 20.0, "param.loss.kl": 0.1},
        {"status": "failed"},
    )
    entries = leaderboard(trials, "max", 2, "val_accuracy")
    assert [e["trial_id"] for e in json.loads(json.dumps(entries))] == ["t0002", "t0000"]
    assert entries[1]["parameters"] == {"loss.kl": 0.5}
    assert entries[0]["params"] is None
    assert leaderboard(trials, "max", 9, "val_accuracy")[-1]["trial_id"] == "t0001"
    best = best_student(trials, "min", "val_accuracy")
    assert best is not None
    assert best["trial_id"] == "t0000"
    assert best_student(trials.iloc[3:], "max", "val_accuracy") is None


def test_counts_name_every_status() -> None:
    counts = status_counts(trials_of({}, {"status": "infeasible"}, {}))
    assert counts == {
        "running": 0,
        "finished": 2,
        "stopped": 0,
        "paused": 0,
        "failed": 0,
        "infeasible": 1,
        "interrupted": 0,
    }


def test_causes_are_grouped_by_their_first_line() -> None:
    trials = trials_of(
        {"status": "failed", "cause": "Diverged: nan\nmore"},
        {"status": "failed", "cause": "Diverged: nan\nless"},
        {"status": "infeasible", "cause": "params 9 is over the limit 5"},
        {"status": "failed", "cause": None},
        {"status": "stopped", "cause": "not among the best"},
    )
    assert [(c["count"], c["status"], c["cause"]) for c in causes(trials)] == [
        (2, "failed", "Diverged: nan"),
        (1, "infeasible", "params 9 is over the limit 5"),
        (1, "failed", "unknown"),
    ]


def test_a_student_is_measured_against_its_teacher() -> None:
    trials = trials_of(
        {},
        {"teacher_params": 1000, "teacher_flops": 4e6, "teacher_score": 0.98},
    )
    teacher = teacher_of(trials, "val_accuracy")
    assert teacher == {
        "val_accuracy": 0.98,
        "params": 1000,
        "flops": 4e6,
        "latency_ms": None,
    }
    student = {
        "val_accuracy": 0.49,
        "params": 10,
        "flops": 1e6,
        "latency_ms": 3.0,
    }
    assert against(student, teacher, "val_accuracy") == {
        "val_accuracy": 0.5,
        "params": 0.01,
        "flops": 0.25,
        "latency_ms": None,
    }
    assert teacher_of(trials.iloc[:1], "val_accuracy") is None
    assert set(against(student, None, "val_accuracy").values()) == {None}


def test_the_composite_is_the_one_that_was_chosen() -> None:
    composites = composites_of(
        {"number": 0, "mode": "student", "chosen": False, "val_accuracy": 0.5, "val_score": 0.5},
        {
            "number": 0,
            "mode": "cascade",
            "chosen": True,
            "val_accuracy": 0.6,
            "val_score": 0.6,
            "deferred": 0.1,
        },
        {"number": 1, "mode": "ensemble", "chosen": None, "val_accuracy": 0.9, "val_score": 0.9},
    )
    found = composite_of(composites, "t0000", "val_accuracy")
    assert found is not None
    assert (found["mode"], found["val_accuracy"], found["flops"]) == ("cascade", 0.6, None)
    assert composite_of(composites, "t0001", "val_accuracy") is None


def test_the_front_is_of_students_and_composites() -> None:
    trials = trials_of(
        {"val_accuracy": 0.80, "val_score": 0.80, "flops": 10.0, "params": 5},
        {"val_accuracy": 0.80, "val_score": 0.80, "flops": 10.0, "params": 6},
        {"val_accuracy": 0.70, "val_score": 0.70, "flops": 20.0, "params": 7},
        {"val_accuracy": 0.99, "val_score": 0.99, "flops": 1.0, "status": "stopped"},
    )
    composites = composites_of(
        {"number": 0, "mode": "student", "val_accuracy": 0.80, "val_score": 0.80, "flops": 10.0},
        {"number": 0, "mode": "cascade", "val_accuracy": 0.85, "val_score": 0.85, "flops": 15.0},
        {"number": 1, "mode": "ensemble", "val_accuracy": 0.84, "val_score": 0.84, "flops": 90.0},
        {"number": 2, "mode": "teacher", "val_accuracy": 0.90, "val_score": 0.90, "flops": 80.0},
        {"number": 3, "mode": "teacher", "val_accuracy": 1.00, "val_score": 1.00, "flops": 2.0},
    )
    front = model_front(trials, composites, "val_accuracy")
    assert [(m["trial_id"], m["mode"], m["params"]) for m in front] == [
        ("t0000", "student", 5),
        ("t0000", "cascade", None),
        ("t0002", "teacher", None),
    ]
    assert model_front(trials.iloc[3:], composites, "val_accuracy") == []
