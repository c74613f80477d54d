"""Object stores, by the one file that knows pyarrow.fs: bytes by name, asked for with patience.

A write of up to 10 MiB is one request, larger ones go up in pieces; what the network refuses is
tried again for ``patience``; no folder markers are made but those that Arrow leaves where it
deletes and moves. What a file on a disk needs beside is ``storage``'s matter.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pdo_search.base.errors import InputError

__all__ = ["CHUNK", "ObjectInfo", "Remote", "Unreachable", "is_unreachable", "patience"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK = 1 << 23
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
BY_BUCKET = ("s3", "gs", "gcs")
"""Schemes whose host is a bucket: all roots in one share a client, and there are no folders."""
FINAL = ("ACCESS_DENIED", "NO_SUCH", "INVALID_", "SIGNATURE", "UNRECOGNIZED_CLIENT", "PERMISSION")
"""Words in an object store's answer that no waiting changes."""

_patience_s = 0.0


class Unreachable(ConnectionError):
    """An object store did not answer for as long as it was waited for."""


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is an object store that did not answer."""
    while error is not None:
        if isinstance(error, Unreachable):
            return True
        error = error.__cause__
    return False


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let every object store of this process be asked for so long what the network refuses.

    Outside of such a block nothing is tried again: whoever asks at a terminal is told at once.
    """
    global _patience_s
    before, _patience_s = _patience_s, seconds
    try:
        yield
    finally:
        _patience_s = before


@dataclass(frozen=True)
class ObjectInfo:
    """A file in a listing.

    Attributes:
        bytes: its size.
        changed_at: when it was written, by the storage's clock, seconds since 1970.
    """

    bytes: int
    changed_at: float


