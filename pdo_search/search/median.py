"""Median stopping (Golovin et al. 2017, "Google Vizier", section 3.2.2).

Pure: decisions follow from what was recorded. Knows neither Tune nor tables.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

from pdo_search.config.search import SchedulerConfig
from pdo_search.search.rungs import Observation

__all__ = ["MedianRule"]


@dataclass
class _Course:
    """One trial so far, in signed values."""

    time: int = 0
    best: float = -math.inf
    total: float = 0.0
    count: int = 0


@dataclass
class MedianRule:
    """A trial stops when its best value so far is below the median of the others' running means.

    The others are those that have come as far, whatever became of them since. NaN counts as worst.

    Attributes:
        config: grace and min_peers.
        mode: ``max`` or ``min``.
        means: running means by time, each list sorted, higher is better.
    """

    config: SchedulerConfig
    mode: str
    means: dict[int, list[float]] = field(default_factory=dict)
    _courses: dict[int, _Course] = field(default_factory=dict)

    def observe(self, seen: Observation) -> int | None:
        """Record a report; its time, where the trial is to stop there, or None to go on."""
        course = self._courses.setdefault(seen.number, _Course())
        if seen.time <= course.time:
            return None
        value = seen.value if self.mode == "max" else -seen.value
        value = -math.inf if math.isnan(value) else value
        course.time = seen.time
        course.best = max(course.best, value)
        course.total += value
        course.count += 1
        others = self.means.setdefault(seen.time, [])
        goes_on = seen.time < self.config.grace or self._goes_on(course.best, others)
        bisect.insort(others, course.total / course.count)
        return None if goes_on else seen.time

    def _goes_on(self, best: float, others: list[float]) -> bool:
        if best == -math.inf:
            return False
        return len(others) < self.config.min_peers or best >= _median(others)


def _median(ordered: list[float]) -> float:
    """The middle of a sorted list; of two middles the lower one, since -inf has no mean."""
    return ordered[(len(ordered) - 1) // 2]
