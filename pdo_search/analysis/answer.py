"""How much of the teacher is kept, and at which part of its cost: one sentence. Pure.

The interval is over the student's seeds; the teacher is the one that there is, measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdo_search.analysis.compare import Configuration, Estimate, tested_metric
from pdo_search.analysis.leaderboard import plain, value_of
from pdo_search.results.schema import Col, better_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Teacher", "answer", "full_teacher", "percent"]


@dataclass(frozen=True)
class Teacher:
    """The full teacher, one model for all runs.

    Attributes:
        validation: the search's metric on validation; None where it was not measured.
        test: the same on test.
        test_primary: the primary metric on test.
        cost: ``params``, ``flops`` and ``latency_ms``.
    """

    validation: float | None
    test: float
    test_primary: float
    cost: Mapping[str, float | None]


def full_teacher(confirmations: pd.DataFrame, metric: str, primary: str) -> Teacher | None:
    """The full teacher as the runs measured it; None where only older versions ran.

    Args:
        confirmations: rows of the table.
        metric: of the search.
        primary: column of the primary metric on validation.
    """
    whole = f"teacher_{tested_metric(primary)}"
    rows = confirmations[confirmations[whole].notna()]
    if rows.empty:
        return None
    row = rows.iloc[-1]
    cost = {
        Col.PARAMS: row[Col.TEACHER_PARAMS],
        Col.FLOPS: row[Col.TEACHER_FLOPS],
        Col.LATENCY_MS: row[Col.TEACHER_LATENCY_MS],
    }
    score = plain(row[Col.TEACHER_SCORE])
    return Teacher(
        validation=None if metric != primary or score is None else value_of(primary, score),
        test=float(row[f"teacher_{tested_metric(metric)}"]),
        test_primary=float(row[whole]),
        cost={name: plain(value) for name, value in cost.items()},
    )


def answer(
    configuration: Configuration, teacher: Teacher, *, best: bool, primary: str
) -> str | None:
    """One sentence: which part of the teacher's test metric is kept, at which part of its cost.

    Args:
        configuration: whose student and composite are measured.
        teacher: the full teacher.
        best: whether it is the best by validation of all that were confirmed.
        primary: column of the primary metric on validation.

    Returns:
        None where the teacher has none to be measured against, or less of the metric is better.
    """
    if better_of(primary) == "min":
        return None
    share = configuration.test_primary.over(teacher.test_primary)
    if share is None or share.count == 0:
        return None
    name = f"{configuration.method} {configuration.trial_id}"
    who = f"the best student, {name}," if best else f"the student of {name}"
    count = configuration.test_primary.count
    mean = f"{configuration.test_primary.mean:.4f} of {teacher.test_primary:.4f}"
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    metric = primary.removeprefix("val_")
    said = (
        f"{who} keeps {_with_half(share)} of the teacher's test {metric} ({mean}, {seeds})"
        f"{_at_cost(plain(configuration.row[Col.FLOPS]), teacher)}"
    )
    combined = configuration.composite
    if combined is None:
        return said
    whole = combined.test_primary.over(teacher.test_primary)
    assert whole is not None
    return f"{said}; its composite {_with_half(whole)}{_at_cost(plain(combined.flops), teacher)}"


def _with_half(share: Estimate) -> str:
    """``97.1 ± 0.3%``; without the interval where there is none."""
    half = "" if share.half is None else f" ± {100 * share.half:.1f}"
    return f"{100 * share.mean:.1f}{half}%"


def _at_cost(flops: float | None, teacher: Teacher) -> str:
    whole = teacher.cost[Col.FLOPS]
    return f" at {percent(flops / whole)} of the FLOPs" if flops is not None and whole else ""


def percent(share: float) -> str:
    """A share of one to two digits that say something: ``0.23%``, ``44%``, ``98.9%``."""
    hundredths = 100 * share
    if 10 <= hundredths < 90 or hundredths >= 110 or hundredths == 0:
        return f"{hundredths:.0f}%"
    return f"{hundredths:.1f}%" if hundredths >= 1 else f"{hundredths:.2g}%"
