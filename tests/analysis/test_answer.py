"""How much of the teacher is kept: numbers by hand, in words, and what older versions lack."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from pdo_search.analysis.answer import answer, full_teacher
from pdo_search.analysis.compare import configurations_of
from pdo_search.results.schema import TABLES, all_columns

PRIMARY = "val_accuracy"
TEACHER = {
    "teacher_score": 0.99,
    "teacher_test_accuracy": 0.8,
    "teacher_test_f1": 0.5,
    "teacher_flops": 1000.0,
    "teacher_params": 50,
}
COMPOSITE = {"composite_mode": "cascade", "composite_flops": 100.0, "composite_deferred": 0.1}


def rows_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """Runs of one configuration with seeds 1, 2, …"""
    full = [
        {
            "number": 4, "trial_id": "t0004", "method": "progressive", "seed": seed,
            "status": "finished", "student_s": 1.0, "flops": 10.0, "val_accuracy": 0.5, **row,
        }
        for seed, row in enumerate(rows, start=1)
    ]  # fmt: skip
    return pd.DataFrame(full, columns=[c.name for c in all_columns(TABLES["confirmations"], {})])


def said(rows: pd.DataFrame, *, best: bool = True) -> str | None:
    teacher = full_teacher(rows, "val_accuracy", PRIMARY)
    assert teacher is not None
    return answer(
        configurations_of(rows, "val_accuracy", "max", PRIMARY)[0],
        teacher,
        best=best,
        primary=PRIMARY,
    )


def test_the_teacher_is_read_from_any_run_that_measured_it() -> None:
    rows = rows_of({}, {**TEACHER, "test_accuracy": 0.6})
    found = full_teacher(rows, "val_accuracy", PRIMARY)
    assert found is not None
    assert (found.validation, found.test, found.test_primary) == (0.99, 0.8, 0.8)
    assert found.cost == {"params": 50, "flops": 1000.0, "latency_ms": None}
    other = full_teacher(rows, "val_f1", "val_accuracy")
    assert other is not None
    assert (other.validation, other.test, other.test_primary) == (None, 0.5, 0.8)
    assert full_teacher(rows_of({"test_accuracy": 0.6}), "val_accuracy", PRIMARY) is None


def test_a_student_and_its_composite_are_told_as_shares() -> None:
    # By hand: mean 0.6 and sd 0.04 of three, t(0.975, 2) = 4.3027: half 0.09937, over 0.8.
    tested = [
        {**TEACHER, **COMPOSITE, "test_accuracy": a, "composite_test_accuracy": 0.76}
        for a in (0.56, 0.6, 0.64)
    ]
    assert said(rows_of(*tested)) == (
        "the best student, progressive t0004, keeps 75.0 ± 12.4% of the teacher's test accuracy"
        " (0.6000 of 0.8000, 3 seeds) at 1.0% of the FLOPs; its composite 95.0% at 10% of the FLOPs"
    )


def test_without_a_composite_or_an_interval_less_is_said() -> None:
    assert said(rows_of({**TEACHER, "test_accuracy": 0.6}), best=False) == (
        "the student of progressive t0004 keeps 75.0% of the teacher's test accuracy"
        " (0.6000 of 0.8000, 1 seed) at 1.0% of the FLOPs"
    )


def test_a_teacher_without_accuracy_is_no_measure() -> None:
    assert said(rows_of({**TEACHER, "teacher_test_accuracy": 0.0, "test_accuracy": 0.6})) is None


def test_composites_count_over_the_runs_that_have_one() -> None:
    rows = rows_of(
        {"test_accuracy": 0.5},
        {**COMPOSITE, "test_accuracy": 0.6, "composite_test_accuracy": 0.7, "composite_test_f1": 0},
        {
            **COMPOSITE, "test_accuracy": 0.6, "composite_test_accuracy": 0.8,
            "composite_test_f1": 0.5, "composite_mode": "ensemble", "composite_flops": 200.0,
        },
    )  # fmt: skip
    (found,) = configurations_of(rows, "val_accuracy", "max", PRIMARY)
    assert found.test.count == 3
    assert found.composite is not None
    assert found.composite.modes == {"cascade": 1, "ensemble": 1}
    assert (found.composite.test.count, found.composite.flops) == (2, 150.0)
    assert found.composite.test.mean == pytest.approx(0.75)
    (by_f1,) = configurations_of(
        rows.assign(test_f1=0.1, val_f1=0.1), "val_f1", "max", "val_accuracy"
    )
    assert by_f1.composite is not None
    assert by_f1.composite.test.mean == pytest.approx(0.25)
    assert by_f1.composite.test_primary.mean == pytest.approx(0.75)
    (none,) = configurations_of(
        rows_of({"test_accuracy": 0.5}), "val_accuracy", "max", "val_accuracy"
    )
    assert none.composite is None
