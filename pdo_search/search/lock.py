"""One driver per sweep: the second is refused with the first's host and process.

On a disk the operating system's lock decides. Beside it, and alone on an object store, lies a lease
that the driver renews, so that others can tell whether it lives: ``results.driver`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pdo_search.base.errors import PdoError, StoreError
from pdo_search.base.lease import STALE_S, Lease
from pdo_search.base.storage import Storage
from pdo_search.results.driver import HOLDER, driver_of

__all__ = ["only_driver"]

LOCK = ".driver.lock"


@contextmanager
def only_driver(
    sweep: str, *, say: Callable[[str], None], lost: Callable[[str], None]
) -> Iterator[None]:
    """Hold a sweep's directory. The operating system lets go of it when the process dies.

    Args:
        sweep: the directory, path or URI.
        say: called with a line where it takes time to see whether another driver lives.
        lost: called, in a thread, with a line if another driver took the sweep over: this one was
            cut off from the object store for too long.

    Raises:
        PdoError: another process holds it.
        StoreError: it cannot be written to.
    """
    storage = Storage(sweep)
    lock = None
    if storage.is_local:
        storage.local_file(HOLDER)
        lock = FileLock(storage.local_file(LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            driver = driver_of(storage)
            raise _refused(sweep, "an unknown process" if driver is None else driver.name) from None
        except OSError as error:  # Another user's, say.
            raise StoreError(f"{sweep}/{LOCK} cannot be locked: {error}") from error
    try:
        lease = Lease(storage, HOLDER, f"the sweep {sweep}")

        def waiting(holder: str) -> None:
            say(f"Looking for up to {STALE_S:.0f} s whether {holder} still runs this sweep")

        if holder := lease.take_from_the_dead(waiting):
            raise _refused(sweep, holder)
        with lease.renewed(lambda other: lost(f"{other} has taken over this sweep")):
            yield
    finally:
        if lock is not None:
            lock.release()


def _refused(sweep: str, holder: str) -> PdoError:
    return PdoError(f"{sweep}: another driver runs this sweep, {holder}; wait for it or stop it")
