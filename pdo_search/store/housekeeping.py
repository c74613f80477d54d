"""Looking after a store: what is in it, whether it is whole, and what may go.

Owns the decisions and what the commands answer, JSON-able. How a disk or an object store is changed
is ``shelf``; how answers look is ``show``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.sizes import SIZE_REMEDY, bytes_of
from pdo_search.base.storage import is_uri
from pdo_search.store.layout import cache_of
from pdo_search.store.shelf import (
    PARTIAL_WORK,
    Entry,
    LeftOver,
    LocalShelf,
    ObjectShelf,
    Shelf,
)

__all__ = [
    "Criteria",
    "collect",
    "duration_of",
    "expendable",
    "listing",
    "open_shelf",
    "size_of",
    "verification",
]

STORE = ".store"
KINDS = ("teacher", "level", "rung", "bank", "tested")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Criteria:
    """Which artifacts are to go. Without any, none.

    Attributes:
        older_than_s: those that were not used for this long, seconds.
        max_bytes: of the rest those used longest ago, until no more than this is left.
        kind: only those of this kind; others are neither counted nor removed.
    """

    older_than_s: float | None = None
    max_bytes: int | None = None
    kind: str | None = None


def duration_of(text: str, path: str) -> float:
    """``90s``, ``20m``, ``12h``, ``7d``, ``2w`` as seconds.

    Raises:
        InputError: it is none of them.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text)
    if not match:
        raise InputError(
            "is no duration", path=path, value=text, remedy="write 12h, 7d or 2w (s, m, h, d, w)"
        )
    return float(match[1]) * SECONDS[match[2]]


def size_of(text: str, path: str) -> int:
    """``500MB``, ``10GB``, ``1.5TB``, ``8GiB`` as bytes.

    Raises:
        InputError: it is none of them.
    """
    try:
        return bytes_of(text)
    except ValueError as error:
        raise InputError(str(error), path=path, value=text, remedy=SIZE_REMEDY) from None


def open_shelf(root: str) -> tuple[str, Shelf]:
    """The store at a root, or the one that a sweep's output root contains.

    Returns:
        The store's own root, and the store.

    Raises:
        InputError: there is no store.
    """
    trimmed = root.rstrip("/") or "/"
    inner = trimmed if trimmed.endswith(f"/{STORE}") or trimmed == STORE else f"{trimmed}/{STORE}"
    if not is_uri(root) and not Path(root).is_dir():
        raise InputError("is no folder", file=root, remedy=f"give the path of a {STORE} folder")
    for candidate in dict.fromkeys((inner, trimmed)):
        if is_uri(candidate):
            shelf: Shelf = ObjectShelf(candidate, cache_of(candidate))
        else:
            shelf = LocalShelf(Path(candidate))
        if _is_empty_store(candidate) or shelf.is_one():
            return candidate, shelf
    raise InputError(
        "holds no artifact store",
        file=root,
        remedy=f"give a sweep's output root, such as results, or its {STORE}",
    )


def _is_empty_store(root: str) -> bool:
    path = Path(root)
    return not is_uri(root) and path.is_dir() and (path.name == STORE or not any(path.iterdir()))


def listing(root: str) -> dict[str, Any]:
    """What is in a store.

    Returns:
        ``root``, ``entries`` (those used last first) and ``totals`` by kind.

    Raises:
        InputError: there is no store.
        StoreError: it cannot be read.
    """
    try:
        root, shelf = open_shelf(root)
        entries = sorted(shelf.entries(), key=lambda e: (-e.used_at, e.place.name))
    except OSError as error:
        raise StoreError(f"{root} cannot be read: {error}") from error
    return {
        "root": root,
        "entries": [_entry_row(entry) for entry in entries],
        "totals": _totals(entries),
    }


def verification(root: str, *, repair: bool) -> dict[str, Any]:
    """Compute every checksum.

    Args:
        root: of the store.
        repair: set damaged artifacts aside; they are built again when they are needed.

    Returns:
        ``root``, ``checked`` and ``bytes`` of all, and ``damaged``: each with ``file``, ``why`` and
        whether it was ``set_aside``.

    Raises:
        InputError: there is no store.
        StoreError: it cannot be read or changed.
    """
    try:
        root, shelf = open_shelf(root)
        entries = shelf.entries()
        damaged = []
        for entry in entries:
            damage = shelf.damage(entry)
            if damage:
                damaged.append(
                    {
                        **_entry_row(entry),
                        "file": damage.file,
                        "why": damage.why,
                        "set_aside": repair and shelf.set_aside(entry),
                    }
                )
    except OSError as error:
        raise StoreError(f"{root} cannot be verified: {error}") from error
    return {
        "root": root,
        "checked": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "damaged": damaged,
    }


