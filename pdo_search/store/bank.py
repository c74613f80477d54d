"""The bank: a teacher's outputs on one recorded view of a split, computed once, read by all trials.

One artifact per view: a trial with more views reuses those of a trial with fewer. Files are
memory-mapped, so that the trials of a node share one copy. Built chunk by chunk; every chunk's
checksum lies beside the files, so that a builder that dies loses the chunk in hand, and a torn or
damaged chunk is computed again.

Half precision: against float32 logits the softmax's KL error stays below 5e-5 nats for logits up to
32 in size, 3e-6 up to 8 (tested).

A head of more than ``DENSE_SIZE`` classes keeps its ``TOP_K`` largest logits. The rest, z, stands
at one level, the same for every class of it: its log-mean-exp ``τ log mean exp(z/τ)``, which gives
the rest the mass that it has at temperature τ and loses how it was spread. No level fits all
temperatures, so it is stored at four (``REST_AT``) and interpolated between them; below τ = 1 that
of τ = 1 serves. Of logits with a standard deviation of 5, 1,500 classes: the mass is right to 0.02,
and the KL error is 0.012 nats at τ = 1, 0.2 at 2, 0.24 at 4, 0.1 at 8 (tested bounds in
``tests/store/test_top_k.py``); it grows with the logits' spread over τ.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from pdo_search.base.columns import Taught
from pdo_search.base.errors import PdoError
from pdo_search.store.artifacts import Store

__all__ = ["Arrays", "Bank", "Compute", "Outputs", "bank", "encoded", "in_process"]

log = logging.getLogger(__name__)

VERSION = 2
BATCH = 512
"""Examples per call of the teacher: bounds what of its outputs is in memory at full width."""
CHUNK = 2 * BATCH
"""Examples per chunk: what a builder that dies loses at most."""
DENSE_SIZE = 1024
"""Outputs up to which a head is stored whole: 2 KiB per example and view."""
TOP_K = 128
"""Classes kept of a larger head, in 520 bytes per example and view (a quarter of the largest whole
one). With 64 the KL error was 2.8 times as large at τ = 1, and 1.8 and 1.4 times at 2 and 4."""
REST_AT = (0.0, 0.25, 0.5, 1.0)
"""Inverse temperatures at which the rest's level is stored; at 0 it is the mean."""
LARGEST_ON_DEVICE = 1 << 28
"""Bytes of a bank that a GPU keeps: ten million examples of ten classes, at a view."""
LOG_FILE = "chunks.jsonl"
LARGEST = float(np.finfo(np.float16).max)
_UINT16 = 1 << 16

Arrays = dict[str, NDArray[Any]]
"""Stored form of some examples: file name to array, first axis the examples."""
Outputs = Callable[[slice], Mapping[str, Tensor]]
"""The teacher's logits (B, size) per head for at most ``BATCH`` successive examples."""
Compute = Callable[[Sequence[slice]], Iterable[tuple[slice, Arrays]]]
"""Computes chunks, in any order: here (``in_process``) or on a cluster."""


