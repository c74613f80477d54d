"""What was confirmed, as the `show` and `confirm` commands have it: one JSON-able dictionary.

The numbers are computed in ``compare``; how they look on a screen is known to ``show``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.answer import Teacher, answer, full_teacher
from pdo_search.analysis.compare import (
    Combined,
    Configuration,
    Estimate,
    compared,
    configurations_of,
    tested_metric,
    verdict,
)
from pdo_search.analysis.leaderboard import causes, plain, status_counts
from pdo_search.results.schema import Col

if TYPE_CHECKING:
    from pdo_search.analysis.sweep import Sweep
    from pdo_search.results.sweepfile import SweepInfo

__all__ = ["confirmation_summary", "unconfirmed"]

COSTS = (Col.PARAMS, Col.FLOPS, Col.LATENCY_MS, Col.TEST_EXAMPLES)


def confirmation_summary(sweep: Sweep) -> dict[str, Any] | None:
    """The confirmed configurations and the verdicts, JSON-able; None where nothing was confirmed.

    Returns:
        ``metric``, ``primary`` and ``test_metric``; ``counts`` of runs by status and ``causes``;
        ``teacher``, None where only older versions ran, with ``validation``, ``test``,
        ``test_primary`` and cost; ``configurations``, the best by validation over the fresh seeds
        first, each with
        ``validation``, ``test`` and ``test_primary`` (``count``, ``mean``, ``sd``, ``low``,
        ``high``), ``by_seed``, cost, ``of_teacher`` (``test``, ``test_primary``, ``params``,
        ``flops`` and ``latency_ms`` as shares of the teacher's) and ``composite``, None or with
        ``modes`` (runs by mode), ``deferred``, ``flops`` and the like; ``differences`` of students,
        each with ``first``, ``second``, ``of``, ``p``, ``p_holm``, ``comparisons`` and ``verdict``;
        ``answers``, a sentence on the best student and, where that is another, one on the best of
        the method that the search is about.
    """
    rows, info = sweep.confirmations, sweep.info
    if rows.empty:
        return None
    found = configurations_of(rows, info.metric, info.mode, info.primary)
    tested, teacher = tested_metric(info.metric), full_teacher(rows, info.metric, info.primary)
    return {
        "metric": info.metric,
        "primary": info.primary,
        "test_metric": tested,
        "counts": status_counts(rows),
        "causes": causes(rows),
        "teacher": teacher
        and {
            "validation": teacher.validation,
            "test": plain(teacher.test),
            "test_primary": teacher.test_primary,
            **teacher.cost,
        },
        "configurations": [_entry(one, teacher, info.mode) for one in found],
        "differences": [
            {
                **asdict(difference),
                "of": _interval(difference.of),
                "verdict": verdict(difference, tested),
            }
            for difference in compared(found, info.method, info.mode)
        ],
        "answers": _answers(found, teacher, info),
    }


def _answers(found: Sequence[Configuration], teacher: Teacher | None, info: SweepInfo) -> list[str]:
    """On the first of all, then on the first of a method."""
    if teacher is None or not found:
        return []
    own = next((one for one in found if one.method == info.method), found[0])
    said = [answer(found[0], teacher, best=True, primary=info.primary)]
    if own is not found[0]:
        said.append(answer(own, teacher, best=False, primary=info.primary))
    return [sentence for sentence in said if sentence]


def _entry(configuration: Configuration, teacher: Teacher | None, mode: str) -> dict[str, Any]:
    row, combined = configuration.row, configuration.composite
    cost = {name: plain(row[name]) for name in COSTS}
    return {
        Col.METHOD: configuration.method,
        Col.TRIAL_ID: configuration.trial_id,
        "validation": _interval(configuration.validation),
        "test": _interval(configuration.test),
        "test_primary": _interval(configuration.test_primary),
        "by_seed": configuration.by_seed,
        **cost,
        Col.STUDENT_S: configuration.student_s,
        "of_teacher": _of_teacher(configuration, cost, teacher, mode),
        "composite": combined
        and {
            "modes": dict(combined.modes),
            Col.DEFERRED: plain(combined.deferred),
            Col.FLOPS: plain(combined.flops),
            "validation_primary": _interval(combined.validation),
            "test": _interval(combined.test),
            "test_primary": _interval(combined.test_primary),
            "of_teacher": _of_teacher(combined, {Col.FLOPS: plain(combined.flops)}, teacher, mode),
        },
    }


def _of_teacher(
    model: Configuration | Combined,
    cost: Mapping[str, Any],
    teacher: Teacher | None,
    mode: str,
) -> dict[str, Any] | None:
    """Shares of the teacher's values; a metric of which less is better has none."""
    if teacher is None:
        return None
    whole = teacher.test if mode == "max" else None
    measured = {
        "test": model.test.over(whole),
        "test_primary": model.test_primary.over(teacher.test_primary),
    }
    shares = {
        name: cost[name] / total if cost.get(name) is not None and total else None
        for name, total in teacher.cost.items()
    }
    return {**{name: found and _interval(found) for name, found in measured.items()}, **shares}


def _interval(found: Estimate) -> dict[str, Any]:
    return {name: plain(value) for name, value in asdict(found).items()}


def unconfirmed(summary: Mapping[str, Any] | None, bests: Sequence[str]) -> list[str]:
    """Those of the given trials that no fresh seed has confirmed.

    Args:
        summary: from ``confirmation_summary``.
        bests: trial ids.
    """
    known = {c[Col.TRIAL_ID] for c in summary["configurations"]} if summary else set()
    return [trial for trial in bests if trial not in known]
