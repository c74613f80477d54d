"""Who leads: trials in order, counts, and the best student against its teacher.

Pure functions from the rows of tables to plain dictionaries, JSON-able, a missing value being None.
Knows nothing of files and screens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.ranking import finished, ranked
from pdo_search.config.metrics import score_of
from pdo_search.results.schema import PARAM, Col, TrialStatus, better_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "against",
    "best_composite",
    "best_student",
    "causes",
    "composite_of",
    "entry",
    "leaderboard",
    "plain",
    "status_counts",
    "teacher_of",
    "value_of",
]

ENTRY = (
    Col.TRIAL_ID,
    Col.METHOD,
    Col.STATUS,
    Col.OBJECTIVE,
    Col.PARAMS,
    Col.FLOPS,
    Col.LATENCY_MS,
    Col.EPOCHS_DONE,
    Col.WALL_S,
)
COST = (Col.PARAMS, Col.FLOPS, Col.LATENCY_MS)
TEACHER_COST = (Col.TEACHER_PARAMS, Col.TEACHER_FLOPS, Col.TEACHER_LATENCY_MS)
UNSUCCESSFUL = (TrialStatus.FAILED.value, TrialStatus.INFEASIBLE.value)

Entry = dict[str, Any]
Row = Mapping[Hashable, Any]


def plain(value: Any) -> Any:
    """A cell as JSON has it: no NumPy, and None for what is missing or infinite."""
    value = value.item() if hasattr(value, "item") else value
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    if missing or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def entry(row: Row, primary: str) -> Entry:
    """A trial's line: its main columns, that of the primary metric among them, and ``parameters``
    by path."""
    params = {
        str(name).removeprefix(PARAM): plain(value)
        for name, value in row.items()
        if str(name).startswith(PARAM)
    }
    return {**{name: plain(row[name]) for name in (*ENTRY, primary)}, "parameters": params}


def leaderboard(trials: pd.DataFrame, mode: str, n: int, primary: str) -> list[Entry]:
    """The n first trials: finished ones, best first, then the others by how far they came."""
    return [entry(row, primary) for row in ranked(trials, mode).head(n).to_dict("records")]


def status_counts(trials: pd.DataFrame) -> dict[str, int]:
    """Number of trials of every status."""
    counts = Counter(trials[Col.STATUS])
    return {status.value: counts[status.value] for status in TrialStatus}


def causes(trials: pd.DataFrame) -> list[Entry]:
    """Why trials failed or were infeasible: ``status``, ``cause``, ``count``; most frequent first.

    A cause is its first line.
    """
    rows = trials[trials[Col.STATUS].isin(UNSUCCESSFUL)]
    pairs = zip(rows[Col.STATUS], rows[Col.CAUSE], strict=True)
    counts = Counter((status, _first_line(cause)) for status, cause in pairs)
    return [
        {"status": status, "cause": cause, "count": count}
        for (status, cause), count in counts.most_common()
    ]


def _first_line(text: Any) -> str:
    lines = text.strip().splitlines() if isinstance(text, str) else []
    return lines[0] if lines else "unknown"


def teacher_of(trials: pd.DataFrame, primary: str) -> Entry | None:
    """Primary metric and cost of the full teacher; None before any trial has reported."""
    known = trials.dropna(subset=[Col.TEACHER_PARAMS])
    if known.empty:
        return None
    row = known.iloc[0]
    score = plain(row[Col.TEACHER_SCORE])
    value = None if score is None else value_of(primary, score)
    cost = {name: plain(row[own]) for name, own in zip(COST, TEACHER_COST, strict=True)}
    return {primary: value, **cost}


def value_of(primary: str, score: float) -> float:
    """The primary metric, under its column's name, that a score stands for."""
    return score_of(primary.removeprefix("val_"), score)


def best_student(trials: pd.DataFrame, mode: str, primary: str) -> Entry | None:
    """The best finished trial's line, with where its models are; None where none has finished."""
    candidates = finished(trials, mode)
    if candidates.empty:
        return None
    row = candidates.head(1).to_dict("records")[0]
    places = {name: plain(row[name]) for name in (Col.MODEL, Col.COMPOSITE)}
    return {**entry(row, primary), **places}


def composite_of(composites: pd.DataFrame, trial_id: str, primary: str) -> Entry | None:
    """The composite that a trial chose: ``mode``, primary metric, cost; None where it made none."""
    chosen = _chosen(composites)
    return _composite(chosen[chosen[Col.TRIAL_ID] == trial_id], primary)


def best_composite(composites: pd.DataFrame, primary: str) -> Entry | None:
    """The best of the composites that trials chose, of equal ones the cheapest.

    As ``composite_of``; None where no trial made one.
    """
    order = [Col.VAL_SCORE, Col.FLOPS, Col.NUMBER]
    ranked_ones = _chosen(composites).sort_values(order, ascending=[False, True, True])
    return _composite(ranked_ones, primary)


def _chosen(composites: pd.DataFrame) -> pd.DataFrame:
    return composites[composites[Col.CHOSEN].fillna(False).astype(bool)]


def _composite(rows: pd.DataFrame, primary: str) -> Entry | None:
    """What is told of the first row."""
    if rows.empty:
        return None
    names = (
        Col.TRIAL_ID,
        Col.MODE,
        primary,
        Col.FLOPS,
        Col.LATENCY_MS,
        Col.DEFERRED,
        Col.WITHIN_BUDGET,
    )
    return {name: plain(rows.iloc[0][name]) for name in names}


def against(
    model: Mapping[str, Any], teacher: Mapping[str, Any] | None, primary: str
) -> dict[str, float | None]:
    """Primary metric and cost of a model as shares of the teacher's: 0.01 is a hundredth.

    A metric of which less is better has no share.
    """
    ratios: dict[str, float | None] = {}
    higher = better_of(primary) == "max"
    for name in (primary, *COST):
        value, whole = model.get(name), (teacher or {}).get(name)
        if name == primary and not higher:
            whole = None
        ratios[name] = value / whole if value is not None and whole else None
    return ratios
