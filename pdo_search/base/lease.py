"""A lease on an object store: of several processes that want the same, one has it.

Owns who holds a lease, how long it is believed, and waiting for it. What it is good for, the right
to build an artifact or to drive a sweep, is not its business.

Where the store knows writes under a condition (``conditional``), a lease is written only in the
place of what was seen there: of several that want it one is granted it, at once. A holder that
slept for longer than ``STALE_S`` still believes for a moment after it woke up.

Elsewhere it is taken by writing it, waiting until others' writes have settled, and reading it back:
the last writer has it, and two can hold one where a write takes longer than ``SETTLE_S``. The two
ways do not see each other: nodes that share a store have its client installed, or none has.

Where two hold one, both build the same content, and the last to publish it wins: work is lost,
results are not.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pdo_search.base.conditional import Unsupported, Version, conditional_on
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
"""Between writing a lease and reading it back, where the store knows no conditions."""
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
        self._conditional = conditional_on(storage)
        self._held: Version | None = None
        self._seen: tuple[Version, float] | None = None

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
        found = self._read()
        if not self._is_free(found):
            return False
        granted = self._put(instead_of=found)
        if granted is None:
            self._storage.write(self._name, self._next())
            time.sleep(SETTLE_S if settle_s is None else settle_s)
            return self._is_mine()
        return granted

    def take_from_the_dead(self, waiting: Callable[[str], None]) -> str | None:
        """Take the lease, and find out first whether its holder lives: for a minute at most.

        Args:
            waiting: called once with the holder, if that takes time.

        Returns:
            None where it is taken; else the holder that lives.
        """
        first: Version | None = None
        while not self.take():
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
            if self._conditional is not None and self._held is not None:
                with suppress(Unsupported):
                    self._conditional.delete(self._name, self._held)
                    return
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
                if not self._renew_once():
                    log.warning("the lease on %s was taken over; both are at it now", self._what)
                    if lost is not None:
                        lost(_holder(self._read()))
                    return
            except (OSError, StoreError) as error:
                log.warning("lease %s cannot be renewed now: %s", self._name, error)

    def _renew_once(self) -> bool:
        """Write the lease again; False where another has it."""
        granted = self._put(instead_of=self._held)
        if granted is None:
            granted = self._is_mine()
            if granted:
                self._storage.write(self._name, self._next())
        return granted

    def _put(self, instead_of: Version | None) -> bool | None:
        """Write the lease if nobody was faster; None where the store knows no conditions."""
        if self._conditional is None:
            return None
        try:
            written = self._conditional.write(self._name, self._next(), instead_of)
            if written is None:
                # It may have been this one, if the answer was lost and the write tried again.
                return self._is_mine()
            if self._conditional.is_kept(self._name, written):
                self._held = written
                return True
        except Unsupported as error:
            log.info("%s knows no conditions: %s", self._storage.root, error)
        self._conditional = None
        return None

    def _read(self) -> Version | None:
        if self._conditional is not None:
            try:
                return self._conditional.read(self._name)
            except Unsupported as error:
                log.info("%s knows no conditions: %s", self._storage.root, error)
                self._conditional = None
        data = self._storage.read_if_there(self._name)
        return None if data is None else Version(data)

    def _is_free(self, found: Version | None) -> bool:
        if found is None:
            return True
        now = time.monotonic()
        if self._seen is None or self._seen[0] != found:
            self._seen = (found, now)
        if not is_dead(_fields(found)) and now - self._seen[1] < STALE_S:
            info = self._storage.info(self._name)
            if info is not None and not is_forgotten(info.changed_at):
                return False
        log.warning("%s is no longer at %s: taken over", _holder(found), self._what)
        return True

    def _is_mine(self) -> bool:
        found = self._read()
        self._held = found if _fields(found).get("token") == self._token else None
        return self._held is not None

    def _next(self) -> bytes:
        """What the lease says from now on."""
        self._beat += 1
        mine = {"token": self._token, "beat": self._beat, "renewed_at": time.time()}
        return json.dumps({**identity(), **mine}).encode()


def _fields(found: Version | None) -> dict[str, object]:
    """What a lease says; nothing where there is none or it is torn."""
    try:
        fields = json.loads(found.data if found else b"{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _holder(found: Version | None) -> str:
    fields = _fields(found)
    return f"process {fields.get('pid', '?')} on {fields.get('host', 'an unknown host')}"
