"""A search without training: real searcher and scheduler objects on replayed learning curves.

Owns virtual time: workers that take an epoch each, in the order in which they would end, with the
calls that Tune makes, in Tune's order. Knows neither Tune nor how searcher and scheduler decide;
where curves come from is ``surrogate``, or whatever else has two methods.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Curves", "Moment", "compute_to_reach", "simulate", "value_at"]

Point = Mapping[str, Any]


class Curves(Protocol):
    """What training would have shown."""

    def observed(self, point: Point) -> Sequence[float]:
        """The metric after each epoch of the budget, as one run shows it; higher is better."""

    def truth(self, point: Point) -> float:
        """The metric at full budget that a rerun is expected to reach."""


@dataclass(frozen=True)
class Moment:
    """The search after a report.

    Attributes:
        epochs: trained by then, over all workers.
        truth: expected value at full budget of the configuration that the search would return: of
            the trials that have come farthest, the one with the best last value. So a search that
            picks a lucky one is charged for it.
    """

    epochs: int
    truth: float


@dataclass(frozen=True, eq=False)
class _Trial:
    """What Tune's schedulers look at of a trial."""

    trial_id: str
    config: Any
    number: Any


@dataclass
class _Run:
    """A trial in virtual time, over all its attempts; ``done`` epochs were trained."""

    point: Point
    curve: Sequence[float]
    done: int = 0


@dataclass
class _State:
    """What the event loop keeps."""

    runs: dict[Any, _Run] = field(default_factory=dict)
    spent: int = 0
    incumbent: tuple[int, float] = (0, -math.inf)
    truth: float = -math.inf


def simulate(
    searcher: Any,
    scheduler: Any,
    curves: Curves,
    *,
    metric: str,
    workers: int,
    budget: int,
    point_of: Callable[[Mapping[str, Any]], Point] = lambda config: config["point"],
) -> list[Moment]:
    """Run a search until its budget of epochs is used, or it has ended.

    Args:
        searcher: with Tune's ``suggest``, ``on_trial_result`` and ``on_trial_complete``.
        scheduler: with Tune's ``on_trial_add``, ``on_trial_result`` and ``on_trial_complete``.
        curves: what training shows.
        metric: what the curves are called in a result.
        workers: trials at once; each takes an epoch in one unit of time.
        budget: epochs in all.
        point_of: the point in a suggestion.

    Returns:
        One moment per trained epoch.
    """
    names = itertools.count()
    state, moments = _State(), list[Moment]()
    events: list[tuple[float, int, Any]] = []

    def start(now: float) -> bool:
        """Give a free worker a trial; whether there was one."""
        name = f"{next(names):06d}"
        config = searcher.suggest(name)
        if not isinstance(config, dict):
            return False
        number = config.get("number", name)
        if number not in state.runs:
            point = point_of(config)
            state.runs[number] = _Run(point, curves.observed(point))
        trial = _Trial(name, config, number)
        scheduler.on_trial_add(None, trial)
        run = state.runs[number]
        for epoch in range(1, run.done + 1):
            if not report(trial, epoch):
                return True
        heapq.heappush(events, (now + 1, next(names), trial))
        return True

    def report(trial: Any, epoch: int) -> bool:
        """Pass an epoch's result on, as Tune does; whether the trial goes on."""
        run = state.runs[trial.number]
        ended = epoch == len(run.curve)
        result = {
            metric: run.curve[epoch - 1],
            "epoch": epoch,
            "training_iteration": epoch,
            "stages_done": int(ended),
            "stage_end": ended,
            "ended": ended,
            **({"status": "finished"} if ended else {}),
        }
        stops = scheduler.on_trial_result(None, trial, result) == "STOP"
        if not stops:
            searcher.on_trial_result(trial.trial_id, result)
        if stops or ended:
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(trial.trial_id, result=result)
        return not (stops or ended)

    def observe(run: _Run) -> None:
        """One more epoch is trained."""
        run.done += 1
        state.spent += 1
        seen = (run.done, run.curve[run.done - 1])
        if seen > state.incumbent:
            state.incumbent, state.truth = seen, curves.truth(run.point)
        moments.append(Moment(state.spent, state.truth))

    while len(events) < workers and start(0.0):
        continue
    while events and state.spent < budget:
        now, _, trial = heapq.heappop(events)
        run = state.runs[trial.number]
        observe(run)
        if report(trial, run.done):
            heapq.heappush(events, (now + 1, next(names), trial))
        while len(events) < workers and start(now):
            continue
    return moments


def value_at(moments: Sequence[Moment], epochs: int) -> float:
    """The truth of what the search would return once it has spent as many epochs."""
    found = -math.inf
    for moment in moments:
        if moment.epochs > epochs:
            break
        found = moment.truth
    return found


def compute_to_reach(moments: Sequence[Moment], target: float) -> float:
    """Epochs after which the search would first return a configuration this good; infinite where
    it never would."""
    return next((float(m.epochs) for m in moments if m.truth >= target), math.inf)
