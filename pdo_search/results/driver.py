"""Which driver runs a sweep, from what it leaves in the sweep's directory: is it alive?"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from pdo_search.base.lease import STALE_S
from pdo_search.base.process import is_dead
from pdo_search.base.storage import Storage

__all__ = ["HOLDER", "Driver", "driver_of"]

HOLDER = ".driver.json"
MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep, or ran it when it died.

    Attributes:
        host: its machine.
        pid: its process there.
        heard_s: seconds since it was heard, by its clock and this machine's.
        alive: whether it lives, as far as can be told from here.
    """

    host: str
    pid: int
    heard_s: float
    alive: bool

    @property
    def name(self) -> str:
        """``process 12 on HOST``."""
        return f"process {self.pid} on {self.host}"

    def __str__(self) -> str:
        if self.alive:
            return f"running on {self.host}, heard {self.heard_s:.0f} s ago"
        return f"its driver ({self.name}) is dead: resume"


def driver_of(storage: Storage) -> Driver | None:
    """The driver of the sweep in a directory; None where none runs, or nothing can be read."""
    try:
        found: Any = json.loads(storage.read_if_there(HOLDER, MAX_BYTES) or b"{}")
        host, pid, at = str(found["host"]), int(found["pid"]), float(found.get("renewed_at", 0))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    heard_s = max(0.0, time.time() - at)
    return Driver(host, pid, heard_s, heard_s < STALE_S and not is_dead(found))
