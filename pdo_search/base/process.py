"""Which process is which, across hosts and containers: whose left-overs may be removed.

A process number means nothing on another host, in another container of the same host, or after a
reboot. So it is kept with the namespace that it counts in.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["began_at", "descendants", "host_and_process", "identity", "is_dead"]


def host_and_process() -> str:
    """``HOST-PID``: part of a temporary name that no other process uses at this time."""
    return f"{socket.gethostname()}-{os.getpid()}"


def identity() -> dict[str, Any]:
    """This process, JSON-able: ``host``, ``pid``, and the ``namespace`` of process numbers."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "namespace": _namespace()}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process, by its ``identity``, is known to be dead.

    False where it lives, and where it cannot be seen from here.
    """
    pid = process.get("pid")
    if process.get("namespace") != _namespace() or type(pid) is not int or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def descendants(pid: int) -> set[int]:
    """The processes that a process started, and those that they started; empty without /proc."""
    if not Path("/proc/self/stat").exists():
        return set()
    children: dict[int, list[int]] = {}
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if fields := _status(process):
            children.setdefault(int(fields[1]), []).append(process)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        more = children.get(waiting.pop(), [])
        found.update(more)
        waiting += more
    return found


def began_at(pid: int) -> str:
    """When a process began, in the kernel's count; empty if it is gone."""
    fields = _status(pid)
    return fields[19] if fields else ""


def _status(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the command's name, which may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


@cache
def _namespace() -> str:
    """A name of this boot of this machine and of the container's process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # No Linux: one namespace per machine.
        return socket.gethostname()
