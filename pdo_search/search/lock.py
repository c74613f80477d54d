"""One driver per sweep: the second is refused with the first's host and process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pdo_search.base.storage import is_uri
from pdo_search.errors import PdoError

__all__ = ["only_driver"]

LOCK = ".driver.lock"
HOLDER = ".driver.json"


@contextmanager
def only_driver(sweep: str) -> Iterator[None]:
    """Hold a sweep's directory. The operating system lets go of it when the process dies.

    A sweep on an object store has no such lock: nothing there is released by a death.

    Raises:
        PdoError: another process holds it.
    """
    if is_uri(sweep):
        yield
        return
    folder = Path(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            holder = {"host": "an unknown host", "pid": "unknown"}
        raise PdoError(
            f"{sweep}: another driver runs this sweep, process {holder['pid']} on {holder['host']};"
            " wait for it or stop it"
        ) from None
    try:
        mine = {"host": socket.gethostname(), "pid": os.getpid()}
        (folder / HOLDER).write_text(json.dumps(mine), encoding="utf-8")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()
