"""What is left to do of a sweep, from its tables alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from pdo_search.base.errors import InputError
from pdo_search.config.search import SchedulerConfig
from pdo_search.config.space import Space
from pdo_search.results.schema import TrialStatus, point_of
from pdo_search.search.dominance import costs_of
from pdo_search.search.rungs import Observation
from pdo_search.search.tune.searcher import PastTrial, Requeued, told_state

__all__ = ["Plan", "plan_resume"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a resumed sweep starts from.

    Attributes:
        past: ended trials, not to be run again, and paused ones.
        requeued: cut-off trials, to go on from their checkpoints.
        paused: numbers of the trials that wait to be promoted; what an ended sweep did not promote
            waits again when it is extended.
        observations: what the scheduler had seen, in order.
        num_new: trials still to be suggested.
        end_index: next index of ending.
        latest: the last moment in the tables, epoch seconds.
    """

    past: tuple[PastTrial, ...] = ()
    requeued: tuple[Requeued, ...] = ()
    paused: tuple[int, ...] = ()
    observations: tuple[Observation, ...] = ()
    num_new: int = 0
    end_index: int = 0
    latest: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether a trial has come to its end with a value."""
        return any(told_state(t.status, t.value) is TrialState.COMPLETE for t in self.past)


def plan_resume(
    trials: Iterable[Row],
    epochs: Iterable[Row],
    space: Space,
    *,
    metric: str,
    num_trials: int,
    scheduler: SchedulerConfig,
    stages: Iterable[Row] = (),
    minimize: Sequence[str] = (),
) -> Plan:
    """Plan the rest of a sweep.

    Args:
        trials: rows of the ``trials`` table.
        epochs: rows of ``epochs``.
        space: the dimensions.
        metric: of the search.
        num_trials: trials in all.
        minimize: costs that the search keeps low too.
        scheduler: its clock says which rows it had seen, its kind whether trials pause.
        stages: rows of ``stages``, for the stage clock.

    Raises:
        InputError: a trial's row is none of this space.
    """
    rows = sorted(trials, key=lambda row: int(row["number"]))
    curves: dict[int, dict[int, float]] = {}
    seen: list[tuple[float, Observation]] = []
    heard: dict[tuple[int, int], float] = {}
    # A driver that was killed may have left epochs of a trial whose costs it had not written: the
    # trial goes on, and reports them again.
    costs = {int(row["number"]): costs_of(row, minimize) for row in rows}

    def note(at: float, number: int, time: int, value: float) -> None:
        known = costs.get(number, () if not minimize else None)
        if known is not None:
            seen.append((at, Observation(number, time, value, known)))

    for row in epochs:
        heard[int(row["number"]), int(row["epoch"])] = _time(row, "reported_at")
        value = row.get(metric)
        value = math.nan if value is None else float(value)
        curves.setdefault(int(row["number"]), {})[int(row["epoch"])] = value
        if scheduler.clock == "epoch":
            at = heard[int(row["number"]), int(row["epoch"])]
            note(at, int(row["number"]), int(row["epoch"]), value)
    if scheduler.clock == "stage":
        done: dict[int, int] = {}
        for row in sorted(stages, key=lambda r: (int(r["number"]), int(r["stage"]))):
            number = int(row["number"])
            done[number] = done.get(number, 0) + 1
            value = float(row.get(metric, math.nan))
            at = heard.get((number, int(row["last_epoch"])), 0.0)
            note(at, number, done[number], value)
    waits = (TrialStatus.PAUSED, TrialStatus.STOPPED) if scheduler.pauses else ()
    past, requeued = [], []
    for row in rows:
        number = int(row["number"])
        try:
            point, status = point_of(row, space), TrialStatus(row["status"])
        except (KeyError, ValueError) as error:
            raise InputError(
                f"trial {number} does not belong to the experiment in sweep.json: {error}",
                path="trials",
                remedy="restore the tables, or start another sweep",
            ) from None
        if status in waits:
            status = TrialStatus.PAUSED
        if status.ended or status is TrialStatus.PAUSED:
            curve = curves.get(number, {})
            value = row.get("objective")
            value = None if value is None else float(value)
            past.append(PastTrial(number, point, status, value, curve, costs[number]))
        else:
            requeued.append(Requeued(number, point))
    return Plan(
        past=tuple(past),
        requeued=tuple(requeued),
        paused=tuple(trial.number for trial in past if trial.status is TrialStatus.PAUSED),
        observations=tuple(
            o for _, o in sorted(seen, key=lambda s: (s[0], s[1].number, s[1].time))
        ),
        num_new=max(0, num_trials - len(rows)),
        end_index=1
        + max((int(r["end_index"]) for r in rows if r.get("end_index") is not None), default=-1),
        latest=max(
            [0.0, *heard.values(), *(_time(r, c) for r in rows for c in ("started_at", "ended_at"))]
        ),
    )


def _time(row: Row, column: str) -> float:
    at = row.get(column)
    return float(at.timestamp()) if isinstance(at, datetime) else 0.0
