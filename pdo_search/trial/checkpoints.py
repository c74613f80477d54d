"""Where a trial's bytes go: its checkpoint and its finished models, on a disk or an object store.

Owns atomic writes. What a checkpoint holds is ``distill.state``.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

from pdo_search.config.schema import is_uri
from pdo_search.errors import StoreError
from pdo_search.safefile import odd_entry

__all__ = ["CheckpointFile", "publish"]

log = logging.getLogger(__name__)

FILE_NAME = "state.ckpt"


class CheckpointFile:
    """One trial's checkpoint.

    Args:
        directory: a path or URI; made on first write.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def write(self, data: bytes) -> None:
        """Replace the checkpoint; a reader or a crash sees the old one or the new one.

        Raises:
            OSError: the disk is full or the store cannot be reached.
        """
        if is_uri(self.directory):
            filesystem, path = _filesystem(self.directory)
            filesystem.create_dir(path, recursive=True)
            with filesystem.open_output_stream(f"{path}/{FILE_NAME}") as stream:
                stream.write(data)
            return
        folder = Path(self.directory)
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{FILE_NAME}.{os.getpid()}"
        try:
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(folder / FILE_NAME)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def read(self) -> bytes | None:
        """The checkpoint's bytes; None where there is none."""
        if is_uri(self.directory):
            filesystem, path = _filesystem(self.directory)
            try:
                with filesystem.open_input_stream(f"{path}/{FILE_NAME}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None
        try:
            return (Path(self.directory) / FILE_NAME).read_bytes()
        except FileNotFoundError:
            return None

    def set_aside(self, why: Exception) -> None:
        """Keep a checkpoint that cannot be used under another name, and say so."""
        log.warning("checkpoint in %s set aside: %s", self.directory, why)
        name = f"damaged-{time.time_ns()}.ckpt"
        if is_uri(self.directory):
            filesystem, path = _filesystem(self.directory)
            filesystem.move(f"{path}/{FILE_NAME}", f"{path}/{name}")
        else:
            folder = Path(self.directory)
            (folder / FILE_NAME).replace(folder / name)


def publish(source: Path, destination: str) -> None:
    """Copy a finished directory to its place, a path or URI, replacing an earlier one.

    On a disk it appears whole or not at all, also where ``source`` lies on another one.

    Raises:
        StoreError: the directory holds a link, whose target must not be copied.
    """
    if odd := odd_entry(source):
        raise StoreError(f"{odd} is neither a file nor a folder: {source} is not copied")
    if is_uri(destination):
        from pyarrow import fs

        filesystem, path = _filesystem(destination)
        filesystem.create_dir(path, recursive=True)
        fs.copy_files(str(source), path, destination_filesystem=filesystem)
        return
    target = Path(destination)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(source, beside)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _filesystem(uri: str):  # type: ignore[no-untyped-def]
    from pyarrow import fs

    return fs.FileSystem.from_uri(uri)
