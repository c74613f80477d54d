"""Content-addressed artifacts: directories named by the hash of all that determines them.

Owns single flight, atomic publication, and that what it gives out was verified. What is in a
directory is its builder's business; looking after a store is ``housekeeping``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pdo_search.base.errors import StoreError, disk_is_full
from pdo_search.base.lease import Lease
from pdo_search.base.safefile import odd_entry
from pdo_search.base.storage import Storage, is_uri
from pdo_search.store.layout import (
    PARTIAL,
    Place,
    cache_of,
    damaged_name,
    owner_of_unfinished,
    unfinished_name,
)
from pdo_search.store.manifest import FORMAT, MANIFEST, damage_of, fsync, parse, seal
from pdo_search.store.use import Uses

__all__ = ["Artifact", "Store"]

log = logging.getLogger(__name__)

UPLOADED_USE_EVERY_S = 600.0
_VERIFIED: set[tuple[str, int]] = set()
_USES = Uses()

Build = Callable[[Path], None]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        path: its directory, on the local disk.
        digest: hash of its key; its name everywhere.
        built: whether this call built it.
    """

    path: Path
    digest: str
    built: bool


class Store:
    """Artifacts under a root.

    A directory appears under its final name only when complete, with the SHA-256 of every file in
    its manifest. Builders of one artifact on one machine wait for each other on a lock that the
    operating system releases when its holder dies, so a dead builder is taken over at once.
    Builders on several machines wait for each other through a lease on the object store, which is
    taken over a minute after its holder fell silent (``lease``, with what remains possible).

    A local root on a network file system is as good as that file system's ``flock``: where it is
    not shared between nodes (some NFS and Lustre mounts), two nodes may build the same artifact at
    once; the second to finish finds the first's and uses it. A resumable build is not safe there,
    because both would work in one directory: give such a cluster an object store.

    Args:
        root: a local directory; or a URI, which is mirrored in a cache on this machine (below
            ``PDO_SEARCH_CACHE``, or ``~/.cache/pdo_search``).
    """

    def __init__(self, root: str | Path) -> None:
        self.mirror = Storage(root) if is_uri(str(root)) else None
        self.root = cache_of(str(root)) if self.mirror else Path(root)

    def get_or_build(
        self,
        kind: str,
        key: Mapping[str, Any],
        build: Build,
        *,
        resumable: bool = False,
    ) -> Artifact:
        """The artifact of a key, built now if nobody has.

        Args:
            kind: what it is, such as ``teacher``; a sub-directory.
            key: everything that determines the content, as JSON-able values.
            build: fills the empty directory that it is given. What it raises is passed on, and
                leaves nothing behind.
            resumable: the builder can go on with another's work. What it leaves behind when it
                raises or is killed is handed to the next builder on this machine as it is: files
                may be half written, and whatever lies there at the end is part of the artifact.
                The builder validates what it finds and deletes what it does not want.

        Raises:
            StoreError: the artifact cannot be written.
        """
        place = Place(kind, digest_of(kind, key))
        path = self.root / place.name
        try:
            built = False
            if not self._is_at_hand(place):
                # No part of the way is a link: whoever made the store may be a stranger.
                with _only_builder(Storage(self.root).local_file(f"{place.name}.lock")):
                    if not self._is_at_hand(place, alone=True):
                        built = self._obtain(place, key, build, resumable)
                        _USES.hold(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {_explained(error)}") from error
        self._record_use(place, built)
        return Artifact(path, place.digest, built)

    def _is_at_hand(self, place: Place, *, alone: bool = False) -> bool:
        """Whether the artifact lies on this disk, undamaged.

        Args:
            place: which.
            alone: the caller holds the lock: a damaged one is set aside.
        """
        path = self.root / place.name
        if not _USES.hold(path):
            return False
        if _is_verified(path):
            return True
        if damage := damage_of(path):
            _USES.let_go(path)
            if alone:
                self._set_aside(place, path, str(damage))
            return False
        if self.mirror:
            self._upload_if_missing(self.mirror, place)
        _VERIFIED.add(_stamp(path))
        return True

    def _obtain(self, place: Place, key: Mapping[str, Any], build: Build, resumable: bool) -> bool:
        """Fetch the artifact or build it; whether it was built. The caller holds the lock."""
        if self.mirror is None:
            self._build(place, key, build, resumable)
            return True
        refused: set[bytes] = set()
        lease = Lease(self.mirror, f"{place.name}.lease", f"{place.kind} {place.digest[:8]}")
        with lease.held(unless=partial(self._fetched, self.mirror, place, refused)) as mine:
            if mine:
                self._build(place, key, build, resumable)
                self._upload(self.mirror, place, damaged=bool(refused))
        return mine

    def _build(self, place: Place, key: Mapping[str, Any], build: Build, resumable: bool) -> None:
        """Build beside, seal, rename. The caller holds the lock."""
        beside = self._beside(place, resumable)
        started = time.time()
        try:
            # Of a builder that was killed after its work was done.
            (beside / MANIFEST).unlink(missing_ok=True)
            build(beside)
            seal(beside, place.kind, key, started)
            self._publish(place, beside)
        except Exception as error:
            if disk_is_full(error) and not isinstance(error, OSError):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise
        finally:
            if not resumable:
                shutil.rmtree(beside, ignore_errors=True)

    def _beside(self, place: Place, resumable: bool) -> Path:
        """The directory to work in; what dead processes of this machine left is removed."""
        parent = (self.root / place.name).parent
        beside = parent / unfinished_name(place.digest, resumable=resumable)
        for left_over in parent.glob(f".{place.digest}.*"):
            owner = owner_of_unfinished(left_over.name)
            # Another host's is let be: where `flock` is not shared, its owner may live.
            here = owner is not None and _is_of_this_host(owner[1])
            wanted = resumable and left_over == beside and _is_plain(left_over)
            if here and not wanted:
                _remove(left_over)
        beside.mkdir(exist_ok=resumable)
        return beside

    def _publish(self, place: Place, beside: Path) -> None:
        """Give a sealed directory its name."""
        path = self.root / place.name
        try:
            beside.rename(path)
        except OSError:
            if not path.exists() or damage_of(path):
                raise
            log.info("%s came from another node at the same moment", path)
            shutil.rmtree(beside, ignore_errors=True)
        fsync(path.parent)
        _VERIFIED.add(_stamp(path))

    def _fetched(self, mirror: Storage, place: Place, refused: set[bytes]) -> bool:
        """Copy an artifact from the object store, if it is whole there.

        Args:
            mirror: the object store.
            place: which artifact.
            refused: manifests of damaged copies, which are not fetched again.
        """
        data = mirror.read_if_there(f"{place.name}/{MANIFEST}")
        if data is None or data in refused:
            return False
        beside = self._beside(place, resumable=False)
        try:
            damage = _fetched_into(beside, mirror, place, data)
            if damage is None:
                self._publish(place, beside)
                return True
            refused.add(data)
            self._set_aside(place, beside, f"as it is in {mirror.root}: {damage}")
            return False
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _upload(self, mirror: Storage, place: Place, *, damaged: bool = False) -> None:
        """Copy an artifact up; it is there when its manifest is, which goes last.

        Args:
            mirror: the object store.
            place: which artifact.
            damaged: one that cannot be used is there, and is not while this one is copied.
        """
        path = self.root / place.name
        files = parse((path / MANIFEST).read_bytes()).files
        if damaged:
            mirror.delete(f"{place.name}/{MANIFEST}")
        mirror.put(path, place.name, (*files, MANIFEST))

    def _upload_if_missing(self, mirror: Storage, place: Place) -> None:
        """Upload what lies here and not there: its builder died while it uploaded."""
        try:
            if mirror.info(f"{place.name}/{MANIFEST}") is None:
                log.info("%s is not whole in %s: uploaded again", place.name, mirror.root)
                self._upload(mirror, place)
        except (OSError, StoreError) as error:
            log.warning("%s is used from this machine's cache: %s", place.name, error)

    def _set_aside(self, place: Place, path: Path, why: str) -> None:
        aside = Storage(self.root).local_file(damaged_name(place))
        log.warning("artifact %s is damaged (%s): set aside as %s", place.name, why, aside)
        path.rename(aside)

    def _record_use(self, place: Place, built: bool) -> None:
        path = self.root / place.name
        _USES.record(path)
        # What was built now was published now, and that is known there.
        if self.mirror and _USES.is_due(path, "mirror", UPLOADED_USE_EVERY_S) and not built:
            try:
                self.mirror.write(f"{place.name}.used", socket.gethostname().encode())
            except (OSError, StoreError) as error:
                log.debug("the use of %s is not recorded: %s", place.name, error)


def digest_of(kind: str, key: Mapping[str, Any]) -> str:
    """The name of an artifact: a hash of its kind, its key and the format's version."""
    text = json.dumps([FORMAT, kind, key], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def _only_builder(file: Path) -> Iterator[None]:
    """Hold this machine's lock on an artifact."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for %s: another process of this machine is at it", file.stem)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetched_into(folder: Path, mirror: Storage, place: Place, data: bytes) -> str | None:
    """Copy an artifact into a directory; what is wrong with it."""
    try:
        manifest = parse(data)
        log.info("fetching %s from %s: %s bytes", place.name, mirror.root, manifest.bytes)
        mirror.fetch(place.name, (*manifest.files, MANIFEST), folder)
    except FileNotFoundError as error:
        return f"a file is missing: {error}"
    except ValueError as error:
        (folder / MANIFEST).write_bytes(data)
        return f"{MANIFEST} {error}"
    damage = damage_of(folder)
    return str(damage) if damage else None


def _is_plain(work: Path) -> bool:
    """Whether unfinished work can be gone on with: a folder with files and folders alone in it.

    What a builder writes into a link would change what lies elsewhere, and a pipe never answers.
    """
    return work.is_dir() and not work.is_symlink() and odd_entry(work) is None


def _remove(left_over: Path) -> None:
    """Remove a folder, or what stands in its place."""
    if left_over.is_dir() and not left_over.is_symlink():
        shutil.rmtree(left_over, ignore_errors=True)
    else:
        left_over.unlink(missing_ok=True)


def _is_of_this_host(owner: str) -> bool:
    """Whether this machine's lock tells that the owner of unfinished work is dead."""
    return owner == PARTIAL or owner.isdigit() or owner.rpartition("-")[0] == socket.gethostname()


def _is_verified(path: Path) -> bool:
    try:
        return _stamp(path) in _VERIFIED
    except FileNotFoundError:
        return False


def _stamp(path: Path) -> tuple[str, int]:
    return str(path), (path / MANIFEST).stat().st_mtime_ns


def _explained(error: OSError) -> str:
    if disk_is_full(error):
        return "the disk is full; make space and resume: what was finished is kept"
    return str(error)
