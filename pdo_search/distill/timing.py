"""Seconds by phase of a trial: where its time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pdo_search.records import Seconds

__all__ = ["PHASES", "PhaseClock"]

PHASES = ("teacher", "student", "evaluation", "data", "waiting")


class PhaseClock:
    """Adds up wall seconds by phase.

    ``teacher``: building levels and banks. ``student``: forward, backward, update. ``evaluation``.
    ``data``: views, batches, bank look-ups. ``waiting``: for checkpoints and the search's answer.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - started

    def take(self) -> Seconds:
        """Seconds by phase since the last call."""
        taken = Seconds(**{f"{name}_s": seconds for name, seconds in self._seconds.items()})
        self._seconds = dict.fromkeys(PHASES, 0.0)
        return taken
