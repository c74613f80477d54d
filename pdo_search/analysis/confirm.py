"""What was confirmed, as the `show` and `confirm` commands have it: one JSON-able dictionary.

The numbers are computed in ``compare``; how they look on a screen is known to ``show``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.compare import (
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
    from pdo_search.results.reader import Sweep

__all__ = ["confirmation_summary", "unconfirmed"]

COSTS = (Col.PARAMS, Col.FLOPS, Col.LATENCY_MS, Col.TEST_EXAMPLES)


def confirmation_summary(sweep: Sweep) -> dict[str, Any] | None:
    """The confirmed configurations and the verdicts, JSON-able; None where nothing was confirmed.

    Returns:
        ``metric`` and ``test_metric``; ``counts`` of runs by status and ``causes``;
        ``configurations``, the best by validation over the fresh seeds first, each with
        ``validation`` and ``test`` (``count``, ``mean``, ``sd``, ``low``, ``high``), ``by_seed``
        and cost; ``differences``, each with ``first``, ``second``, ``of``, ``p``, ``p_holm``,
        ``comparisons`` and ``verdict``.
    """
    rows, info = sweep.confirmations, sweep.info
    if rows.empty:
        return None
    found = configurations_of(rows, info.metric, info.mode)
    tested = tested_metric(info.metric)
    return {
        "metric": info.metric,
        "test_metric": tested,
        "counts": status_counts(rows),
        "causes": causes(rows),
        "configurations": [_entry(configuration) for configuration in found],
        "differences": [
            {
                **asdict(difference),
                "of": _interval(difference.of),
                "verdict": verdict(difference, tested),
            }
            for difference in compared(found, info.method, info.mode)
        ],
    }


def _entry(configuration: Configuration) -> dict[str, Any]:
    row = configuration.row
    return {
        Col.METHOD: configuration.method,
        Col.TRIAL_ID: configuration.trial_id,
        "validation": _interval(configuration.validation),
        "test": _interval(configuration.test),
        "by_seed": configuration.by_seed,
        **{name: plain(row[name]) for name in COSTS},
        Col.STUDENT_S: configuration.student_s,
    }


def _interval(found: Estimate) -> dict[str, Any]:
    return {**asdict(found), "mean": plain(found.mean)}


def unconfirmed(summary: Mapping[str, Any] | None, bests: Sequence[str]) -> list[str]:
    """Those of the given trials that no fresh seed has confirmed.

    Args:
        summary: from ``confirmation_summary``.
        bests: trial ids.
    """
    known = {c[Col.TRIAL_ID] for c in summary["configurations"]} if summary else set()
    return [trial for trial in bests if trial not in known]
