"""Files of a bank while it is built, chunk by chunk.

Every chunk's checksum lies beside them, so that a builder that dies loses the chunk in hand, and a
torn or damaged chunk is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from pdo_search.store.encoding import Arrays
from pdo_search.store.plan import Plan

__all__ = ["ChunkedFiles"]

LOG_FILE = "chunks.jsonl"


class ChunkedFiles:
    """A bank's files under construction, and the log of the chunks that are in them.

    Rows are written by ``pwrite``, not through a mapping: written pages are the system's, not this
    process's, and survive its death.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._plan = plan
        self._log = directory / LOG_FILE
        self._sums: dict[int, str] = {}
        self._descriptors: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        paths = {name: directory / f"{name}.npy" for name in plan.files}
        shapes = {n: (plan.num_rows(file.rows), file.width) for n, file in plan.files.items()}
        if not all(_fits(paths[n], shapes[n], file.dtype) for n, file in plan.files.items()):
            self._log.unlink(missing_ok=True)
            for name, file in plan.files.items():
                beside = paths[name].with_suffix(".new")
                open_memmap(beside, "w+", np.dtype(file.dtype), shapes[name]).flush()
                beside.replace(paths[name])
        for name, path in paths.items():
            self._offsets[name] = open_memmap(path, "r").offset
            self._descriptors[name] = os.open(path, os.O_RDWR)

    def missing(self) -> list[slice]:
        """The chunks that are not in the files, or not as they were written."""
        logged, chunks = _read_log(self._log), self._plan.chunks()
        self._sums = {
            chunk.start: logged[chunk.start]
            for chunk in chunks
            if chunk.start in logged and self._checksum(chunk) == logged[chunk.start]
        }
        self._write_log()
        return [chunk for chunk in chunks if chunk.start not in self._sums]

    def write(self, chunk: slice, arrays: Arrays) -> None:
        """Put a chunk into the files, then into the log."""
        digest = hashlib.sha256()
        for name, (place, length) in self._span(chunk).items():
            content = arrays[name].tobytes()
            assert len(content) == length
            digest.update(content)
            _write_all(self._descriptors[name], content, place)
        self._sums[chunk.start] = digest.hexdigest()
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(_log_line(chunk.start, self._sums[chunk.start]))

    def seal(self) -> None:
        """Leave the log in the chunks' order, whatever order they came in."""
        self._write_log()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def _span(self, chunk: slice) -> dict[str, tuple[int, int]]:
        """Where a chunk's bytes are in each file, and how many."""
        found = {}
        for name, offset in self._offsets.items():
            file = self._plan.files[name]
            rows = self._plan.span(file.rows, chunk)
            place = offset + rows.start * file.row_bytes
            found[name] = place, (rows.stop - rows.start) * file.row_bytes
        return found

    def _checksum(self, chunk: slice) -> str:
        digest = hashlib.sha256()
        for name, (place, length) in self._span(chunk).items():
            digest.update(os.pread(self._descriptors[name], length, place))
        return digest.hexdigest()

    def _write_log(self) -> None:
        beside = self._log.with_suffix(".new")
        lines = [_log_line(first, self._sums[first]) for first in sorted(self._sums)]
        beside.write_text("".join(lines), encoding="utf-8")
        beside.replace(self._log)


def _fits(path: Path, shape: tuple[int, int], dtype: DTypeLike) -> bool:
    """Whether a file is there with a whole header of these columns."""
    try:
        found = open_memmap(path, "r")
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == np.dtype(dtype)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    """``pwrite`` may write less than it is given."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _log_line(first: int, checksum: str) -> str:
    return json.dumps({"first": first, "sha256": checksum}) + "\n"


def _read_log(path: Path) -> dict[int, str]:
    """Checksums by a chunk's first row; a line that was cut off counts for nothing."""
    found: dict[int, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found[int(entry["first"])] = str(entry["sha256"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return found
