"""A lease on an object store: of several processes that want the same, one has it.

Owns who holds a lease, how long it is believed, and waiting for it. What it is good for, the right
to build an artifact or to drive a sweep, is not its business.

Object stores that pyarrow opens have no compare-and-swap that all of them know, so a lease is taken
by writing it, waiting until others' writes have settled, and reading it back: the last writer has
it. Two nodes can still both believe that they hold one: a write that takes longer than
``SETTLE_S``, or a holder that slept for longer than ``STALE_S`` and wakes up. Then both build the
same content, and the last to publish it wins: work is lost, results are not.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pdo_search.base.errors import StoreError
from pdo_search.base.process import identity, is_dead
from pdo_search.base.storage import Storage

__all__ = ["Lease", "is_forgotten"]

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
"""How often a holder renews its lease."""
STALE_S = 60.0
"""A lease that another node has watched for this long without a renewal is taken over."""
FORGOTTEN_S = 1200.0
"""One that is this old by the object store's clock is taken over at once. S3 refuses requests of
machines whose clock is off by more than 15 minutes, so clocks cannot differ by so much."""
SETTLE_S = 1.0
"""Between writing a lease and reading it back."""
POLL_S = 2.0
"""Between two looks of one who waits."""


def is_forgotten(changed_at: float) -> bool:
    """Whether what was last written then, by the object store's clock, has no living holder."""
    return time.time() - changed_at > FORGOTTEN_S


class Lease:
    """The right to do something alone, such as to build an artifact.

    Args:
        storage: where the lease lies.
        name: the lease's object.
        what: what is waited for, for the log.
    """

    def __init__(self, storage: Storage, name: str, what: str) -> None:
        self._storage = storage
        self._name = name
        self._what = what
        self._token = secrets.token_hex(8)
        self._beat = 0
        self._seen: tuple[bytes, float] | None = None

    @contextmanager
    def held(self, unless: Callable[[], bool]) -> Iterator[bool]:
        """Wait for the lease and hold it, or until the wait is pointless.

        Args:
            unless: whether the artifact has come from another node.

        Yields:
            Whether the caller holds the lease and is to build.
        """
        told = False
        while not unless():
            if self.take():
                with self.renewed():
                    # It may have been published between the look and the taking.
                    yield not unless()
                return
            if self._seen and not told:
                log.info("waiting for %s, which %s is at", self._what, _holder(self._seen[0]))
                told = True
            time.sleep(POLL_S)
        yield False

    def take(self, settle_s: float | None = None) -> bool:
        """Take the lease if nobody holds it. Does not wait for the holder.

        Args:
            settle_s: instead of ``SETTLE_S``.
        """
        if not self._is_free():
            return False
        self._write()
        time.sleep(SETTLE_S if settle_s is None else settle_s)
        return self._is_mine()

    def take_from_the_dead(self, waiting: Callable[[str], None]) -> str | None:
        """Take the lease, and find out first whether its holder lives: for a minute at most.

        Args:
            waiting: called once with the holder, if that takes time.

        Returns:
            None where it is taken; else the holder that lives.
        """
        first: bytes | None = None
        while not self.take(settle_s=0 if self._storage.is_local else None):
            seen = self._seen[0] if self._seen else None
            if first is None and seen is not None:
                first = seen
                waiting(_holder(seen))
            elif seen is not None and seen != first:
                return _holder(seen)
            time.sleep(POLL_S)
        return None

    def release(self) -> None:
        """Give the lease back, if it is still this one's."""
        try:
            if self._is_mine():
                self._storage.delete(self._name)
        except (OSError, StoreError) as error:
            # No warning, which would reach the terminal after the log's end: it ages by itself.
            log.info("lease %s cannot be given back: %s", self._name, error)

    @contextmanager
    def renewed(self, lost: Callable[[str], None] | None = None) -> Iterator[None]:
        """Keep a lease that was taken, and give it back at the end.

        Args:
            lost: called, in a thread, with who took it over.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(stop, lost), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            # It may be waiting for an object store that does not answer.
            thread.join(HEARTBEAT_S)
            self.release()

    def _renew(self, stop: threading.Event, lost: Callable[[str], None] | None) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                data = self._storage.read_if_there(self._name)
                if _fields(data).get("token") != self._token:
                    log.warning("the lease on %s was taken over; both are at it now", self._what)
                    if lost is not None:
                        lost(_holder(data))
                    return
                self._write()
            except (OSError, StoreError) as error:
                log.warning("lease %s cannot be renewed now: %s", self._name, error)

    def _is_free(self) -> bool:
        data = self._storage.read_if_there(self._name)
        if data is None:
            return True
        now = time.monotonic()
        if self._seen is None or self._seen[0] != data:
            self._seen = (data, now)
        if not is_dead(_fields(data)) and now - self._seen[1] < STALE_S:
            info = self._storage.info(self._name)
            if info is not None and not is_forgotten(info.changed_at):
                return False
        log.warning("%s is no longer at %s: taken over", _holder(data), self._what)
        return True

    def _is_mine(self) -> bool:
        return _fields(self._storage.read_if_there(self._name)).get("token") == self._token

    def _write(self) -> None:
        self._beat += 1
        mine = {"token": self._token, "beat": self._beat, "renewed_at": time.time()}
        self._storage.write(self._name, json.dumps({**identity(), **mine}).encode())


def _fields(data: bytes | None) -> dict[str, object]:
    """What a lease says; nothing where there is none or it is torn."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder(data: bytes | None) -> str:
    fields = _fields(data)
    return f"process {fields.get('pid', '?')} on {fields.get('host', 'an unknown host')}"
