"""Where things lie in a store, on a disk and on an object store alike.

Owns names: ``<kind>/<first two of the digest>/<digest>/`` is a finished artifact. Beside it lie its
lock and, hidden, unfinished work; ``.damaged/`` holds what failed its checksums. Opens nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pdo_search.base.process import host_and_process

__all__ = [
    "DAMAGED",
    "PARTIAL",
    "Place",
    "cache_of",
    "damaged_name",
    "owner_of_unfinished",
    "place_of",
    "place_of_damaged",
    "unfinished_name",
]

DAMAGED = ".damaged"
PARTIAL = "partial"
_KIND = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_DIGEST = r"[0-9a-f]{32}"
_DAMAGED_NAME = re.compile(rf"({_KIND})\.({_DIGEST})\.\d+")
_UNFINISHED_NAME = re.compile(rf"\.({_DIGEST})\.({PARTIAL}|.+-\d+|\d+)")


@dataclass(frozen=True)
class Place:
    """Which artifact something belongs to.

    Attributes:
        kind: what it is, such as ``teacher``.
        digest: its name.
    """

    kind: str
    digest: str

    @property
    def name(self) -> str:
        """Its directory, relative to the store's root."""
        return f"{self.kind}/{self.digest[:2]}/{self.digest}"


def place_of(name: str) -> Place | None:
    """The place that a relative directory name is, or None where it is no artifact's."""
    parts = PurePosixPath(name).parts
    if len(parts) != 3 or not re.fullmatch(_KIND, parts[0]) or not re.fullmatch(_DIGEST, parts[2]):
        return None
    return Place(parts[0], parts[2]) if parts[1] == parts[2][:2] else None


def unfinished_name(digest: str, *, resumable: bool = False) -> str:
    """Name of the directory in which this process builds, fetches or removes an artifact."""
    return f".{digest}.{PARTIAL if resumable else host_and_process()}"


def owner_of_unfinished(name: str) -> tuple[str, str] | None:
    """Digest and owner (``partial``, or host and process) of such a name; None for any other."""
    match = _UNFINISHED_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def damaged_name(place: Place) -> str:
    """A new name below the root for an artifact that is set aside now."""
    return f"{DAMAGED}/{place.kind}.{place.digest}.{time.time_ns()}"


def place_of_damaged(name: str) -> Place | None:
    """Which artifact a child of ``.damaged`` was; None where it is something else."""
    match = _DAMAGED_NAME.fullmatch(name)
    return Place(match[1], match[2]) if match else None


def cache_of(uri: str) -> Path:
    """Where the artifacts of an object store are mirrored on this machine."""
    given = os.environ.get("PDO_SEARCH_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "pdo_search"
    return cache / "store" / hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()
