"""The bank: a teacher's outputs per example and recorded view, computed once, read by every trial.

Half precision: against float32 logits the softmax's KL error stays below 5e-5 nats for logits up to
32 in size, 3e-6 up to 8 (tested). Files are memory-mapped, so that the trials of a node share one
copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from pdo_search.errors import PdoError
from pdo_search.store.artifacts import Store

__all__ = ["Bank", "bank"]

CHUNK = 4096
LARGEST = float(np.finfo(np.float16).max)


class Bank:
    """Outputs of one teacher on one split.

    Args:
        path: the artifact's directory.
        heads: names of the heads.
    """

    def __init__(self, path: Path, heads: Mapping[str, int]) -> None:
        # Copy-on-write keeps the pages shared and lets torch have an array that it may not change.
        self._outputs = {
            head: torch.from_numpy(np.load(path / f"{head}.npy", mmap_mode="c")) for head in heads
        }

    def rows(self, head: str, views: Tensor, rows: Tensor) -> Tensor:
        """Logits of examples.

        Args:
            head: the head's name.
            views: (B,) int64 view of each.
            rows: (B,) int64 position in the split.

        Returns:
            (B, size) float32 on the CPU.
        """
        return self._outputs[head][views, rows].float()


def bank(
    store: Store,
    *,
    teacher_key: str,
    task_fingerprint: str,
    split_name: str,
    num_views: int,
    num_examples: int,
    heads: Mapping[str, int],
    outputs: Callable[[int, slice], Mapping[str, Tensor]],
) -> Bank:
    """Open a teacher's bank, building it if nobody has.

    Args:
        store: where it lies.
        teacher_key: digest of the teacher.
        task_fingerprint: digest of data, splits and augmentation.
        split_name: which examples.
        num_views: recorded views per example, V.
        num_examples: N.
        heads: size K by head.
        outputs: the teacher's logits (B, K) per head for a view and a range of examples.

    Raises:
        PdoError: the teacher's outputs are not finite.
        StoreError: the bank cannot be written.
    """

    def build(directory: Path) -> None:
        files = {
            head: open_memmap(
                directory / f"{head}.npy", "w+", np.float16, (num_views, num_examples, size)
            )
            for head, size in heads.items()
        }
        for view in range(num_views):
            for first in range(0, num_examples, CHUNK):
                rows = slice(first, min(first + CHUNK, num_examples))
                for head, values in outputs(view, rows).items():
                    if not torch.isfinite(values).all():
                        raise PdoError(f"teacher {teacher_key} gives outputs that are not finite")
                    files[head][view, rows] = values.clamp(-LARGEST, LARGEST).cpu().numpy()
        for file in files.values():
            file.flush()

    key = {
        "teacher": teacher_key,
        "task": task_fingerprint,
        "split": split_name,
        "views": num_views,
        "examples": num_examples,
        "heads": dict(heads),
    }
    return Bank(store.get_or_build("bank", key, build).path, heads)
