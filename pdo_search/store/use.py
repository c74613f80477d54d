"""Who uses an artifact, and when it was used last. Knows a directory and nothing of what is in it.

A process that was given an artifact holds a shared lock (``flock``) on its directory, which needs
no right to write and which the operating system releases when the process dies. Its last use is the
directory's modification time: files are never added to a finished artifact.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Uses", "alone_with"]

RECORDED_EVERY_S = 60.0
MOST_HELD = 128


class Uses:
    """The artifacts that this process uses.

    Of more than ``MOST_HELD`` those used longest ago are let go of, because each costs an open
    file: they may then be removed by ``store gc``.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[Path, int] = OrderedDict()
        self._recorded: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def hold(self, path: Path) -> bool:
        """Keep an artifact from being removed; False where it is not there, or is being removed."""
        with self._lock:
            held = self._held.pop(path, None)
            if held is not None and not _is_at(held, path):
                os.close(held)
                held = None
            if held is None:
                held = _locked(path)
            if held is None:
                return False
            self._held[path] = held
            while len(self._held) > MOST_HELD:
                os.close(self._held.popitem(last=False)[1])
        return True

    def let_go(self, path: Path) -> None:
        """Undo ``hold``."""
        with self._lock:
            held = self._held.pop(path, None)
            if held is not None:
                os.close(held)

    def is_due(self, path: Path, where: str, every_s: float) -> bool:
        """Whether a use is to be recorded now: not more often than told, by place of recording."""
        with self._lock:
            last = self._recorded.get((str(path), where))
            if last is not None and time.monotonic() - last < every_s:
                return False
            self._recorded[(str(path), where)] = time.monotonic()
            return True

    def record(self, path: Path) -> None:
        """Record that an artifact is used now; nothing where the store is read-only."""
        if self.is_due(path, "disk", RECORDED_EVERY_S):
            with suppress(OSError):
                os.utime(path)


@contextmanager
def alone_with(path: Path) -> Iterator[bool]:
    """Whether no process uses an artifact; while the block runs, none begins to.

    Raises:
        FileNotFoundError: it is not there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        # A file system without locks: the artifact can be used, and nothing protects it.
        return descriptor
    if not _is_at(descriptor, path):
        os.close(descriptor)
        return None
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open directory still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
