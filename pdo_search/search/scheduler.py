"""Early stopping: asynchronous successive halving (Li et al. 2020, algorithm 2, stopping variant).

Why not Ray's ``ASHAScheduler`` (read in Ray 2.60): it records a late report into every lower rung
as well, never stops a trial whose metric is NaN, picks brackets with NumPy's global generator, and
cannot be rebuilt from results. The decisions here are a pure function of what was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.schedulers import TrialScheduler

from pdo_search.config.schema import SchedulerConfig
from pdo_search.distill.seeds import seed_for
from pdo_search.search.waiting import WaitingLine

__all__ = ["AshaScheduler", "Observation", "Rungs"]


@dataclass(frozen=True)
class Observation:
    """One report that may count for a rung.

    Attributes:
        number: of the trial.
        time: on the scheduler's clock: finished epochs, or finished stages.
        value: of the metric; may be NaN.
    """

    number: int
    time: int
    value: float


@dataclass
class Rungs:
    """What was recorded at each rung, and who may go on.

    Attributes:
        config: grace, reduction and brackets.
        mode: ``max`` or ``min``.
        seed: shares trials out among brackets.
        recorded: signed values by (bracket, milestone) and trial, higher is better.
    """

    config: SchedulerConfig
    mode: str
    seed: int
    recorded: dict[tuple[int, int], dict[int, float]] = field(default_factory=dict)
    _reached: dict[int, int] = field(default_factory=dict)

    def observe(self, seen: Observation) -> int | None:
        """Record a report; the milestone at which the trial is to stop, or None to go on.

        A report counts for the highest milestone that it has reached, once, and for no other: one
        that comes late says nothing of the lower rungs.
        """
        bracket = self.bracket(seen.number)
        milestone = self.milestone(bracket, seen.time)
        if milestone is None or milestone <= self._reached.get(seen.number, 0):
            return None
        self._reached[seen.number] = milestone
        rung = self.recorded.setdefault((bracket, milestone), {})
        value = seen.value if self.mode == "max" else -seen.value
        rung[seen.number] = -math.inf if math.isnan(value) else value
        return None if self._goes_on(rung, seen.number) else milestone

    def bracket(self, number: int) -> int:
        """A trial's bracket, by seed and number."""
        return seed_for(self.seed, "bracket", number) % self.config.brackets

    def milestone(self, bracket: int, time: int) -> int | None:
        """The highest milestone of a bracket at or below a time."""
        milestone = self.config.grace * int(self.config.reduction**bracket)
        if time < milestone:
            return None
        while milestone * self.config.reduction <= time:
            milestone *= self.config.reduction
        return milestone

    def _goes_on(self, rung: Mapping[int, float], number: int) -> bool:
        """Whether a trial is in the best 1/reduction of its rung, itself included.

        The first at a rung goes on, unless its value is NaN; of equals the earlier trial is ahead.
        """
        value = rung[number]
        if value == -math.inf:
            return False
        ahead = sum(v > value or (v == value and n < number) for n, v in rung.items())
        return ahead < max(1, len(rung) // self.config.reduction)


class AshaScheduler(WaitingLine):
    """``Rungs`` behind Tune's interface; with ``kind: none`` every trial goes on.

    Attributes:
        stopped: milestone by number of the trials that it stopped.

    Args:
        config: kind, clock, grace, reduction, brackets.
        metric: what is compared.
        mode: ``max`` or ``min``.
        seed: of the brackets.
        past: observations of an interrupted sweep, in the order in which they were made.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        metric: str,
        mode: str,
        seed: int,
        past: Iterable[Observation] = (),
    ) -> None:
        super().__init__()
        self._config = config
        self._metric = metric
        self.rungs = Rungs(config, mode, seed)
        self.stopped: dict[int, int] = {}
        self._owed: dict[int, int] = {}
        for observation in past:
            milestone = self.rungs.observe(observation)
            if milestone is not None:
                self._owed[observation.number] = milestone

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are the experiment's; Tune has none to add."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Tune's question after every report."""
        if self._config.kind == "none" or result.get(self._metric) is None:
            return str(TrialScheduler.CONTINUE)
        if self._config.clock == "stage" and not result["stage_end"]:
            return str(TrialScheduler.CONTINUE)
        time = result["stages_done"] if self._config.clock == "stage" else result["epoch"]
        number = trial.config["number"]
        milestone = self.rungs.observe(Observation(number, int(time), float(result[self._metric])))
        if time >= self._owed.get(number, math.inf):
            # The driver died between hearing this report and stopping the trial.
            milestone = self._owed.pop(number)
        if milestone is None or result["ended"]:
            return str(TrialScheduler.CONTINUE)
        self.stopped[number] = milestone
        return str(TrialScheduler.STOP)
