"""Files of a sweep on a local disk or an object store: replaced atomically, listed, set aside.

Temporary and damaged files lie in the sweep's directory itself and never in a table's, because some
readers (Polars) take every file of a directory for a part of the table, hidden or not. Knows bytes
and names; what they mean is known above.
"""

from __future__ import annotations

import errno
import os
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pdo_search.config.schema import is_uri
from pdo_search.errors import InputError, StoreError
from pdo_search.safefile import read_regular

__all__ = ["Folder"]

TEMPORARY = ".tmp-"
MAX_BYTES = 256 << 20
"""Of one file: those of a block of 64 trials with a thousand epochs each have about ten million."""


class Folder:
    """A directory by path or URI.

    Args:
        root: a local path, a ``file://`` URI, or a URI that pyarrow knows (``s3://…``).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if self.root.startswith("file://"):
            self.root = unquote(urlsplit(self.root).path)
        self.is_local = not is_uri(self.root)

    def write(self, name: str, data: bytes) -> None:
        """Replace a file; readers and crashes see the old one or the new one.

        Raises:
            StoreError: it cannot be written; the old file is still there.
        """
        try:
            if self.is_local:
                self._write_local(name, data)
            else:
                filesystem, path = self._remote
                target = f"{path}/{name}"
                filesystem.create_dir(target.rpartition("/")[0], recursive=True)
                with filesystem.open_output_stream(target) as stream:
                    stream.write(data)
        except OSError as error:
            full = "; make space and resume" if error.errno == errno.ENOSPC else ""
            raise StoreError(
                f"{self.root}/{name} cannot be written: {error}{full} (what is written stays)"
            ) from error

    def read(self, name: str) -> bytes:
        """A file's content, from one opening of it, so that a replacement in between is no harm.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read, or is none that a sweep has: a pipe, or far too large.
        """
        if self.is_local:
            return read_regular(Path(self.root) / name, MAX_BYTES)
        filesystem, path = self._remote
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            data = bytes(stream.read(MAX_BYTES + 1))
        if len(data) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {MAX_BYTES:,} bytes", name)
        return data

    def exists(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            InputError: the root is neither a path nor a URI that can be opened.
        """
        try:
            self.read(name)
        except OSError:
            return False
        return True

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the files in a sub-folder that end in a suffix, sorted; without hidden ones."""
        return [name for name in self._all(folder) if name.endswith(suffix) and name[0] not in "._"]

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed while it wrote."""
        if self.is_local:  # An object appears whole or not at all.
            for name in self._all(""):
                if name.startswith(".") and TEMPORARY in name:
                    (Path(self.root) / name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> str:
        """Rename a file so that no reader takes it for a part of a table; its new name."""
        flat = f".damaged-{name.replace('/', '-')}"
        taken, aside, count = set(self._all("")), flat, 1
        while aside in taken:
            count += 1
            aside = f"{flat}.{count}"
        if self.is_local:
            (Path(self.root) / name).rename(Path(self.root) / aside)
        else:
            filesystem, path = self._remote
            filesystem.move(f"{path}/{name}", f"{path}/{aside}")
        return aside

    def _all(self, folder: str) -> list[str]:
        if self.is_local:
            place = Path(self.root) / folder
            return sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []
        from pyarrow import fs

        filesystem, path = self._remote
        selector = fs.FileSelector(f"{path}/{folder}".rstrip("/"), allow_not_found=True)
        listing = filesystem.get_file_info(selector)
        return sorted(info.base_name for info in listing if info.is_file)

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        """The filesystem and the root's path in it."""
        from pyarrow import fs

        try:
            filesystem, path = fs.FileSystem.from_uri(self.root)
        except ValueError as error:
            raise InputError(
                f"is neither a path nor a URI that can be opened: {error}",
                file=self.root,
                remedy="write s3://bucket/folder, gs://bucket/folder or a local path",
            ) from None
        return filesystem, path.rstrip("/")

    def _write_local(self, name: str, data: bytes) -> None:
        path = Path(self.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(self.root) / f".{name.replace('/', '-')}{TEMPORARY}{os.getpid()}"
        try:
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
