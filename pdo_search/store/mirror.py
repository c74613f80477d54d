"""The object store's side of a store: small objects, and whole artifacts up and down.

Owns every call to the object store's file system. An artifact is there when its manifest is: that
goes up last and is deleted first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pdo_search.errors import InputError
from pdo_search.store.manifest import MANIFEST, Manifest

__all__ = ["Mirror", "ObjectInfo"]

CHUNK = 1 << 23
WITHOUT_FOLDERS = ("s3", "gcs")


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing.

    Attributes:
        bytes: its size.
        changed_at: when it was written, by the object store's clock, seconds since 1970.
    """

    bytes: int
    changed_at: float


class Mirror:
    """Objects under a URI, by names relative to it.

    Args:
        uri: such as ``s3://bucket/results/.store``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        from pyarrow import fs

        try:
            filesystem, path = fs.FileSystem.from_uri(self.uri)
        except ValueError as error:
            raise InputError(
                f"is no URI that can be opened: {error}",
                file=self.uri,
                remedy="write s3://bucket/folder, gs://bucket/folder or a local path",
            ) from None
        return filesystem, path.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is none."""
        filesystem, root = self._remote
        try:
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace an object."""
        filesystem, target = self._target(name)
        with filesystem.open_output_stream(target) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        filesystem, root = self._remote
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    def move(self, name: str, new_name: str) -> None:
        """Give an object another name."""
        filesystem, root = self._remote
        _, target = self._target(new_name)
        filesystem.move(f"{root}/{name}", target)

    def changed_at(self, name: str) -> float | None:
        """When an object was written, by the object store's clock; None where there is none."""
        filesystem, root = self._remote
        info = filesystem.get_file_info(f"{root}/{name}")
        return info.mtime.timestamp() if info.is_file and info.mtime else None

    def objects(self, folder: str = "") -> dict[str, ObjectInfo]:
        """All objects below a folder, by name, in the names' order."""
        from pyarrow import fs

        filesystem, root = self._remote
        selector = fs.FileSelector(
            f"{root}/{folder}".rstrip("/"), allow_not_found=True, recursive=True
        )
        found = {
            info.path[len(root) + 1 :]: ObjectInfo(
                info.size, info.mtime.timestamp() if info.mtime else 0.0
            )
            for info in filesystem.get_file_info(selector)
            if info.is_file
        }
        return dict(sorted(found.items()))

    def sha256_of(self, name: str) -> str:
        """Hexadecimal checksum of an object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        filesystem, root = self._remote
        checksum = hashlib.sha256()
        with filesystem.open_input_stream(f"{root}/{name}") as stream:
            while block := stream.read(CHUNK):
                checksum.update(block)
        return checksum.hexdigest()

    def fetch(self, name: str, manifest: Manifest, folder: Path) -> None:
        """Copy an artifact's files, those that its manifest names, into a directory.

        Raises:
            FileNotFoundError: one is not there.
        """
        from pyarrow import fs

        filesystem, root = self._remote
        for file in (*manifest.files, MANIFEST):
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(f"{root}/{name}/{file}", str(target), source_filesystem=filesystem)

    def upload(self, name: str, folder: Path, files: Mapping[str, str]) -> None:
        """Copy an artifact up, over what there is of it."""
        from pyarrow import fs

        self.delete(f"{name}/{MANIFEST}")
        for file in (*files, MANIFEST):
            filesystem, target = self._target(f"{name}/{file}")
            fs.copy_files(str(folder / file), target, destination_filesystem=filesystem)

    def _target(self, name: str) -> tuple[Any, str]:
        """File system and path of an object that is about to be written."""
        filesystem, root = self._remote
        target = f"{root}/{name}"
        if filesystem.type_name not in WITHOUT_FOLDERS:
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        return filesystem, target
