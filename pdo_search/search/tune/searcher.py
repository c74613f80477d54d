"""The sampler behind Tune: Optuna asked and told, with outcomes as they are.

Why not Ray's ``OptunaSearch`` (read in Ray 2.60): it tells an early-stopped trial as COMPLETE with
its partial value, so that TPE mixes budgets; it leaves a trial without a metric RUNNING for ever;
and its state cannot be rebuilt from results. Here a stopped trial is told PRUNED with its
intermediate values, a failed one FAIL, an infeasible one carries a violated constraint, a
configuration is never run twice, and every draw depends on (seed, trial number) alone.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from pdo_search.base.seeds import seed_for
from pdo_search.config.search import SearchConfig
from pdo_search.config.space import Space
from pdo_search.results.schema import TrialStatus, trial_id
from pdo_search.search.dominance import COSTS, costs_of, scalarised
from pdo_search.search.history import BoundedHistory
from pdo_search.search.optuna_space import all_points, distributions
from pdo_search.search.runs import Run

__all__ = [
    "OptunaSearcher",
    "PastTrial",
    "Promoter",
    "Requeued",
    "RunSearcher",
    "StatelessSearcher",
]

TRIES = 20
LARGEST_FINITE_SPACE = 10_000
FEASIBILITY = "feasible"


@dataclass(frozen=True)
class PastTrial:
    """A trial that has ended, as the tables have it.

    Attributes:
        number: of the trial.
        point: value by dimension.
        status: what became of it.
        value: last value of the metric; None where it has none.
        curve: metric by epoch.
        costs: of the student that the search keeps low too; None where they are not known.
    """

    number: int
    point: dict[str, Any]
    status: TrialStatus
    value: float | None
    curve: dict[int, float]
    costs: tuple[float, ...] | None = ()


@dataclass(frozen=True)
class Requeued:
    """A trial that was cut off and is to go on, under its own number."""

    number: int
    point: dict[str, Any]


class Promoter(Protocol):
    """Who knows which paused trial goes on."""

    def promote(self, *, closing: bool = False) -> int | None:
        """Take the paused trial that is to go on now; None where none is.

        Args:
            closing: no trial runs and none is to come.
        """


class StatelessSearcher(Searcher):
    """Tune's searcher, of which Tune keeps nothing: a resumed sweep is rebuilt from the tables."""

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class RunSearcher(StatelessSearcher):
    """Suggests the given runs, in order; learns nothing.

    A suggestion is as ``OptunaSearcher``'s, with ``method`` and ``seed``; ``trial_id`` is the run's
    own name.
    """

    def __init__(self, runs: Iterable[Run], *, metric: str, mode: str) -> None:
        super().__init__(metric=metric, mode=mode)
        self._left = deque(runs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next run's configuration, or ``FINISHED``."""
        if not self._left:
            return str(Searcher.FINISHED)
        run = self._left.popleft()
        return {**asdict(run), "trial_id": run.name}


class OptunaSearcher(StatelessSearcher):
    """Points for Tune's trials.

    A suggestion is ``{"number": int, "trial_id": str, "point": {path: value}}``.

    Args:
        space: the dimensions.
        config: sampler and seed.
        num_new: how many new trials to suggest, after the requeued ones.
        past: ended trials to learn from.
        requeued: trials to suggest first, as they were.
        deadline: moment of the monotonic clock after which nothing new is suggested.
        promoter: of paused trials, which are suggested again before new ones; None where trials do
            not pause.
        prior: trials of earlier sweeps to learn from. They take no number, and their points may be
            suggested again: a sweep has a model only of what it ran itself.
    """

    def __init__(
        self,
        space: Space,
        config: SearchConfig,
        *,
        num_new: int,
        past: Iterable[PastTrial] = (),
        requeued: Iterable[Requeued] = (),
        deadline: float = math.inf,
        promoter: Promoter | None = None,
        prior: Iterable[PastTrial] = (),
    ) -> None:
        super().__init__(metric=config.metric, mode=config.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._config = config
        self._distributions = distributions(space)
        direction = "maximize" if config.mode == "max" else "minimize"
        self._history = BoundedHistory(direction)
        self.study = optuna.create_study(direction=direction, storage=self._history)
        self._seen: set[str] = set()
        self._running: dict[str, Trial] = {}
        self._values: dict[str, float | None] = {}
        self._epochs: dict[str, int] = {}
        self._outcomes: dict[str, TrialStatus] = {}
        self._promoter = promoter
        self._studied: dict[int, int] = {}
        self._requeued = deque(requeued)
        self._left = num_new
        self._deadline = deadline
        self._next = 0
        for trial in prior:
            self._tell(trial)
        for trial in sorted(past, key=lambda t: t.number):
            self._remember(trial)
        for waiting in self._requeued:
            self._seen.add(_key(waiting.point))
            self._next = max(self._next, waiting.number + 1)
        self._points = deque(p for p in config.points if _key(p) not in self._seen)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, ``FINISHED``, or None for nothing yet.

        A cut-off trial goes first, then a promoted one, then a new one. Nothing yet: what runs may
        make a paused trial promotable.
        """
        if self._requeued:
            again = self._requeued.popleft()
            return self._start(trial_id, again.number, self._fixed(again.point), again.point)
        if time.monotonic() > self._deadline:
            return str(Searcher.FINISHED)
        if promoted := self._promoted(trial_id):
            return promoted
        asked = self._ask(self._next) if self._left > 0 else None
        if asked is not None:
            self._left -= 1
            self._next += 1
            self._seen.add(_key(asked.params))
            return self._start(trial_id, self._next - 1, asked, asked.params)
        self._left = 0
        if self._promoter is None:
            return str(Searcher.FINISHED)
        if self._running:
            return None
        return self._promoted(trial_id, closing=True) or str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Pass an epoch's value on as an intermediate value."""
        trial = self._running.get(trial_id)
        if trial is None:
            return
        if "status" in result:
            self._outcomes[trial_id] = TrialStatus(result["status"])
        minimize = self._config.minimize
        # The first ones, as in the tables: a trial that goes on measures its latency again.
        if minimize and COSTS not in trial.user_attrs and (costs := costs_of(result, minimize)):
            trial.set_user_attr(COSTS, costs)
        value, epoch = result.get(self._config.metric), result.get("epoch")
        if value is not None and epoch is not None:
            self._values[trial_id] = value
            # A trial that goes on reports its past again.
            if math.isfinite(value) and epoch > self._epochs.get(trial_id, 0):
                trial.report(value, step=int(epoch))
                self._epochs[trial_id] = int(epoch)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna what became of a trial.

        Tune does not pass on the result at which the scheduler stopped a trial; it comes here.
        """
        if result is not None:
            self.on_trial_result(trial_id, result)
        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        value = self._values.pop(trial_id, None)
        self._epochs.pop(trial_id, None)
        unheard = TrialStatus.FAILED if error else TrialStatus.STOPPED
        status = self._outcomes.pop(trial_id, unheard)
        state = told_state(status, value)
        if status is TrialStatus.INFEASIBLE:
            trial.set_constraint(FEASIBILITY, 1.0)
        self.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)

    def _start(
        self, tune_id: str, number: int, trial: Trial, point: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Follow a trial under Tune's name for it; its configuration."""
        self._running[tune_id] = trial
        self._studied[number] = trial._trial_id
        return {"number": number, "trial_id": trial_id(number), "point": dict(point)}

    def _promoted(self, tune_id: str, *, closing: bool = False) -> dict[str, Any] | None:
        """The configuration of a paused trial that is to go on; None where none is.

        Optuna was told that it was PRUNED, and closes a trial for good. A second one at the same
        point would say of a good point that it was stopped, so the first one is opened again.
        """
        number = self._promoter.promote(closing=closing) if self._promoter else None
        if number is None:
            return None
        frozen = self._history.reopen(self._studied[number])
        self._epochs[tune_id] = max(frozen.intermediate_values, default=0)
        return self._start(tune_id, number, Trial(self.study, frozen._trial_id), frozen.params)

    def _ask(self, number: int) -> Trial | None:
        """A trial at a point that was not run before; None where there is none left."""
        if self._points:
            return self._fixed(self._points.popleft())
        if self._config.sampler == "grid":
            return None
        for attempt in range(TRIES):
            trial = self._draw(seed_for(self._config.seed, number, attempt))
            if _key(trial.params) not in self._seen:
                return trial
            # Already run: FAIL keeps the sampler from counting the point twice.
            self.study.tell(trial, state=TrialState.FAIL)
        points = all_points(self._space, LARGEST_FINITE_SPACE) or iter(())
        untried = [p for p in points if _key(p) not in self._seen]
        if not untried:
            return None
        return self._fixed(random.Random(seed_for(self._config.seed, number)).choice(untried))

    def _draw(self, seed: int) -> Trial:
        self.study.sampler = self._sampler(seed)
        if self._config.minimize and self._config.sampler == "tpe":
            drawn = scalarised(self.study, self.study.sampler, seed).ask(self._distributions)
            return self._fixed(drawn.params)
        return self.study.ask(self._distributions)

    def _fixed(self, point: Mapping[str, Any]) -> Trial:
        """A trial at a given point; what the point leaves out is sampled."""
        self.study.sampler = self._sampler(seed_for(self._config.seed, "fixed", _key(point)))
        self.study.enqueue_trial(dict(point))
        return self.study.ask(self._distributions)

    def _sampler(self, seed: int) -> BaseSampler:
        # A fresh sampler per draw: its generator would otherwise depend on the process's history.
        seed %= 2**32
        if self._config.sampler != "tpe":
            return RandomSampler(seed=seed)
        return TPESampler(
            seed=seed,
            n_startup_trials=self._config.startup_trials,
            multivariate=self._config.multivariate,
            constant_liar=True,
        )

    def _remember(self, past: PastTrial) -> None:
        self._seen.add(_key(past.point))
        self._next = max(self._next, past.number + 1)
        self._studied[past.number] = self._tell(past)

    def _tell(self, past: PastTrial) -> int:
        """Add a trial to the study; its id there."""
        state = told_state(past.status, past.value)
        infeasible = past.status is TrialStatus.INFEASIBLE
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=past.value if state is TrialState.COMPLETE else None,
                params=past.point,
                distributions=self._distributions,
                intermediate_values={e: v for e, v in past.curve.items() if math.isfinite(v)},
                constraints={FEASIBILITY: 1.0} if infeasible else None,
                user_attrs={COSTS: past.costs} if past.costs else None,
            )
        )
        return self._history.newest


def told_state(status: TrialStatus, value: float | None) -> TrialState:
    """How Optuna is told of a trial.

    COMPLETE only for a finite value at the full budget; PRUNED for a stopped or paused one, whose
    intermediate values TPE ranks among trials that came as far, and for an infeasible one, which
    its constraint keeps out of the good ones; FAIL, which samplers ignore, for the rest.
    """
    if status is TrialStatus.FINISHED and value is not None and math.isfinite(value):
        return TrialState.COMPLETE
    if status in (TrialStatus.STOPPED, TrialStatus.PAUSED, TrialStatus.INFEASIBLE):
        return TrialState.PRUNED
    return TrialState.FAIL


def _key(point: Mapping[str, Any]) -> str:
    """A point's identity; floats to twelve digits, so that a grid's rounding does not matter."""
    rounded = {k: float(f"{v:.12g}") if isinstance(v, float) else v for k, v in point.items()}
    return json.dumps(rounded, sort_keys=True)
