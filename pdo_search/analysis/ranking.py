"""Which trial is better: pure functions on the rows of ``trials``.

Knows the meaning of columns, not where tables come from or how they are shown.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from pdo_search.base.errors import InputError
from pdo_search.results.schema import Col, TrialStatus, better_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["finished", "non_dominated", "pareto_front", "ranked"]


OPEN = [status.value for status in TrialStatus if not status.ended]


def finished(trials: pd.DataFrame, mode: str) -> pd.DataFrame:
    """The trials that trained to their end and have an objective, best first.

    Of equals the cheaper one is first, then the earlier one.

    Args:
        trials: rows of the ``trials`` table.
        mode: ``max`` or ``min``.
    """
    kept = trials[
        (trials[Col.STATUS] == TrialStatus.FINISHED.value) & trials[Col.OBJECTIVE].notna()
    ]
    return kept.sort_values(
        [Col.OBJECTIVE, Col.FLOPS, Col.NUMBER],
        ascending=[mode == "min", True, True],
        ignore_index=True,
    )


def ranked(trials: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Finished trials, best first, and below them those that were stopped, wait or run.

    These are ordered by how far they came, then by what they had reached there: an objective after
    two epochs says little beside one after twelve. Of those that may still go on, only what has an
    objective is there.
    """
    import pandas as pd

    best = finished(trials, mode)
    open_ones = trials[Col.STATUS].isin(OPEN) & trials[Col.OBJECTIVE].notna()
    stopped = trials[Col.STATUS] == TrialStatus.STOPPED.value
    others = trials[stopped | open_ones].sort_values(
        [Col.EPOCHS_DONE, Col.OBJECTIVE, Col.NUMBER], ascending=[False, mode == "min", True]
    )
    if best.empty or others.empty:
        return (others if best.empty else best).reset_index(drop=True)
    return pd.concat([best, others], ignore_index=True)


def pareto_front(trials: pd.DataFrame, x: str, y: str, mode: str) -> pd.DataFrame:
    """The finished trials that none other beats in both columns, best in ``x`` first.

    Args:
        trials: rows of the ``trials`` table.
        x: a column with a better direction, such as ``flops``.
        y: another, such as ``val_accuracy``.
        mode: of the search, ``max`` or ``min``.

    Raises:
        InputError: a column is unknown, or neither direction of it is better.
    """
    signs = [1 if _direction(name, trials) == "max" else -1 for name in (x, y)]
    candidates = finished(trials, mode).dropna(subset=[x, y])
    points = candidates[[x, y]].to_numpy(dtype="float64") * signs
    front = candidates[non_dominated(points)]
    return front.sort_values(
        [x, y], ascending=[signs[0] < 0, signs[1] < 0], kind="stable", ignore_index=True
    )


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other point dominates; equal points do not dominate each other.

    Args:
        points: (N, 2), higher is better in both, no NaN.

    Returns:
        (N,) mask, in O(N log N).
    """
    import numpy as np

    kept = np.zeros(len(points), dtype=bool)
    best, best_at = -np.inf, np.nan
    for i in np.lexsort((-points[:, 1], -points[:, 0])):
        x, y = points[i]
        if y > best or (y == best and x == best_at):
            kept[i] = True
            best, best_at = y, x
    return kept


def _direction(name: str, trials: pd.DataFrame) -> Literal["max", "min"]:
    direction = better_of(name)
    if direction is not None and name in trials.columns:
        return direction
    axes = [str(column) for column in trials.columns if better_of(str(column))]
    near = difflib.get_close_matches(name, axes, n=1)
    raise InputError(
        f"no axis of a Pareto front: {name!r} is "
        + ("neither better high nor low" if name in trials.columns else "no column of trials"),
        remedy=f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(axes)}",
    )
