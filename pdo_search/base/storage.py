"""The one door to disks and object stores: read, replace atomically, list, copy.

A ``Storage`` is a directory, by path or URI. It knows bytes and names; what they mean is known
above. On a disk a file is replaced by a rename, and links below the directory are never followed by
what writes: whoever made the directory may be a stranger. On an object store a write is one
request where it is small, no folder markers are made, and what the network refuses is tried again
for ``patience``.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.process import host_and_process
from pdo_search.base.safefile import NOT_REGULAR, odd_entry, open_regular, read_regular

__all__ = ["ObjectInfo", "Storage", "Unreachable", "is_unreachable", "is_uri", "patience"]

log = logging.getLogger(__name__)

T = TypeVar("T")

TEMPORARY = ".tmp-"
MAX_BYTES = 256 << 20
"""Of a file that is read at once: a block of 64 trials with a thousand epochs each has about ten
million."""
CHUNK = 1 << 23
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems where a file has one name, such as exFAT and mounted buckets."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
BY_BUCKET = ("s3", "gs", "gcs")
"""Schemes whose host is a bucket: all roots in one share a client, and there are no folders."""
FINAL = ("ACCESS_DENIED", "NO_SUCH", "INVALID_", "SIGNATURE", "UNRECOGNIZED_CLIENT", "PERMISSION")
"""Words in an object store's answer that no waiting changes."""

_patience_s = 0.0


class Unreachable(ConnectionError):
    """An object store did not answer for as long as it was waited for."""


