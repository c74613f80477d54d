"""A confirmation on a screen: its configurations, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from pdo_search.analysis.answer import percent
from pdo_search.base.screen import plain_text, screen
from pdo_search.cli.cells import count, duration, fitted, fixed_point
from pdo_search.results.schema import Col

__all__ = ["CAUSES_SHOWN", "WIDTH_WITHOUT_TERMINAL", "print_confirmation"]

CAUSES_SHOWN = 3
WIDTH_WITHOUT_TERMINAL = 100


def print_confirmation(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the confirmed configurations and the verdicts.

    Args:
        summary: from ``confirmation_summary``.
        console: as in ``print_sweep``.
    """
    console = console or screen(WIDTH_WITHOUT_TERMINAL)
    if summary["configurations"]:
        console.print(_confirmation(summary, console.width))
        size = summary["configurations"][0][Col.TEST_EXAMPLES]
        said = f"intervals are over seeds, on one test split ({size} examples)"
        teacher = "; one teacher" if summary["teacher"] else ""
        console.print(plain_text(said + teacher), soft_wrap=True)
    for found in summary["causes"][:CAUSES_SHOWN]:
        console.print(plain_text(f"  {found['count']} {found['status']}: {found['cause']}"))
    for sentence in summary["answers"]:
        console.print(plain_text(f"Answer: {sentence}"), soft_wrap=True)
    for difference in summary["differences"]:
        p = difference["p_holm"]
        shown = "" if p is None else f", p {p:.2g}"
        console.print(plain_text(f"Verdict: {difference['verdict']}{shown}"), soft_wrap=True)


def _confirmation(summary: Mapping[str, Any], width: int) -> Table:
    """The teacher, then configurations over fresh seeds, the best by validation first.

    Below a configuration stands its composite. Values are followed by their share of the teacher's;
    size and training time are shown where they fit.
    """
    found = summary["configurations"]
    lines = [
        line for one in found for line in _confirmed(one, summary["metric"] == summary["primary"])
    ]
    if summary["teacher"]:
        lines.insert(0, _full_teacher(summary["teacher"]))
    values = (summary["metric"], summary["test_metric"])
    names = ("method", "trial", *values, "FLOPs", "params", "student")
    table = fitted(names, lines, width, drop=("student", "params"))
    counts = sorted({one["test"]["count"] for one in found})
    seeds = " to ".join(map(str, (counts if len(counts) == 1 else (counts[0], counts[-1]))))
    table.title = f"Confirmed on fresh seeds ({seeds} each): mean ± half of the 95% interval"
    return table


def _full_teacher(teacher: Mapping[str, Any]) -> list[str]:
    """The teacher's line: method, trial, validation, test, FLOPs, params, seconds."""
    return [
        "teacher",
        "",
        fixed_point(teacher["validation"], 4),
        fixed_point(teacher["test"], 4),
        count(teacher[Col.FLOPS]),
        count(teacher[Col.PARAMS]),
        "",
    ]


def _confirmed(found: Mapping[str, Any], by_primary: bool) -> Iterable[list[str]]:
    """A configuration's line and, where it has one, its composite's, with the same columns."""
    yield [
        found[Col.METHOD],
        found[Col.TRIAL_ID],
        _with_interval(found["validation"]),
        _with_share(_with_interval(found["test"]), _mean_share(found["of_teacher"])),
        _with_share(count(found[Col.FLOPS]), (found["of_teacher"] or {}).get(Col.FLOPS)),
        count(found[Col.PARAMS]),
        duration(found[Col.STUDENT_S]),
    ]
    composite = found["composite"]
    if composite is None:
        return
    modes = list(composite["modes"])
    validation = composite["validation_primary"] if by_primary else None
    shares = composite["of_teacher"]
    yield [
        f"+ {modes[0] if len(modes) == 1 else 'composite'}",
        "",
        "-" if validation is None else _with_interval(validation),
        _with_share(_with_interval(composite["test"]), _mean_share(shares)),
        _with_share(count(composite[Col.FLOPS]), (shares or {}).get(Col.FLOPS)),
        "",
        "",
    ]


def _mean_share(of_teacher: Mapping[str, Any] | None) -> float | None:
    share = of_teacher and of_teacher["test"]
    return None if not share else share["mean"]


def _with_share(shown: str, share: float | None) -> str:
    return shown if share is None else f"{shown} ({percent(share)})"


def _with_interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return fixed_point(found["mean"], 4)
    return f"{fixed_point(found['mean'], 4)} ± {(found['high'] - found['low']) / 2:.4f}"
