"""Asynchronous successive halving (Li et al. 2020), in two variants: who stops, who is promoted.

Pure: decisions follow from what was recorded and from the seed. Knows neither Tune nor tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pdo_search.base.seeds import seed_for
from pdo_search.config.search import SchedulerConfig
from pdo_search.search.dominance import best_first

__all__ = ["Observation", "PromotionRungs", "Rule", "Rungs"]

Rung = tuple[int, int]
"""Bracket and milestone."""


@dataclass(frozen=True)
class Observation:
    """One report that may count for a decision.

    Attributes:
        number: of the trial.
        time: on the scheduler's clock: finished epochs, or finished stages.
        value: of the metric; may be NaN.
        costs: of the student that are to be low too; for all trials the same ones.
    """

    number: int
    time: int
    value: float
    costs: tuple[float, ...] = ()


class Rule(Protocol):
    """When a trial has to leave."""

    def observe(self, seen: Observation) -> int | None:
        """Record a report; the time at which the trial is to stop, or None to go on.

        A report that was recorded before changes nothing, and asks for nothing.
        """


@dataclass
class Rungs:
    """The stopping variant: what was recorded at each rung, and who may go on.

    Attributes:
        config: grace, reduction, brackets and min_peers.
        mode: ``max`` or ``min``.
        seed: shares trials out among brackets.
        recorded: signed values by rung and trial, higher is better.
        reached: highest milestone by trial.
        costs: by trial as first reported, where costs are to be low as well.
    """

    config: SchedulerConfig
    mode: str
    seed: int
    recorded: dict[Rung, dict[int, float]] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)
    costs: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def observe(self, seen: Observation) -> int | None:
        """Record a report; the milestone at which the trial is to stop, or None to go on.

        A report counts for the highest milestone that it has reached, once, and for no other: one
        that comes late says nothing of the lower rungs.
        """
        bracket = self.bracket(seen.number)
        milestone = self.milestone(bracket, seen.time)
        if milestone is None or milestone <= self.reached.get(seen.number, 0):
            return None
        self.reached[seen.number] = milestone
        if seen.costs:
            self.costs.setdefault(seen.number, seen.costs)
        rung = self.recorded.setdefault((bracket, milestone), {})
        value = seen.value if self.mode == "max" else -seen.value
        rung[seen.number] = -math.inf if math.isnan(value) else value
        return None if self._goes_on((bracket, milestone), seen.number) else milestone

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

    def _goes_on(self, at: Rung, number: int) -> bool:
        """Whether a trial is in the best 1/reduction of its rung, itself included.

        The first at a rung goes on, and so do the next ones until there are ``min_peers``, unless
        the value is NaN; of equals the earlier trial is ahead.
        """
        rung = self.recorded[at]
        if rung[number] == -math.inf:
            return False
        if len(rung) < self.config.min_peers:
            return True
        return self._ahead(rung, number) < max(1, len(rung) // self.config.reduction)

    def _ahead(self, rung: Mapping[int, float], number: int) -> int:
        """How many of a rung are better than a trial; of equals the earlier trial is ahead.

        With costs: by non-dominated front (``best_first``); NaN is behind everything.
        """
        if self.costs:
            return self._best_first(rung).index(number)
        value = rung[number]
        return sum(v > value or (v == value and n < number) for n, v in rung.items())

    def _best_first(self, rung: Mapping[int, float]) -> list[int]:
        return best_first(
            {
                number: (value, *(-cost for cost in self.costs[number]))
                for number, value in rung.items()
                if value > -math.inf
            }
        )


@dataclass
class PromotionRungs(Rungs):
    """The promotion variant: a trial pauses at every rung until it is among the best there.

    Attributes:
        paused: rung by trial of those that wait.
    """

    paused: dict[int, Rung] = field(default_factory=dict)

    def pause(self, number: int) -> None:
        """A trial waits at the highest rung that it has reached."""
        self.paused[number] = (self.bracket(number), self.reached[number])

    def next(self, *, closing: bool = False) -> int | None:
        """The trial to promote: the best promotable one of the highest rung; None where none is.

        Args:
            closing: no trial runs, none is to come, and none has come to its end with a value. Then
                the best of the highest rung goes on, however few are there: a search without a
                single trial at full budget has no answer.
        """
        for at in sorted(self.recorded, key=lambda rung: (rung[1], rung[0]), reverse=True):
            rung = self.recorded[at]
            best = self._best(rung, [n for n in rung if self.paused.get(n) == at])
            if best is None:
                continue
            places = len(rung) // self.config.reduction
            enough = len(rung) >= self.config.min_peers and self._ahead(rung, best) < places
            if enough or closing:
                return best
        return None

    def _best(self, rung: Mapping[int, float], waiting: Sequence[int]) -> int | None:
        """The best of those that wait at a rung; None where none does or all of them are NaN."""
        finite = {number for number in waiting if rung[number] > -math.inf}
        if self.costs and finite:
            return next((number for number in self._best_first(rung) if number in finite), None)
        return max(finite, key=lambda number: (rung[number], -number), default=None)

    def _goes_on(self, at: Rung, number: int) -> bool:
        """Whether a trial would be promoted at once, before all that wait."""
        self.pause(number)
        goes_on = self.next() == number
        del self.paused[number]
        return goes_on