def is_uri(path: str) -> bool:
    """Whether a path names an object store (``s3://…``) and not the local disk."""
    return "://" in path and not PurePath(path).is_absolute()


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is an object store that did not answer."""
    while error is not None:
        if isinstance(error, Unreachable):
            return True
        error = error.__cause__
    return False


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let every storage of this process try again for so long what the network refuses.

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


class Storage:
    """A directory on a disk or an object store. It need not exist before something is written.

    Names are relative to it, with slashes. Methods that read raise ``FileNotFoundError`` where
    there is nothing, ``Unreachable`` where an object store does not answer, and ``OSError``
    otherwise.

    Args:
        root: a local path, a ``file://`` URI, or a URI that pyarrow knows (``s3://…``).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if self.root.startswith("file://"):
            self.root = unquote(urlsplit(self.root).path)
        self.is_local = not is_uri(self.root)
        if not self.is_local:
            self.root = self.root.rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """Replace a file; readers and crashes see the old one or the new one.

        Raises:
            StoreError: it cannot be written; the old file is still there.
        """
        try:
            if self.is_local:
                self._write_local(name, data)
            else:
                self.retried(name, lambda: self._put(name, data))
        except OSError as error:
            raise self._unwritten(name, error) from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a file on a disk where there is none: of several processes one does.

        Returns:
            False where there is one already.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._write_local(name, data, _place_new)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._unwritten(name, error) from error
        return True

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """A file's content, all of it from one version, whoever replaces it meanwhile.

        Raises:
            OSError: it is none that a sweep has, such as a pipe, or larger than the limit.
        """
        if self.is_local:
            return read_regular(Path(self.root) / name, limit)

        data = self.retried(name, lambda: self._read_remote(name, limit))
        if data is None:
            raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", name)
        return data

    def read_if_there(self, name: str, limit: int = MAX_BYTES) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            return self.read(name, limit)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def info(self, name: str) -> ObjectInfo | None:
        """Size and time of a file; None where there is none."""
        if self.is_local:
            try:
                found = (Path(self.root) / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return ObjectInfo(found.st_size, found.st_mtime)

        def work() -> ObjectInfo | None:
            filesystem, path = self._remote
            info = filesystem.get_file_info(f"{path}/{name}")
            return _info(info) if info.is_file else None

        return self.retried(name, work)

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the entries directly in a folder that end in a suffix, sorted; hidden ones not.

        On a disk these are all entries: where a pipe or a folder stands in the place of a file,
        whoever reads it is told.
        """
        return [name for name in self._all(folder) if name.endswith(suffix) and name[0] not in "._"]

    def objects(self, folder: str = "") -> dict[str, ObjectInfo]:
        """All files below a folder, by name, in the names' order."""
        if self.is_local:
            root = Path(self.root)
            found = {}
            for path in (root / folder).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    stat = path.stat()
                    name = path.relative_to(root).as_posix()
                    found[name] = ObjectInfo(stat.st_size, stat.st_mtime)
            return dict(sorted(found.items()))

        def work() -> dict[str, ObjectInfo]:
            _, path = self._remote
            listed = self._listed(folder, recursive=True)
            return {info.path[len(path) + 1 :]: _info(info) for info in listed}

        return dict(sorted(self.retried(folder, work).items()))

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.is_local:
            self._own(name).unlink(missing_ok=True)
            return

        def work() -> None:
            filesystem, path = self._remote
            with suppress(FileNotFoundError):
                filesystem.delete_file(f"{path}/{name}")

        self.retried(name, work)

    def move(self, name: str, new_name: str) -> None:
        """Give a file another name."""
        if self.is_local:
            target = self._own(new_name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._own(name).rename(target)
            return

        def work() -> None:
            filesystem, path = self._remote
            self._make_folder(new_name)
            filesystem.move(f"{path}/{name}", f"{path}/{new_name}")

        self.retried(name, work)

    def set_aside(self, name: str) -> str:
        """Rename a file so that no reader takes it for a part of a table; its new name."""
        flat = f".damaged-{name.replace('/', '-')}"
        taken, aside, count = set(self._all("")), flat, 1
        while aside in taken:
            count += 1
            aside = f"{flat}.{count}"
        self.move(name, aside)
        return aside

    def sha256_of(self, name: str) -> str:
        """Hexadecimal checksum of a file's content."""
        if self.is_local:
            with open_regular(Path(self.root) / name) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        def work() -> str:
            filesystem, path = self._remote
            checksum = hashlib.sha256()
            with filesystem.open_input_stream(f"{path}/{name}") as stream:
                while block := stream.read(CHUNK):
                    checksum.update(block)
            return checksum.hexdigest()

        return self.retried(name, work)

    def fetch(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Copy files of a folder of this storage into a local directory."""
        for name in names:
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            source = f"{folder}/{name}" if folder else name
            self.retried(source, partial(self._get, source, file))

    def put(self, source: Path, folder: str, names: Iterable[str]) -> None:
        """Copy files of a local directory into a folder of this storage, in their order.

        Raises:
            StoreError: a file cannot be written.
        """
        for name in names:
            target = f"{folder}/{name}"
            if (source / name).stat().st_size <= CHUNK:
                self.write(target, (source / name).read_bytes())
                continue
            try:
                self.retried(target, partial(self._put_file, source / name, target))
            except OSError as error:
                raise self._unwritten(target, error) from error

    def publish(self, source: Path, folder: str) -> None:
        """Copy a finished local directory to a folder, replacing an earlier one.

        On a disk it appears whole or not at all, also where ``source`` lies on another one.

        Raises:
            StoreError: the directory holds a link, whose target must not be copied; or it cannot be
                written.
        """
        if odd := odd_entry(source):
            raise StoreError(f"{odd} is neither a file nor a folder: {source} is not copied")
        if not self.is_local:
            files = (
                f.relative_to(source).as_posix() for f in sorted(source.rglob("*")) if f.is_file()
            )
            self.put(source, folder, files)
            return
        target = self._own(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{host_and_process()}")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            shutil.copytree(source, beside)
            if target.exists():
                shutil.rmtree(target)
            beside.rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed while it wrote."""
        if self.is_local:  # An object appears whole or not at all.
            for name in self._all(""):
                left = Path(self.root) / name
                if name.startswith(".") and TEMPORARY in name and not left.is_dir():
                    left.unlink(missing_ok=True)

    def local_file(self, name: str) -> Path:
        """The path of a file that is about to be written on a local disk, its folder made.

        Raises:
            StoreError: a part of the way to it is a link, something else than a file stands there,
                or its folder cannot be made.
        """
        try:
            path = self._own_file(name)
            # A pipe in the place of a file never answers.
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, NOT_REGULAR, str(path))
        except OSError as error:
            raise StoreError(f"{self.root}/{name} cannot be written: {error}") from error
        return path

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
                if self.is_local or any(word in str(error).upper() for word in FINAL):
                    raise
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unreachable(
                        errno.EHOSTUNREACH, f"the object store does not answer: {error}"
                    ) from error
                log.warning("%s/%s: tried again in %.1f s: %s", self.root, name, pause, error)
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _own_file(self, name: str) -> Path:
        path = self._own(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _own(self, name: str) -> Path:
        """The path of a file that is about to be changed: no part of the name is a link."""
        path = Path(self.root)
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink():
                raise OSError(errno.ELOOP, "is a link, and links in it are not followed", str(path))
        return path

    def _all(self, folder: str) -> list[str]:
        if self.is_local:
            place = Path(self.root) / folder
            return sorted(p.name for p in place.iterdir()) if place.exists() else []
        return sorted(
            info.base_name
            for info in self.retried(folder, lambda: self._listed(folder, recursive=False))
        )

    def _listed(self, folder: str, *, recursive: bool) -> list[Any]:
        from pyarrow import fs

        filesystem, path = self._remote
        selector = fs.FileSelector(
            f"{path}/{folder}".rstrip("/"), allow_not_found=True, recursive=recursive
        )
        return [info for info in filesystem.get_file_info(selector) if info.is_file]

    @cached_property
    def _remote(self) -> tuple[Any, str]:
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
            filesystem, path = self._remote
            filesystem.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)

    def _put(self, name: str, data: bytes) -> None:
        filesystem, path = self._remote
        self._make_folder(name)
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)

    def _put_file(self, file: Path, name: str) -> None:
        filesystem, path = self._remote
        self._make_folder(name)
        with file.open("rb") as source, filesystem.open_output_stream(f"{path}/{name}") as stream:
            while block := source.read(CHUNK):
                stream.write(block)

    def _get(self, name: str, file: Path) -> None:
        if self.is_local:
            shutil.copyfile(Path(self.root) / name, file)
            return
        filesystem, path = self._remote
        with filesystem.open_input_stream(f"{path}/{name}") as source, file.open("wb") as target:
            while block := source.read(CHUNK):
                target.write(block)

    def _read_remote(self, name: str, limit: int) -> bytes | None:
        """An object's content; None where it is larger than the limit.

        Its size is one request and its content another: a longer object that comes in between would
        be cut off. So it is read until it is known to be of one version.
        """
        filesystem, path = self._remote
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

    def _unwritten(self, name: str, error: OSError) -> StoreError:
        """What is told of a file that cannot be written, and what the user can do."""
        remedy = ""
        if error.errno == errno.ENOSPC:
            remedy = "; make space and resume"
        elif isinstance(error, Unreachable):
            remedy = "; resume when it answers again"
        return StoreError(
            f"{self.root}/{name} cannot be written: {error}{remedy} (what is written stays)"
        )

    def _write_local(
        self, name: str, data: bytes, place: Callable[[Path, Path], None] = os.replace
    ) -> None:
        path = self._own_file(name)
        beside = Path(self.root) / f".{name.replace('/', '-')}{TEMPORARY}{host_and_process()}"
        # Of an earlier process of this name; what is opened below is new, and no link.
        beside.unlink(missing_ok=True)
        try:
            with beside.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            place(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _place_new(beside: Path, path: Path) -> None:
    """Give a file its name, if nothing has it.

    Raises:
        FileExistsError: something has it.
    """
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(str(path)) from None
        beside.replace(path)


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