class Remote:
    """A directory on an object store; names are relative to it.

    Methods raise ``FileNotFoundError`` where there is nothing, ``Unreachable`` where there is no
    answer, and ``OSError`` otherwise.

    Args:
        root: a URI that pyarrow knows (``s3://…``).
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def retried(self, name: str, work: Callable[[], T]) -> T:
        """Do it, again and again for the process's patience where the network refuses it.

        Raises:
            Unreachable: it was refused to the end.
        """
        deadline, pause = time.monotonic() + _patience_s, FIRST_PAUSE_S
        while True:
            try:
                return work()
            except FileNotFoundError:
                raise
            except OSError as error:
                if any(word in str(error).upper() for word in FINAL):
                    raise
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unreachable(
                        errno.EHOSTUNREACH, f"the object store does not answer: {error}"
                    ) from error
                log.warning("%s/%s: tried again in %.1f s: %s", self.root, name, pause, error)
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def read(self, name: str, limit: int) -> bytes | None:
        """An object's content; None where it is larger than the limit."""
        return self.retried(name, lambda: self._read(name, limit))

    def _read(self, name: str, limit: int) -> bytes | None:
        """Its size is one request and its content another: a longer object that comes in between
        would be cut off. So it is read until it is known to be of one version.
        """
        filesystem, path = self._client
        data, before = b"", None
        while True:
            with filesystem.open_input_file(f"{path}/{name}") as file:
                version = (file.metadata() or {}).get("ETag")
                if version is not None and version == before:
                    return data
                if file.size() > limit:
                    return None
                data, before = bytes(file.read()), version
            # The usual tag is a checksum; of another kind, it is asked for once more.
            checksum = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if version is None or version.strip(b'"') == checksum.encode():
                return data

    def sha256_of(self, name: str) -> str:
        """Hexadecimal checksum of an object's content."""

        def work() -> str:
            checksum = hashlib.sha256()
            for block in self._blocks(name):
                checksum.update(block)
            return checksum.hexdigest()

        return self.retried(name, work)

    def get(self, name: str, file: Path) -> None:
        """Copy an object into a local file."""

        def work() -> None:
            with file.open("wb") as target:
                for block in self._blocks(name):
                    target.write(block)

        self.retried(name, work)

    def _blocks(self, name: str) -> Iterator[bytes]:
        filesystem, path = self._client
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            while block := stream.read(CHUNK):
                yield block

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it."""
        self.retried(name, lambda: self._write(name, iter([data])))

    def put(self, file: Path, name: str) -> None:
        """Copy a local file to an object."""

        def work() -> None:
            with file.open("rb") as source:
                self._write(name, iter(lambda: source.read(CHUNK), b""))

        self.retried(name, work)

    def _write(self, name: str, blocks: Iterator[bytes]) -> None:
        filesystem, path = self._client
        self._make_folder(name)
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            for block in blocks:
                stream.write(block)

    def info(self, name: str) -> ObjectInfo | None:
        """Size and time of an object; None where there is none."""

        def work() -> ObjectInfo | None:
            filesystem, path = self._client
            info = filesystem.get_file_info(f"{path}/{name}")
            return _info(info) if info.is_file else None

        return self.retried(name, work)

    def names(self, folder: str) -> list[str]:
        """Names of the objects directly in a folder, without the folder's."""
        listed = self.retried(folder, lambda: self._listed(folder, recursive=False))
        return [info.base_name for info in listed]

    def objects(self, folder: str) -> dict[str, ObjectInfo]:
        """All objects below a folder, by name."""
        listed = self.retried(folder, lambda: self._listed(folder, recursive=True))
        _, path = self._client
        return {info.path[len(path) + 1 :]: _info(info) for info in listed}

    def _listed(self, folder: str, *, recursive: bool) -> list[Any]:
        from pyarrow import fs

        filesystem, path = self._client
        selector = fs.FileSelector(
            f"{path}/{folder}".rstrip("/"), allow_not_found=True, recursive=recursive
        )
        return [info for info in filesystem.get_file_info(selector) if info.is_file]

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def work() -> None:
            filesystem, path = self._client
            with suppress(FileNotFoundError):
                filesystem.delete_file(f"{path}/{name}")

        self.retried(name, work)

    def move(self, name: str, new_name: str) -> None:
        """Give an object another name."""

        def work() -> None:
            filesystem, path = self._client
            self._make_folder(new_name)
            filesystem.move(f"{path}/{name}", f"{path}/{new_name}")

        self.retried(name, work)

    @cached_property
    def _client(self) -> tuple[Any, str]:
        """The filesystem and the root's path in it.

        Raises:
            InputError: it is no URI that can be opened.
        """
        parts = urlsplit(self.root)
        try:
            if parts.scheme not in BY_BUCKET:
                filesystem, path = _filesystem(self.root)
                return filesystem, path.rstrip("/")
            # Without waiting for the first bytes: a small object is one request and not three.
            query = "?allow_delayed_open=true" if parts.scheme == "s3" else ""
            filesystem, bucket = _filesystem(f"{parts.scheme}://{parts.netloc}{query}")
            return filesystem, f"{bucket}{unquote(parts.path)}".rstrip("/")
        except ValueError as error:
            raise InputError(
                f"is neither a path nor a URI that can be opened: {error}",
                file=self.root,
                remedy="write s3://bucket/folder, gs://bucket/folder or a local path",
            ) from None

    def _make_folder(self, name: str) -> None:
        """Make the folder of a file where a file system of the network has some."""
        if urlsplit(self.root).scheme not in BY_BUCKET:
            filesystem, path = self._client
            filesystem.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)


@lru_cache(maxsize=64)
def _filesystem(uri: str) -> tuple[Any, str]:
    """A client, made once: making one asks the object store where the bucket is."""
    from pyarrow import fs

    found: tuple[Any, str] = fs.FileSystem.from_uri(uri)
    return found


# A client that outlives pyarrow's own clean-up can hang it (apache/arrow issue 50188).
atexit.register(_filesystem.cache_clear)


def _info(found: Any) -> ObjectInfo:
    return ObjectInfo(found.size, found.mtime.timestamp() if found.mtime else 0.0)