class Bank:
    """Outputs of one teacher on one view of one split.

    Args:
        path: the artifact's directory.
        heads: number of outputs by name of the head.
    """

    def __init__(self, path: Path, heads: Mapping[str, int]) -> None:
        self._heads = dict(heads)
        # Copy-on-write keeps the pages shared and lets torch have an array that it may not change.
        self._files = {
            name: torch.from_numpy(np.load(path / f"{name}.npy", mmap_mode="c").view(kind.readable))
            for name, kind in _layout(heads).items()
        }
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> Bank:
        """The bank with its files on a device, if they are no larger than ``LARGEST_ON_DEVICE``.

        A step on a GPU then need not wait for the host to look rows up.
        """
        if (
            device.type != "cpu"
            and sum(f.nbytes for f in self._files.values()) <= LARGEST_ON_DEVICE
        ):
            self._files = {name: file.to(device) for name, file in self._files.items()}
            self._device = device
        return self

    def take(self, head: str, rows: Tensor, temperature: float = 1.0) -> Taught:
        """What the teacher says about examples."""
        return Taught(self.rows(head, rows, temperature))

    def rows(self, head: str, rows: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits of examples.

        Args:
            head: the head's name.
            rows: (B,) int64 position in the split, on any device.
            temperature: at which they will be softened; it sets the level of the classes that a
                large head does not store, and nothing else.

        Returns:
            (B, size), in torch's default type, where the files are: on the CPU, unless ``to``
            moved them.
        """
        rows = rows.to(self._device)
        if self._heads[head] <= DENSE_SIZE:
            return self._read(head, rows)
        top = self._read(f"{head}.top", rows)
        index = self._files[f"{head}.index"].index_select(0, rows).long()
        if self._heads[head] <= _UINT16:
            index &= _UINT16 - 1
        levels = self._read(f"{head}.rest", rows)
        level = torch.minimum(_interpolated(levels, 1 / temperature), top[:, -1])
        logits = level[:, None].repeat(1, self._heads[head])
        return logits.scatter_(1, index, top)

    def _read(self, name: str, rows: Tensor) -> Tensor:
        return self._files[name].index_select(0, rows).to(torch.get_default_dtype())


def bank(
    store: Store,
    *,
    teacher_key: str,
    task_fingerprint: str,
    split_name: str,
    view: int,
    num_examples: int,
    heads: Mapping[str, int],
    compute: Compute,
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """Open a teacher's bank, building it if nobody has, going on where a builder died.

    Args:
        store: where it lies.
        teacher_key: digest of the teacher.
        task_fingerprint: digest of data, splits and augmentation.
        split_name: which examples.
        view: which recorded view of them.
        num_examples: N.
        heads: number of outputs by name of the head.
        compute: computes chunks.
        threads: of the CPU that compute them: others round otherwise; 0 for a GPU.
        on_progress: called with examples done and N, at the beginning and after each chunk, if it
            is built now.

    Raises:
        PdoError: the teacher's outputs are not finite.
        StoreError: the bank cannot be written.
    """

    def build(directory: Path) -> None:
        with closing(_ChunkedFiles(directory, _layout(heads), num_examples)) as files:
            missing = files.missing(chunks_of(num_examples))
            done = num_examples - sum(rows.stop - rows.start for rows in missing)
            log.info(
                "bank of teacher %s on view %d of %s: %d of %d examples to compute",
                teacher_key, view, split_name, num_examples - done, num_examples,
            )  # fmt: skip
            if on_progress is not None:
                on_progress(done, num_examples)
            for rows, arrays in compute(missing) if missing else ():
                files.write(rows, arrays)
                done += rows.stop - rows.start
                if on_progress is not None:
                    on_progress(done, num_examples)
            files.seal()

    key = {
        "version": VERSION,
        "teacher": teacher_key,
        "task": task_fingerprint,
        "split": split_name,
        "view": view,
        "examples": num_examples,
        "heads": dict(heads),
        "threads": threads,
    }
    return Bank(store.get_or_build("bank", key, build, resumable=True).path, heads)


def chunks_of(num_examples: int) -> list[slice]:
    """The chunks of N examples, in order."""
    return [
        slice(first, min(first + CHUNK, num_examples)) for first in range(0, num_examples, CHUNK)
    ]


def in_process(outputs: Outputs) -> Compute:
    """Compute one chunk after the other here."""

    def compute(chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        for rows in chunks:
            yield rows, encoded(outputs, rows)

    return compute


def encoded(outputs: Outputs, rows: slice) -> Arrays:
    """A chunk's outputs as they are stored, computed batch by batch.

    Raises:
        PdoError: the outputs are not finite.
    """
    parts: list[Arrays] = []
    for first in range(rows.start, rows.stop, BATCH):
        batch: Arrays = {}
        for head, values in outputs(slice(first, min(first + BATCH, rows.stop))).items():
            batch |= _stored(head, values)
        parts.append(batch)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _stored(head: str, logits_BC: Tensor) -> Arrays:
    """A batch's logits by file."""
    if not torch.isfinite(logits_BC).all():
        raise PdoError("the teacher gives outputs that are not finite")
    values, size = logits_BC.float().clamp(-LARGEST, LARGEST), logits_BC.shape[1]
    if size <= DENSE_SIZE:
        return {head: values.half().cpu().numpy()}
    top, index = values.topk(TOP_K, dim=1)
    rest, count = values.scatter(1, index, -math.inf), size - TOP_K
    levels = [values.scatter(1, index, 0.0).sum(dim=1) / count]
    levels += [((rest * at).logsumexp(dim=1) - math.log(count)) / at for at in REST_AT[1:]]
    return {
        f"{head}.top": top.half().cpu().numpy(),
        f"{head}.index": index.cpu().numpy().astype(_index_dtype(size)),
        f"{head}.rest": torch.stack(levels, dim=1).half().cpu().numpy(),
    }


def _interpolated(levels_BR: Tensor, at: float) -> Tensor:
    """The rest's level at an inverse temperature."""
    high = next((k for k, known in enumerate(REST_AT) if known >= at), len(REST_AT) - 1)
    low = max(high - 1, 0)
    weight = min((at - REST_AT[low]) / (REST_AT[high] - REST_AT[low]), 1.0) if high else 1.0
    return levels_BR[:, low] * (1 - weight) + levels_BR[:, high] * weight


def _index_dtype(size: int) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if size <= _UINT16 else np.int32


@dataclass(frozen=True)
class _Kind:
    """One file's columns.

    Attributes:
        dtype: as it is stored.
        width: columns.
        readable: the same bits as a type that torch indexes (not uint16, before torch 2.5).
    """

    dtype: DTypeLike
    width: int
    readable: DTypeLike


def _layout(heads: Mapping[str, int]) -> dict[str, _Kind]:
    """Files by name, without the suffix."""
    files: dict[str, _Kind] = {}
    for head, size in heads.items():
        if size <= DENSE_SIZE:
            files[head] = _Kind(np.float16, size, np.float16)
            continue
        index = _index_dtype(size)
        files[f"{head}.top"] = _Kind(np.float16, TOP_K, np.float16)
        files[f"{head}.index"] = _Kind(index, TOP_K, np.int16 if index is np.uint16 else np.int32)
        files[f"{head}.rest"] = _Kind(np.float16, len(REST_AT), np.float16)
    return files


class _ChunkedFiles:
    """Files of N rows under construction, and the log of the chunks that are in them.

    Rows are written by ``pwrite``, not through a mapping: written pages are the system's, not this
    process's, and survive its death.
    """

    def __init__(self, directory: Path, layout: Mapping[str, _Kind], num_rows: int) -> None:
        self._log = directory / LOG_FILE
        self._sums: dict[int, str] = {}
        self._descriptors: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}
        paths = {name: directory / f"{name}.npy" for name in layout}
        shapes = {name: (num_rows, kind.width) for name, kind in layout.items()}
        if not all(_fits(paths[n], shapes[n], kind.dtype) for n, kind in layout.items()):
            self._log.unlink(missing_ok=True)
            for name, kind in layout.items():
                beside = paths[name].with_suffix(".new")
                open_memmap(beside, "w+", np.dtype(kind.dtype), shapes[name]).flush()
                beside.replace(paths[name])
        for name, path in paths.items():
            mapped = open_memmap(path, "r")
            self._places[name] = (mapped.offset, mapped.strides[0])
            self._descriptors[name] = os.open(path, os.O_RDWR)

    def missing(self, chunks: Sequence[slice]) -> list[slice]:
        """The chunks that are not in the files, or not as they were written."""
        logged = _read_log(self._log)
        self._sums = {
            rows.start: logged[rows.start]
            for rows in chunks
            if rows.start in logged and self._checksum(rows) == logged[rows.start]
        }
        self._write_log()
        return [rows for rows in chunks if rows.start not in self._sums]

    def write(self, rows: slice, arrays: Arrays) -> None:
        """Put a chunk into the files, then into the log."""
        digest = hashlib.sha256()
        for name, (offset, width) in self._places.items():
            content = arrays[name].tobytes()
            assert len(content) == (rows.stop - rows.start) * width
            digest.update(content)
            _write_all(self._descriptors[name], content, offset + rows.start * width)
        self._sums[rows.start] = digest.hexdigest()
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(_log_line(rows.start, self._sums[rows.start]))

    def seal(self) -> None:
        """Leave the log in the chunks' order, whatever order they came in."""
        self._write_log()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def _checksum(self, rows: slice) -> str:
        digest = hashlib.sha256()
        for name, (offset, width) in self._places.items():
            length = (rows.stop - rows.start) * width
            digest.update(os.pread(self._descriptors[name], length, offset + rows.start * width))
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
