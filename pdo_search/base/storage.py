"""The one door to disks and object stores: read, replace atomically, list, copy.

A ``Storage`` is a directory, by path or URI. It knows bytes and names; what they mean is known
above. On a disk a file is replaced by a rename, and links below the directory are never followed by
what writes: whoever made the directory may be a stranger. How an object store is asked is known to
``remote``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from pdo_search.base.errors import StoreError
from pdo_search.base.process import host_and_process
from pdo_search.base.remote import CHUNK, ObjectInfo, Remote, Unreachable
from pdo_search.base.safefile import NOT_REGULAR, odd_entry, open_regular, read_regular

__all__ = ["Storage", "is_uri"]

TEMPORARY = ".tmp-"
MAX_BYTES = 256 << 20
"""Of a file that is read at once: a block of 64 trials with a thousand epochs each has about ten
million."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems where a file has one name, such as exFAT and mounted buckets."""


def is_uri(path: str) -> bool:
    """Whether a path names an object store (``s3://…``) and not the local disk."""
    return "://" in path and not PurePath(path).is_absolute()


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
        self._remote: Remote | None = None
        if is_uri(self.root):
            self.root = self.root.rstrip("/")
            self._remote = Remote(self.root)

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk."""
        return self._remote is None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file; readers and crashes see the old one or the new one.

        Raises:
            StoreError: it cannot be written; the old file is still there.
        """
        try:
            if self._remote is None:
                self._write_local(name, [data])
            else:
                self._remote.write(name, data)
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
            self._write_local(name, [data], _place_new)
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
        if self._remote is None:
            return read_regular(Path(self.root) / name, limit)
        data = self._remote.read(name, limit)
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
        if self._remote is not None:
            return self._remote.info(name)
        try:
            found = (Path(self.root) / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(found.st_size, found.st_mtime)

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the entries directly in a folder that end in a suffix, sorted; hidden ones not.

        On a disk these are all entries: where a pipe or a folder stands in the place of a file,
        whoever reads it is told.
        """
        return [name for name in self._all(folder) if name.endswith(suffix) and name[0] not in "._"]

    def objects(self, folder: str = "") -> dict[str, ObjectInfo]:
        """All files below a folder, by name, in the names' order."""
        if self._remote is not None:
            return dict(sorted(self._remote.objects(folder).items()))
        root = Path(self.root)
        found = {}
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                found[path.relative_to(root).as_posix()] = ObjectInfo(stat.st_size, stat.st_mtime)
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self._remote is None:
            self._own(name).unlink(missing_ok=True)
        else:
            self._remote.delete(name)

    def move(self, name: str, new_name: str) -> None:
        """Give a file another name."""
        if self._remote is None:
            self._own(name).rename(self._own_file(new_name))
        else:
            self._remote.move(name, new_name)

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
        if self._remote is not None:
            return self._remote.sha256_of(name)
        with open_regular(Path(self.root) / name) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def fetch(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Copy files of a folder of this storage into a local directory."""
        for name in names:
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            source = f"{folder}/{name}" if folder else name
            if self._remote is None:
                shutil.copyfile(Path(self.root) / source, file)
            else:
                self._remote.get(source, file)

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
                if self._remote is not None:
                    self._remote.put(source / name, target)
                else:
                    with (source / name).open("rb") as file:
                        self._write_local(target, iter(partial(file.read, CHUNK), b""))
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
        if self._remote is not None:
            return sorted(self._remote.names(folder))
        place = Path(self.root) / folder
        return sorted(p.name for p in place.iterdir()) if place.exists() else []

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
        self, name: str, blocks: Iterable[bytes], place: Callable[[Path, Path], None] = os.replace
    ) -> None:
        path = self._own_file(name)
        beside = Path(self.root) / f".{name.replace('/', '-')}{TEMPORARY}{host_and_process()}"
        # Of an earlier process of this name; what is opened below is new, and no link.
        beside.unlink(missing_ok=True)
        try:
            with beside.open("xb") as stream:
                stream.writelines(blocks)
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
