"""Early stopping behind Tune's scheduler interface. The decisions are in ``rungs`` and ``median``.

Why not Ray's ``ASHAScheduler`` (read in Ray 2.60): it records a late report into every lower rung
as well, never stops a trial whose metric is NaN, picks brackets with NumPy's global generator, and
cannot be rebuilt from results. The decisions here are a pure function of what was recorded.

Why a pause is not Tune's PAUSE: a function trainable whose process is reused can only be paused by
a checkpoint of Tune's own. So a trial that pauses ends for Tune; when it is promoted, the searcher
suggests it again under its own number, and it goes on from its own checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import TrialScheduler

from pdo_search.config.search import SchedulerConfig
from pdo_search.results.schema import Decision, TrialStatus
from pdo_search.search.dominance import costs_of
from pdo_search.search.median import MedianRule
from pdo_search.search.rungs import Observation, PromotionRungs, Rule, Rungs
from pdo_search.search.tune.waiting import WaitingLine

__all__ = ["EarlyStopping", "Ruling", "make_rule"]


@dataclass(frozen=True)
class Ruling:
    """What the scheduler made of a trial, for its row."""

    status: TrialStatus
    decision: Decision
    cause: str


def make_rule(config: SchedulerConfig, mode: str, seed: int) -> Rule | None:
    """The rule that a configuration asks for; None for ``none``."""
    if config.kind == "none":
        return None
    if config.kind == "median":
        return MedianRule(config, mode)
    return (PromotionRungs if config.pauses else Rungs)(config, mode, seed)


class EarlyStopping(WaitingLine):
    """A ``Rule`` behind Tune's interface; with ``kind: none`` every trial goes on.

    Attributes:
        rule: that decides; None for ``none``.
        stopped: time by number of the trials that it stopped, or that wait.

    Args:
        config: of the scheduler.
        metric: what is compared.
        mode: ``max`` or ``min``.
        minimize: costs that are to be low too.
        seed: of the brackets.
        past: observations of an interrupted sweep, in the order in which they were made.
        paused: trials that were waiting in it.
        answered: whether a trial had come to its end with a value in it.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        metric: str,
        mode: str,
        seed: int,
        minimize: Sequence[str] = (),
        past: Iterable[Observation] = (),
        paused: Iterable[int] = (),
        answered: bool = False,
    ) -> None:
        super().__init__()
        self._config = config
        self._metric = metric
        self._minimize = minimize
        self.rule = make_rule(config, mode, seed)
        self.stopped: dict[int, int] = {}
        self._owed: dict[int, int] = {}
        self._answered = answered
        for seen in past:
            self._recall(seen)
        for number in paused:
            self._owed.pop(number, None)
            self._pause(number)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are the experiment's; Tune has none to add."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Tune's question after every report."""
        value, costs = result.get(self._metric), costs_of(result, self._minimize)
        if self.rule is None or value is None or costs is None:
            return str(TrialScheduler.CONTINUE)
        if result.get("status") == TrialStatus.FINISHED and math.isfinite(value):
            self._answered = True
        if self._config.clock == "stage" and not result["stage_end"]:
            return str(TrialScheduler.CONTINUE)
        time = int(result["stages_done"] if self._config.clock == "stage" else result["epoch"])
        number = trial.config["number"]
        seen = Observation(number, time, float(value), costs)
        left_at = self.rule.observe(seen)
        if time >= self._owed.get(number, math.inf):
            # The driver died between hearing this report and stopping the trial.
            left_at = self._owed.pop(number)
        if left_at is None or result["ended"]:
            return str(TrialScheduler.CONTINUE)
        self.stopped[number] = left_at
        self._pause(number)
        return str(TrialScheduler.STOP)

    def may_promote(self) -> bool:
        """Whether a paused trial would go on where no trial runs and none is to come."""
        closing = not self._answered
        return isinstance(self.rule, PromotionRungs) and self.rule.next(closing=closing) is not None

    def promote(self, *, closing: bool = False) -> int | None:
        """Take the paused trial that is to go on now; None where none is.

        Args:
            closing: no trial runs and none is to come.
        """
        if not isinstance(self.rule, PromotionRungs):
            return None
        number = self.rule.next(closing=closing and not self._answered)
        if number is not None:
            del self.rule.paused[number]
            self.stopped.pop(number, None)
        return number

    def ruling(self, number: int) -> Ruling | None:
        """What became of a trial by this scheduler; None where it left the trial alone."""
        if number not in self.stopped:
            return None
        time = f"{self._config.clock} {self.stopped[number]}"
        if self._config.kind == "median":
            cause = f"below the median of the others at {time}"
            return Ruling(TrialStatus.STOPPED, Decision.MEDIAN, cause)
        if self._config.pauses:
            return Ruling(TrialStatus.PAUSED, Decision.ASHA, f"not promoted from {time}")
        return Ruling(TrialStatus.STOPPED, Decision.ASHA, f"not among the best at {time}")

    def rung_reached(self, number: int) -> int | None:
        """Milestone of the highest rung that a trial reached; None where there are no rungs."""
        return self.rule.reached.get(number) if isinstance(self.rule, Rungs) else None

    def _recall(self, seen: Observation) -> None:
        """Record what an interrupted sweep had seen, and what it may not have lived to do."""
        if self.rule is None:
            return
        left_at = self.rule.observe(seen)
        if left_at is not None:
            self._owed[seen.number] = left_at
        elif seen.time > self._owed.get(seen.number, math.inf):
            del self._owed[seen.number]

    def _pause(self, number: int) -> None:
        if isinstance(self.rule, PromotionRungs) and number in self.rule.reached:
            self.rule.pause(number)
