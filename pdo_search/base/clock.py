"""The driver's wall clock, as far as it goes forward."""

from __future__ import annotations

import time

__all__ = ["SteadyClock"]

TICK = 1e-6
"""Seconds; what the tables' timestamps tell apart."""


class SteadyClock:
    """Epoch seconds, later at every call than at the one before.

    Where the machine's clock is set back, time creeps on from the latest moment that was told, so
    that the order of what is recorded stays the order in which it happened.

    Args:
        told: a moment that has passed already, such as the latest of an earlier run.
    """

    def __init__(self, told: float = 0.0) -> None:
        self._told = told

    def __call__(self) -> float:
        """The time, rounded to a tick."""
        self._told = max(round(time.time(), 6), self._told + TICK)
        return self._told