def collect(root: str, criteria: Criteria, *, dry_run: bool) -> dict[str, Any]:
    """Remove what may go: left-overs always, artifacts by the criteria.

    Returns:
        ``root``, ``dry_run``, ``removed`` (artifacts and left-overs), ``in_use`` (those that were
        due and were kept), and ``bytes`` freed and ``left`` in the artifacts.

    Raises:
        InputError: there is no store, or no such kind.
        StoreError: it cannot be read or changed.
    """
    now = time.time()
    try:
        root, shelf = open_shelf(root)
        entries, left_overs = shelf.entries(), shelf.left_overs()
        there = {e.place.kind for e in entries} | {one.place.kind for one in left_overs}
        _check_kind(criteria.kind, there)
        due: list[Entry | LeftOver] = [one for one in left_overs if _is_due(one, criteria, now)]
        wanted = expendable(entries, criteria, now=now, busy=frozenset())
        if wanted:
            busy = frozenset(e.place.name for e in entries if shelf.is_in_use(e))
            due += expendable(entries, criteria, now=now, busy=busy)
        removed = [one for one in due if dry_run or _removed(shelf, one)]
    except OSError as error:
        raise StoreError(f"{root} cannot be cleaned: {error}") from error
    gone = {one.path for one in removed}
    return {
        "root": root,
        "dry_run": dry_run,
        "removed": [_entry_row(one) for one in removed],
        "in_use": [_entry_row(e) for e in wanted if e.path not in gone],
        "bytes": sum(one.bytes for one in removed),
        "left": sum(entry.bytes for entry in entries if entry.path not in gone),
    }


def expendable(
    entries: Iterable[Entry], criteria: Criteria, *, now: float, busy: frozenset[str]
) -> list[Entry]:
    """The artifacts that are to go, those used longest ago first.

    Args:
        entries: all.
        criteria: which.
        now: seconds since 1970.
        busy: names of those in use: they count and stay.
    """
    oldest_first = sorted(entries, key=lambda e: (e.used_at, e.place.name))
    left = [e for e in oldest_first if criteria.kind in (None, e.place.kind)]
    total = sum(entry.bytes for entry in left)
    due = []
    for entry in left:
        if entry.place.name in busy:
            continue
        too_old = criteria.older_than_s is not None and now - entry.used_at > criteria.older_than_s
        too_much = criteria.max_bytes is not None and total > criteria.max_bytes
        if too_old or too_much:
            due.append(entry)
            total -= entry.bytes
    return due


def _check_kind(kind: str | None, there: set[str]) -> None:
    known = there.union(KINDS)
    if kind is not None and kind not in known:
        raise InputError(
            "is no kind of artifact",
            path="--kind",
            value=kind,
            remedy=f"write one of {', '.join(sorted(known))}",
        )


def _is_due(left_over: LeftOver, criteria: Criteria, now: float) -> bool:
    """Partial work is worth something: it goes only by its age."""
    if criteria.kind not in (None, left_over.place.kind):
        return False
    if left_over.what != PARTIAL_WORK:
        return True
    return criteria.older_than_s is not None and now - left_over.changed_at > criteria.older_than_s


def _removed(shelf: Shelf, one: Entry | LeftOver) -> bool:
    return shelf.remove(one) if isinstance(one, Entry) else shelf.remove_left_over(one)


def _entry_row(one: Entry | LeftOver) -> dict[str, Any]:
    row = {
        "kind": one.place.kind,
        "digest": one.place.digest,
        "what": one.what,
        "bytes": one.bytes,
        "path": one.path,
    }
    if isinstance(one, Entry):
        return row | {"built_at": one.built_at, "used_at": one.used_at}
    return row | {"changed_at": one.changed_at}


def _totals(entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for entry in entries:
        total = totals.setdefault(entry.place.kind, {"count": 0, "bytes": 0})
        total["count"] += 1
        total["bytes"] += entry.bytes
    return dict(sorted(totals.items()))
