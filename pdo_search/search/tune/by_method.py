"""Several methods in one sweep: each has a searcher and a scheduler of its own behind Tune's one.

Owns whose turn it is and how trials of a method are counted. A method's searcher numbers its trials
from 0 as if it were alone, so that its draws depend on (seed, method, number within the method);
the sweep's numbers, by which tables and schedulers go, are given out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from ray.tune.search import Searcher

from pdo_search.base.seeds import seed_for
from pdo_search.config.methods import searched
from pdo_search.config.schema import Experiment
from pdo_search.config.search import SearchConfig
from pdo_search.config.space import Space
from pdo_search.results.schema import trial_id
from pdo_search.search.resume import Plan
from pdo_search.search.tune.scheduler import EarlyStopping, Ruling
from pdo_search.search.tune.searcher import OptunaSearcher, PastTrial, StatelessSearcher
from pdo_search.search.tune.waiting import WaitingLine

__all__ = [
    "Counted",
    "SchedulerByMethod",
    "SearcherByMethod",
    "by_method",
    "counted",
    "settings_of",
    "turn",
]


def settings_of(experiment: Experiment, method: str) -> SearchConfig:
    """The sampler's settings of a method: a baseline has its own seed and no given points."""
    search = experiment.search
    if method == experiment.method:
        return search
    sampler = "tpe" if search.sampler == "grid" else search.sampler
    seed = seed_for(search.seed, method)
    return search.model_copy(update={"points": (), "sampler": sampler, "seed": seed})


@dataclass(frozen=True)
class Counted:
    """What a method's searcher starts from, its trials numbered from 0 within the method.

    Attributes:
        plan: past and requeued trials under these numbers.
        numbers: the sweep's number of each, in order.
    """

    plan: Plan
    numbers: tuple[int, ...]


def counted(plan: Plan) -> Counted:
    """A method's plan with its trials numbered within the method."""
    numbers = sorted([t.number for t in plan.past] + [t.number for t in plan.requeued])
    within = {number: position for position, number in enumerate(numbers)}
    return Counted(
        replace(
            plan,
            past=tuple(replace(t, number=within[t.number]) for t in plan.past),
            requeued=tuple(replace(t, number=within[t.number]) for t in plan.requeued),
        ),
        tuple(numbers),
    )


def turn(suggested: Mapping[str, int], planned: Mapping[str, int]) -> str | None:
    """The method that the next new trial is of: the one that is furthest behind its plan.

    So methods are interleaved evenly and end together, whatever their shares; of equals the first.

    Args:
        suggested: trials so far, by method.
        planned: trials in all, by method that has some left; in order of precedence.

    Returns:
        None where no method has trials left.
    """
    return min(planned, key=lambda m: (suggested[m] + 0.5) / planned[m], default=None)


class SearcherByMethod(StatelessSearcher):
    """One searcher per method behind Tune's interface, taking turns.

    A suggestion is a method's own, under the sweep's number and with ``method``. What was cut off
    comes first.

    Attributes:
        searchers: by method.

    Args:
        searchers: by method, in the order of precedence.
        numbers: the sweep's numbers of each method's trials so far; grows with new ones.
        requeued: number and method of the cut-off trials, in the order in which they go on.
        planned: trials in all, by method.
    """

    def __init__(
        self,
        searchers: Mapping[str, OptunaSearcher],
        numbers: Mapping[str, list[int]],
        requeued: Iterable[tuple[int, str]],
        planned: Mapping[str, int],
    ) -> None:
        first = next(iter(searchers.values()))
        super().__init__(metric=first.metric, mode=first.mode)
        self.searchers = dict(searchers)
        self._numbers = numbers
        self._requeued = list(requeued)
        self._planned = {method: planned[method] for method in searchers}
        self._taken = {n for ns in self._numbers.values() for n in ns}
        self._free = 0
        self._method_of: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, ``FINISHED``, or None where a method has nothing yet."""
        if self._requeued:
            _, first = self._requeued.pop(0)
            return self._placed(trial_id, first, self.searchers[first].suggest(trial_id))
        asked, waits = dict(self._planned), False
        while (method := turn(self._counts(asked), asked)) is not None:
            suggestion = self.searchers[method].suggest(trial_id)
            if isinstance(suggestion, dict):
                return self._placed(trial_id, method, suggestion)
            del asked[method]
            if suggestion == Searcher.FINISHED:
                del self._planned[method]
            else:
                waits = True
        return None if waits else str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Pass a report on to the trial's searcher."""
        if trial_id in self._method_of:
            self.searchers[self._method_of[trial_id]].on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass a trial's end on to its searcher."""
        method = self._method_of.pop(trial_id, None)
        if method is not None:
            self.searchers[method].on_trial_complete(trial_id, result, error)

    def _counts(self, methods: Iterable[str]) -> dict[str, int]:
        return {method: len(self._numbers[method]) for method in methods}

    def _placed(self, name: str, method: str, suggestion: Any) -> dict[str, Any]:
        """A method's suggestion under the sweep's number: the first free one, for a new trial."""
        numbers, within = self._numbers[method], suggestion["number"]
        if within == len(numbers):
            # The first that is free: a driver that was killed may have left a hole.
            free = next(n for n in count(self._free) if n not in self._taken)
            numbers.append(free)
            self._taken.add(free)
            self._free = free + 1
        self._method_of[name] = method
        number = numbers[within]
        return {**suggestion, "number": number, "trial_id": trial_id(number), "method": method}


