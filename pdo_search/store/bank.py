"""The bank: a teacher's outputs on one recorded view of a split, computed once, read by all trials.

One artifact per view: a trial with more views reuses those of a trial with fewer. Files are
memory-mapped, so that the trials of a node share one copy. A head has a row per example, or one per
unmasked position: ``offsets.<mask>.npy`` says where each example's positions begin. How rows are
encoded is ``encoding``'s matter, what there is to compute ``plan``'s.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from pdo_search.base.columns import Column, Taught
from pdo_search.base.seeds import seed_for
from pdo_search.store.artifacts import Store
from pdo_search.store.chunked import ChunkedFiles
from pdo_search.store.encoding import Arrays, Found, Rows, StoredHead
from pdo_search.store.plan import Outputs, Plan, starts_of

__all__ = ["Bank", "Compute", "bank", "in_process"]

log = logging.getLogger(__name__)

VERSION = 3
LARGEST_ON_DEVICE = 1 << 28
"""Bytes of a bank that a GPU keeps: ten million examples of ten classes, at a view."""

Compute = Callable[[Plan, Sequence[slice]], Iterable[tuple[slice, Arrays]]]
"""Computes chunks of a plan, in any order, by ``Plan.encoded``: here (``in_process``) or on a
cluster."""


class Bank:
    """Outputs of one teacher on one view of one split.

    Args:
        path: the artifact's directory.
        heads: by name.
    """

    def __init__(self, path: Path, heads: Mapping[str, StoredHead]) -> None:
        self._heads = dict(heads)
        masks = {head.positions for head in heads.values() if head.positions is not None}
        starts = {Rows(mask): _mapped(path / f"{_offsets(mask)}.npy") for mask in masks}
        self._lengths = {mask: starts[Rows(mask)].diff() for mask in masks}
        self._columns: dict[str, Column] = {}
        for name, head in heads.items():
            for file_name, file in head.kept.files(name, head).items():
                rows, values = file.rows, _mapped(path / f"{file_name}.npy", file.readable)
                if rows.mask is not None and rows not in starts:
                    starts[rows] = starts_of(self._lengths[rows.mask], rows.most)
                self._columns[file_name] = Column(values, starts.get(rows), file.pad)
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> Bank:
        """The bank with its files on a device, if they are no larger than ``LARGEST_ON_DEVICE``.

        A step on a GPU then need not wait for the host to look rows up.
        """
        size = sum(column.values.nbytes for column in self._columns.values())
        if device.type != "cpu" and size <= LARGEST_ON_DEVICE:
            self._columns = {name: column.to(device) for name, column in self._columns.items()}
            self._lengths = {mask: found.to(device) for mask, found in self._lengths.items()}
            self._device = device
        return self

    def take(self, head: str, rows: Tensor, temperature: float = 1.0) -> Taught:
        """What the teacher says about examples.

        Args:
            head: the head's name.
            rows: (B,) int64 position in the split, on any device.
            temperature: at which it will be softened; it sets the level of the classes that a
                large head does not store, and nothing else.

        Returns:
            Outputs (B, K), or (B, L, K) of a head with positions: an example's own come first,
            L is what the longest of them has (``Taught.placed`` puts them where a mask has them).
            Of a head that keeps k classes (B, k) or (B, L, k). In torch's default type, where the
            files are: on the CPU, unless ``to`` moved them.
        """
        stored, found = (
            self._heads[head],
            Found(self._columns, self._lengths, rows.to(self._device)),
        )
        return stored.kept.taught(head, stored, found, temperature)

    def rows(self, head: str, rows: Tensor, temperature: float = 1.0) -> Tensor:
        """Outputs (B, K) of examples, dense; see ``take``."""
        return self.take(head, rows, temperature).dense(self._heads[head].size)


def bank(
    store: Store,
    plan: Plan,
    *,
    teacher_key: str,
    task_fingerprint: str,
    split_name: str,
    view: int,
    compute: Compute,
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """Open a teacher's bank, building it if nobody has, going on where a builder died.

    Args:
        store: where it lies.
        plan: heads, examples and their positions; its seed is set here.
        teacher_key: digest of the teacher.
        task_fingerprint: digest of data, splits and augmentation.
        split_name: which examples.
        view: which recorded view of them.
        compute: computes chunks.
        threads: of the CPU that compute them: others round otherwise; 0 for a GPU.
        on_progress: called with examples done and N, at the beginning and after each chunk, if it
            is built now.

    Raises:
        PdoError: the teacher's outputs are not finite, or masked otherwise than planned.
        StoreError: the bank cannot be written.
    """
    plan = replace(plan, seed=seed_for(view, teacher_key, task_fingerprint, split_name))

    def build(directory: Path) -> None:
        for mask, lengths in plan.lengths.items():
            _save(directory / _offsets(mask), starts_of(lengths))
        with closing(ChunkedFiles(directory, plan)) as files:
            missing = files.missing()
            done = plan.num_examples - sum(chunk.stop - chunk.start for chunk in missing)
            log.info(
                "bank of teacher %s on view %d of %s: %d of %d examples to compute",
                teacher_key, view, split_name, plan.num_examples - done, plan.num_examples,
            )  # fmt: skip
            if on_progress is not None:
                on_progress(done, plan.num_examples)
            for chunk, arrays in compute(plan, missing) if missing else ():
                files.write(chunk, arrays)
                done += chunk.stop - chunk.start
                if on_progress is not None:
                    on_progress(done, plan.num_examples)
            files.seal()

    key = {
        "version": VERSION,
        "teacher": teacher_key,
        "task": task_fingerprint,
        "split": split_name,
        "view": view,
        "examples": plan.num_examples,
        "heads": {name: head.key() for name, head in plan.heads.items()},
        "positions": {mask: _digest(lengths) for mask, lengths in plan.lengths.items()},
        "threads": threads,
    }
    return Bank(store.get_or_build("bank", key, build, resumable=True).path, plan.heads)


def in_process(outputs: Outputs) -> Compute:
    """Compute one chunk after the other here."""

    def compute(plan: Plan, chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        for chunk in chunks:
            yield chunk, plan.encoded(outputs, chunk)

    return compute


def _offsets(mask: str) -> str:
    """The file that says where each example's positions under a mask begin, without its suffix."""
    return f"offsets.{mask}"


def _mapped(path: Path, readable: DTypeLike = np.int64) -> Tensor:
    # Copy-on-write keeps the pages shared and lets torch have an array that it may not change.
    return torch.from_numpy(np.load(path, mmap_mode="c").view(readable))


def _save(path: Path, starts: Tensor) -> None:
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as stream:
        np.save(stream, starts.numpy())
    beside.replace(path.with_name(f"{path.name}.npy"))


def _digest(lengths: Tensor) -> str:
    return hashlib.sha256(lengths.numpy().tobytes()).hexdigest()
