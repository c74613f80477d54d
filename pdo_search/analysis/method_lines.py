"""The methods of a sweep beside each other: what the best trial of each reached, and at what cost.

Pure functions from the rows of tables to plain dictionaries. All methods have the same epochs; what
they spent on tuning and on teachers differs, and is stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.leaderboard import entry, plain
from pdo_search.analysis.ranking import finished
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["methods_of"]


def methods_of(
    trials: pd.DataFrame,
    teachers: pd.DataFrame,
    planned: Mapping[str, int],
    mode: str,
    primary: str,
) -> list[dict[str, Any]]:
    """One entry per method, the search's own first.

    Args:
        trials: rows of ``trials``.
        teachers: rows of ``teachers``.
        planned: trials by method.
        mode: ``max`` or ``min``.
        primary: column of the primary metric.

    Returns:
        ``method``; ``planned``, ``trials`` and ``finished``, numbers of trials; ``tuning_epochs``,
        student epochs over all of them; ``best``, None or the best trial's line with ``student_s``
        and ``teachers_s``, the seconds that its student's training and its teachers took, whoever
        built these.
    """
    found = []
    for method, count in planned.items():
        own = trials[trials[Col.METHOD] == method]
        best = _best(finished(own, mode).head(1), teachers, primary)
        found.append(
            {
                Col.METHOD: method,
                "planned": count,
                "trials": len(own),
                "finished": int((own[Col.STATUS] == TrialStatus.FINISHED.value).sum()),
                "tuning_epochs": int(own[Col.EPOCHS_DONE].sum()),
                "best": best,
            }
        )
    return found


def _best(first: pd.DataFrame, teachers: pd.DataFrame, primary: str) -> dict[str, Any] | None:
    """The line of the only row, with its seconds; None where there is no row."""
    if first.empty:
        return None
    row = first.to_dict("records")[0]
    built = teachers[teachers[Col.NUMBER] == row[Col.NUMBER]][Col.BUILD_S]
    seconds = {Col.STUDENT_S: plain(row[Col.STUDENT_S]), "teachers_s": float(built.sum())}
    return {**entry(row, primary), **seconds}