class SchedulerByMethod(WaitingLine):
    """One scheduler per method behind Tune's interface: a trial is compared with its peers alone.

    Attributes:
        schedulers: by method; trials of others all go on.
    """

    def __init__(self, schedulers: Mapping[str, EarlyStopping]) -> None:
        super().__init__()
        self.schedulers = dict(schedulers)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are the experiment's; Tune has none to add."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Tune's question after every report, asked of the trial's own scheduler."""
        own = self.schedulers.get(trial.config["method"])
        if own is None:
            return str(WaitingLine.CONTINUE)
        return own.on_trial_result(tune_controller, trial, result)

    def may_promote(self) -> bool:
        """Whether a paused trial would go on where no trial runs and none is to come."""
        return any(scheduler.may_promote() for scheduler in self.schedulers.values())

    def ruling(self, number: int) -> Ruling | None:
        """What became of a trial by its scheduler; None where it left the trial alone."""
        rulings = (scheduler.ruling(number) for scheduler in self.schedulers.values())
        return next((ruling for ruling in rulings if ruling is not None), None)

    def rung_reached(self, number: int) -> int | None:
        """Milestone of the highest rung that a trial reached; None where there are no rungs."""
        rungs = (scheduler.rung_reached(number) for scheduler in self.schedulers.values())
        return next((rung for rung in rungs if rung is not None), None)


@dataclass(frozen=True)
class _Promoter:
    """A method's scheduler to its searcher, which knows trials by their number in the method."""

    scheduler: EarlyStopping
    numbers: list[int]

    def promote(self, *, closing: bool = False) -> int | None:
        """Take the paused trial that is to go on now; None where none is."""
        number = self.scheduler.promote(closing=closing)
        return None if number is None else self.numbers.index(number)


def by_method(
    experiment: Experiment,
    space: Space,
    plans: Mapping[str, Plan],
    planned: Mapping[str, int],
    *,
    deadline: float,
    prior: Sequence[PastTrial] = (),
) -> tuple[SearcherByMethod, SchedulerByMethod]:
    """Searcher and scheduler of a sweep.

    Args:
        experiment: the sweep's.
        space: all dimensions; a method searches those that matter to it.
        plans: what is left to do, by method in the order of precedence.
        planned: trials in all, by method.
        deadline: moment of the monotonic clock after which nothing new is suggested.
        prior: what earlier sweeps tell of the search's own method.
    """
    search = experiment.search
    schedulers = {
        method: EarlyStopping(
            experiment.scheduler,
            metric=search.metric,
            mode=search.mode,
            seed=search.seed,
            minimize=search.minimize,
            past=plan.observations,
            paused=plan.paused,
            answered=plan.answered,
        )
        for method, plan in plans.items()
    }
    starts = {method: counted(plan) for method, plan in plans.items()}
    numbers = {method: list(start.numbers) for method, start in starts.items()}
    searchers = {
        method: OptunaSearcher(
            searched(space, method),
            settings_of(experiment, method),
            num_new=start.plan.num_new,
            past=start.plan.past,
            requeued=start.plan.requeued,
            deadline=deadline,
            prior=prior if method == experiment.method else (),
            promoter=_Promoter(schedulers[method], numbers[method])
            if experiment.scheduler.pauses
            else None,
        )
        for method, start in starts.items()
    }
    requeued = sorted(
        (numbers[method][again.number], method)
        for method, start in starts.items()
        for again in start.plan.requeued
    )
    return (
        SearcherByMethod(searchers, numbers, requeued, planned),
        SchedulerByMethod(schedulers),
    )
