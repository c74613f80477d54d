"""The accuracy/cost front to choose a model from: students, and composites where they do better.

Pure. ``Sweep.pareto`` has the front of trials by any two columns; this one is of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pdo_search.analysis.leaderboard import plain
from pdo_search.analysis.ranking import non_dominated
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STUDENT", "model_front"]

STUDENT = "student"
"""Mode of a front's entry that is a student alone."""


def model_front(
    trials: pd.DataFrame, composites: pd.DataFrame, primary: str
) -> list[dict[str, Any]]:
    """The models of finished trials that none other beats in both FLOPs and primary metric.

    Args:
        trials: rows of ``trials``.
        composites: rows of ``composites``.
        primary: column of the primary metric.

    Returns:
        Cheapest first: ``trial_id``, ``mode``, the primary metric, ``flops``, ``latency_ms``,
        ``method`` and ``params`` (of a student alone). Of equal models the earliest trial's stands
        for all.
    """
    import pandas as pd

    finished = trials[trials[Col.STATUS] == TrialStatus.FINISHED.value]
    students = finished.assign(**{Col.MODE: STUDENT})
    combined = composites[
        composites[Col.NUMBER].isin(finished[Col.NUMBER]) & (composites[Col.MODE] != STUDENT)
    ]
    names = [Col.NUMBER, Col.TRIAL_ID, Col.MODE, primary, Col.VAL_SCORE, Col.FLOPS, Col.LATENCY_MS]
    parts = [part[names] for part in (students, combined) if not part.empty]
    if not parts:
        return []
    params = dict(zip(finished[Col.TRIAL_ID], finished[Col.PARAMS], strict=True))
    methods = dict(zip(finished[Col.TRIAL_ID], finished[Col.METHOD], strict=True))
    models = pd.concat(parts).dropna(subset=[Col.FLOPS, Col.VAL_SCORE])
    models = models.sort_values([Col.FLOPS, Col.NUMBER], kind="stable")
    models = models.drop_duplicates([Col.FLOPS, Col.VAL_SCORE])
    points = models[[Col.FLOPS, Col.VAL_SCORE]].to_numpy(dtype="float64") * [-1.0, 1.0]
    front = (
        models[non_dominated(points)].drop(columns=[Col.NUMBER, Col.VAL_SCORE]).to_dict("records")
    )
    return [
        {str(name): plain(value) for name, value in model.items()}
        | {Col.METHOD: plain(methods.get(model[Col.TRIAL_ID]))}
        | {Col.PARAMS: plain(params[model[Col.TRIAL_ID]]) if model[Col.MODE] == STUDENT else None}
        for model in front
    ]
