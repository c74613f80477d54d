"""A trial's checkpoint on a disk or an object store. What it holds is ``distill.state``."""

from __future__ import annotations

import logging
import time

from pdo_search.base.storage import Storage

__all__ = ["CheckpointFile"]

log = logging.getLogger(__name__)

FILE_NAME = "state.ckpt"
MAX_BYTES = 1 << 36


class CheckpointFile:
    """One trial's checkpoint.

    Args:
        sweep: the sweep's directory, a path or URI; below it no link is followed.
        folder: of the checkpoint, relative to it; made on first write.
    """

    def __init__(self, sweep: str, folder: str) -> None:
        self._storage = Storage(sweep)
        self._folder = folder
        self._name = f"{folder}/{FILE_NAME}"

    def write(self, data: bytes) -> None:
        """Replace the checkpoint; a reader or a crash sees the old one or the new one.

        Raises:
            StoreError: the disk is full, or the object store does not answer.
        """
        self._storage.write(self._name, data)

    def read(self) -> bytes | None:
        """The checkpoint's bytes; None where there is none."""
        return self._storage.read_if_there(self._name, MAX_BYTES)

    def set_aside(self, why: Exception) -> None:
        """Keep a checkpoint that cannot be used under another name, and say so."""
        log.warning("checkpoint in %s set aside: %s", self._folder, why)
        self._storage.move(self._name, f"{self._folder}/damaged-{time.time_ns()}.ckpt")
