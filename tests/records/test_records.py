"""Typed records: what their fields say of columns, and rows as plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

import pytest

from pdo_search.records import (
    RECORDS,
    Column,
    CompositeRow,
    ConfirmationRow,
    Cost,
    Measured,
    Part,
    Seconds,
    TrialRow,
    TrialStatus,
    columns_of,
    tables_of,
)
from pdo_search.records.columns import About, Moment

WHOLE = CompositeRow(
    mode="student",
    weight=None,
    threshold=None,
    calibration=None,
    val={"accuracy": 0.5},
    val_score=0.5,
    flops=1.0,
    latency_ms=2.0,
    deferred=0.0,
)


@dataclass(frozen=True)
class Inner(Part):
    at: Annotated[Moment | None, About("UTC", "a time")] = None


@dataclass(frozen=True)
class Outer(Part):
    count: Annotated[int, About("examples", "how many", required=True, better="max")]
    yes: Annotated[bool | None, About("", "whether")]
    word: Annotated[TrialStatus, About("", "a word")]
    inner: Inner | None
    share: Annotated[float | None, About("share", "of what")] = None


def test_a_field_says_once_what_its_column_is() -> None:
    found = columns_of(Outer)
    assert found[0] == Column(
        "examples", "how many", required=True, better="max", name="count", dtype="int64"
    )
    kinds = [(column.name, column.dtype) for column in found if isinstance(column, Column)]
    assert kinds == [
        ("count", "int64"),
        ("yes", "bool"),
        ("word", "string"),
        ("at", "timestamp"),
        ("share", "float64"),
    ]


def test_parts_and_families_are_laid_flat() -> None:
    outer = Outer(3, None, TrialStatus.RUNNING, Inner(1.5))
    known = {"count": 3, "yes": None, "word": "running", "at": 1.5, "share": None}
    assert outer.columns() == known
    assert list(outer.columns()) == list(known)
    row = TrialRow(point={"loss.kl": 2}, val={"a.auc": 0.5}, cost=Cost(10, 20.0, 3.0))
    assert row.columns() == {
        "param.loss.kl": 2,
        "val_a.auc": 0.5,
        "params": 10,
        "flops": 20.0,
        "latency_ms": 3.0,
    }


def test_of_a_row_that_grows_what_is_not_known_is_left_out() -> None:
    assert TrialRow(status=TrialStatus.RUNNING, epochs_done=0).columns() == {
        "status": "running",
        "epochs_done": 0,
    }
    assert WHOLE.columns()["weight"] is None
    assert {record.TABLE for record in RECORDS if record.GROWS} == {"trials", "confirmations"}


def test_rows_of_a_trial_become_one_and_others_stay_apart() -> None:
    tables = tables_of(
        [
            TrialRow(epochs_done=1, model="student"),
            WHOLE,
            ConfirmationRow(test={"accuracy": 0.25}),
            replace(WHOLE, mode="teacher"),
            TrialRow(epochs_done=2),
            ConfirmationRow(composite_test={"accuracy": 0.75}),
        ]
    )
    assert tables["trials"] == [{"epochs_done": 2, "model": "student"}]
    assert [row["mode"] for row in tables["composites"]] == ["student", "teacher"]
    assert tables["confirmations"] == [{"test_accuracy": 0.25, "composite_test_accuracy": 0.75}]
    assert list(tables) == ["trials", "composites", "confirmations"]


METRICS = ("accuracy", "kl", "a.agreement", "nonsense")


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("all", ["val_accuracy", "val_kl", "val_a.agreement"]),
        ("alone", ["val_accuracy"]),
        ("primary", ["val_accuracy"]),
    ],
)
def test_whose_metrics_have_columns(kept: str, expected: list[str]) -> None:
    family = Measured("val_", "on validation", kept=kept)  # type: ignore[arg-type]
    assert [column.name for column in family.columns(METRICS)] == expected


def test_only_what_is_judged_has_a_better_direction() -> None:
    ours = Measured("test_", "on test").column("loss")
    theirs = Measured("teacher_test_", "of the full teacher on test", judged=False).column("loss")
    assert (ours.unit, ours.meaning, ours.better) == ("nats", "mean loss on labels, on test", "min")
    assert theirs.better is None


def test_seconds_add_up() -> None:
    whole = Seconds(teacher_s=1.0, data_s=2.0) + Seconds(data_s=0.5)
    assert whole.columns() == {
        "teacher_s": 1.0,
        "student_s": 0.0,
        "evaluation_s": 0.0,
        "data_s": 2.5,
        "waiting_s": 0.0,
    }


def test_times_are_datetimes_or_numbers() -> None:
    assert Inner(datetime(2026, 1, 1)).columns() == {"at": datetime(2026, 1, 1)}
