"""What lies in a store, on a disk or an object store: seen, checked, set aside, removed.

Owns how each of the two is looked through and changed safely. Which artifacts are to go is decided
in ``housekeeping``. Names are checked before anything is deleted: only what the store itself could
have made is touched, whatever else lies there and whatever a manifest says.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pdo_search.base.lease import Lease, is_forgotten
from pdo_search.base.safefile import read_regular
from pdo_search.base.storage import ObjectInfo, Storage
from pdo_search.store.layout import (
    DAMAGED,
    PARTIAL,
    Place,
    damaged_name,
    owner_of_unfinished,
    place_of,
    place_of_damaged,
    unfinished_name,
)
from pdo_search.store.manifest import (
    MANIFEST,
    MAX_BYTES,
    Damage,
    Manifest,
    damage_of,
    first_damage,
    parse,
    what_it_is,
)
from pdo_search.store.use import alone_with

__all__ = ["Entry", "LeftOver", "LocalShelf", "ObjectShelf", "Shelf"]

READERS = 16
PARTIAL_WORK = "partial work"
SET_ASIDE = "damaged"


@dataclass(frozen=True)
class Entry:
    """An artifact in a store.

    Attributes:
        place: its kind and digest.
        what: what it is, for a reader.
        bytes: space it takes.
        built_at: when its build began, seconds since 1970; None where its manifest is unreadable.
        used_at: when it was used last, seconds since 1970.
        path: where it lies.
    """

    place: Place
    what: str
    bytes: int
    built_at: float | None
    used_at: float
    path: str


@dataclass(frozen=True)
class LeftOver:
    """Something that is no finished artifact.

    Attributes:
        place: the artifact that it would have been, or was.
        what: what it is.
        bytes: space it takes.
        changed_at: when it was last changed, seconds since 1970.
        path: where it lies.
        name: the same, relative to the root.
    """

    place: Place
    what: str
    bytes: int
    changed_at: float
    path: str
    name: str


class LocalShelf:
    """A store on this machine's disk.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def is_one(self) -> bool:
        """Whether anything that a store makes lies there."""
        return any(self._artifacts()) or any(self._unfinished())

    def entries(self) -> list[Entry]:
        """All artifacts, damaged ones among them."""
        found = []
        for place, path in self._artifacts():
            manifest = _parsed(_content(path / MANIFEST))
            # Another process may remove it meanwhile.
            with suppress(FileNotFoundError):
                found.append(
                    Entry(
                        place,
                        what_it_is(place.kind, manifest),
                        _size(path),
                        manifest.built_at if manifest else None,
                        path.stat().st_mtime,
                        str(path),
                    )
                )
        return found

    def left_overs(self) -> list[LeftOver]:
        """Unfinished work that nobody is at, and what was set aside as damaged."""
        found = []
        for place, what, path in self._unfinished():
            if what != SET_ASIDE and self._is_locked(place):
                continue
            name = path.relative_to(self.root).as_posix()
            with suppress(FileNotFoundError):
                changed_at = max(f.lstat().st_mtime for f in (path, *path.rglob("*")))
                found.append(LeftOver(place, what, _size(path), changed_at, str(path), name))
        return found

    def _artifacts(self) -> Iterator[tuple[Place, Path]]:
        for path in sorted(self.root.glob("*/??/*")):
            place = place_of(path.relative_to(self.root).as_posix())
            if place and self._is_own_folder(path):
                yield place, path

    def _unfinished(self) -> Iterator[tuple[Place, str, Path]]:
        for path in sorted((*self.root.glob("*/??/.*"), *self.root.glob(f"{DAMAGED}/*"))):
            whose = _whose(path.relative_to(self.root).as_posix())
            if whose and self._is_own_folder(path):
                yield *whose, path

    def _is_own_folder(self, path: Path) -> bool:
        """Whether it is a folder that lies in this store: a link may lead to another's."""
        inside = path.relative_to(self.root)
        way = (self.root / part for part in (inside, *inside.parents[:-1]))
        return path.is_dir() and not any(part.is_symlink() for part in way)

    def damage(self, entry: Entry) -> Damage | None:
        """What is wrong with an artifact, every checksum computed."""
        return damage_of(self.root / entry.place.name)

    def is_in_use(self, entry: Entry) -> bool:
        """Whether it is being built, or a living process was given it."""
        with self._alone(entry.place) as alone:
            return not alone

    def set_aside(self, entry: Entry) -> bool:
        """Move an artifact to ``.damaged``; False where it is being built."""
        with self._locked(entry.place) as locked:
            if not locked:
                return False
            aside = Storage(self.root).local_file(damaged_name(entry.place))
            (self.root / entry.place.name).rename(aside)
            return True

    def remove(self, entry: Entry) -> bool:
        """Remove an artifact; False where it is in use."""
        path = self.root / entry.place.name
        with self._alone(entry.place) as alone:
            if not alone:
                return False
            # It is gone at once; if this process dies, the rest is a left-over.
            beside = path.with_name(unfinished_name(entry.place.digest))
            path.rename(beside)
            shutil.rmtree(beside)
            return True

    def remove_left_over(self, left_over: LeftOver) -> bool:
        """Remove it; False where somebody is at it."""
        path = self.root / left_over.name
        if left_over.what == SET_ASIDE:
            shutil.rmtree(path)
            return True
        with self._locked(left_over.place) as locked:
            if locked:
                shutil.rmtree(path)
            return locked

    @contextmanager
    def _alone(self, place: Place) -> Iterator[bool]:
        with self._locked(place) as locked:
            if not locked:
                yield False
                return
            with alone_with(self.root / place.name) as alone:
                yield alone

    @contextmanager
    def _locked(self, place: Place) -> Iterator[bool]:
        lock = FileLock(self.root / f"{place.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _is_locked(self, place: Place) -> bool:
        if not (self.root / f"{place.name}.lock").exists():
            return False
        with self._locked(place) as locked:
            return not locked


class ObjectShelf:
    """A store on an object store, together with this machine's mirror of it.

    Last use is what any machine recorded there. Another machine that uses an artifact has a copy of
    its own, so removing one breaks nobody.

    Args:
        uri: its root.
        cache: this machine's mirror.
    """

    def __init__(self, uri: str, cache: Path) -> None:
        self.mirror = Storage(uri)
        self.local = LocalShelf(cache)

    def is_one(self) -> bool:
        """Whether anything that a store makes lies there."""
        listing = self.mirror.objects()
        return bool(_by_place(listing)) or any(n.startswith(f"{DAMAGED}/") for n in listing)

    def entries(self) -> list[Entry]:
        """All artifacts, damaged ones among them."""
        listing = self.mirror.objects()
        whole = {
            place: files
            for place, files in _by_place(listing).items()
            if f"{place.name}/{MANIFEST}" in files
        }
        with ThreadPoolExecutor(READERS) as pool:
            contents = pool.map(lambda p: self.mirror.read_if_there(f"{p.name}/{MANIFEST}"), whole)
        found = []
        for (place, files), content in zip(whole.items(), contents, strict=True):
            manifest = _parsed(content)
            published = files[f"{place.name}/{MANIFEST}"]
            used = listing.get(f"{place.name}.used", published)
            found.append(
                Entry(
                    place,
                    what_it_is(place.kind, manifest),
                    sum(info.bytes for info in files.values()),
                    manifest.built_at if manifest else None,
                    max(published.changed_at, used.changed_at),
                    f"{self.mirror.root}/{place.name}",
                )
            )
        return found

    def left_overs(self) -> list[LeftOver]:
        """Dead uploads, what was set aside, and the left-overs of this machine's mirror."""
        listing = self.mirror.objects()
        found = self.local.left_overs()
        groups: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
        for name, info in listing.items():
            if name.startswith(f"{DAMAGED}/"):
                groups["/".join(name.split("/")[:2])][name] = info
        for place, files in _by_place(listing).items():
            if f"{place.name}/{MANIFEST}" not in files:
                groups[place.name] = files
        for name, files in groups.items():
            whose = _whose(name) or ((p, "half an upload") if (p := place_of(name)) else None)
            if whose is None:
                continue
            place, what = whose
            changed_at = max(info.changed_at for info in files.values())
            lease = listing.get(f"{place.name}.lease", ObjectInfo(0, 0.0))
            if what != SET_ASIDE and not is_forgotten(max(changed_at, lease.changed_at)):
                continue
            size = sum(info.bytes for info in files.values())
            path = f"{self.mirror.root}/{name}"
            found.append(LeftOver(place, what, size, changed_at, path, name))
        return found

    def damage(self, entry: Entry) -> Damage | None:
        """What is wrong with an artifact on the object store, every checksum computed."""
        place = entry.place.name
        return first_damage(
            lambda: self.mirror.read_if_there(f"{place}/{MANIFEST}"),
            lambda name: self.mirror.sha256_of(f"{place}/{name}"),
        )

    def is_in_use(self, entry: Entry) -> bool:
        """Whether it is being built anywhere, or used on this machine."""
        lease = self.mirror.info(f"{entry.place.name}.lease")
        if lease is not None and not is_forgotten(lease.changed_at):
            return True
        return self._is_here(entry) and self.local.is_in_use(entry)

    def set_aside(self, entry: Entry) -> bool:
        """Move an artifact to ``.damaged``; False where it is being built."""
        with self._leased(entry) as leased:
            if leased:
                aside = damaged_name(entry.place)
                for name in self._names(entry):
                    self.mirror.move(name, name.replace(entry.place.name, aside, 1))
            return leased

    def remove(self, entry: Entry) -> bool:
        """Remove an artifact here and there; False where it is in use."""
        with self._leased(entry) as leased:
            if not leased or (self._is_here(entry) and not self.local.remove(entry)):
                return False
            for name in (*self._names(entry), f"{entry.place.name}.used"):
                self.mirror.delete(name)
            return True

    def remove_left_over(self, left_over: LeftOver) -> bool:
        """Remove it; False where somebody is at it."""
        if not left_over.path.startswith(f"{self.mirror.root}/"):
            return self.local.remove_left_over(left_over)
        for name in self.mirror.objects(left_over.name):
            self.mirror.delete(name)
        if left_over.what != SET_ASIDE:
            self.mirror.delete(f"{left_over.place.name}.lease")
        return True

    @contextmanager
    def _leased(self, entry: Entry) -> Iterator[bool]:
        lease = Lease(self.mirror, f"{entry.place.name}.lease", entry.place.name)
        if not lease.take(settle_s=0):
            yield False
            return
        try:
            yield True
        finally:
            lease.release()

    def _names(self, entry: Entry) -> list[str]:
        """An artifact's objects, its manifest first: without it, it is not there."""
        manifest = f"{entry.place.name}/{MANIFEST}"
        return [manifest, *(n for n in self.mirror.objects(entry.place.name) if n != manifest)]

    def _is_here(self, entry: Entry) -> bool:
        return (self.local.root / entry.place.name).is_dir()


Shelf = LocalShelf | ObjectShelf
"""A store's root, to be looked after."""


def _whose(name: str) -> tuple[Place, str] | None:
    """The artifact and what it is, of the name of unfinished work or of something set aside."""
    parent, _, last = name.rpartition("/")
    if parent == DAMAGED:
        place = place_of_damaged(last)
        return (place, SET_ASIDE) if place else None
    owner = owner_of_unfinished(last)
    place = place_of(f"{parent}/{owner[0]}") if owner else None
    if owner is None or place is None:
        return None
    return place, PARTIAL_WORK if owner[1] == PARTIAL else "unfinished"


def _by_place(listing: Mapping[str, ObjectInfo]) -> dict[Place, dict[str, ObjectInfo]]:
    """Objects by the artifact in whose directory they lie."""
    found: dict[Place, dict[str, ObjectInfo]] = defaultdict(dict)
    for name, info in listing.items():
        parts = name.split("/")
        place = place_of("/".join(parts[:3])) if len(parts) > 3 else None
        if place:
            found[place][name] = info
    return found


def _parsed(content: bytes | None) -> Manifest | None:
    try:
        return parse(content) if content is not None else None
    except ValueError:
        return None


def _content(file: Path) -> bytes | None:
    try:
        return None if file.is_symlink() else read_regular(file, MAX_BYTES)
    except OSError:
        return None


def _size(folder: Path) -> int:
    """Bytes of the files below a directory; links are not followed."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_dir() or f.is_symlink())
