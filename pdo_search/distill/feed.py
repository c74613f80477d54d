"""Examples as training reads them: on the device where they fit, loaded ahead where they do not.

Owns where raw inputs lie and how they come to the device. Which examples a batch has, and what is
drawn from them, is the caller's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from pdo_search.tasks.base import Batch, Examples

__all__ = ["Feed", "fits", "load_ahead", "resident"]

LARGEST_ON_CPU = 1 << 32
"""Bytes of raw inputs that a process copies into its memory; larger ones stay where they are."""
SHARE_OF_GPU = 8
"""Raw inputs may take one part in this many of a GPU's memory: several trials may share it."""
AHEAD = 3
"""Batches that are loaded before they are asked for."""

T = TypeVar("T")
R = TypeVar("R")


def fits(examples: Examples, device: torch.device) -> bool:
    """Whether a device has room for the inputs of examples."""
    largest = LARGEST_ON_CPU
    if device.type == "cuda":
        largest = torch.cuda.get_device_properties(device).total_memory // SHARE_OF_GPU
    return examples.nbytes <= largest


def resident(examples: Examples, device: torch.device) -> Examples:
    """The examples on a device; their inputs stay where they are when they would not fit."""
    return examples.to(device) if fits(examples, device) else examples.labels_to(device)


class Feed:
    """Raw inputs of examples, on a device when they are asked for.

    Attributes:
        examples: labels and ids on the device; inputs too, if they fit.
        is_resident: whether they do.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.examples = resident(examples, device)
        self.is_resident = fits(examples, device)
        self._device = device

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Raw inputs at rows (B,), one batch after the other; those on the host are read ahead by a
        thread."""
        if self.is_resident:
            yield from map(self.examples.raw_inputs, batches)
            return
        for raw in load_ahead(self._on_host, [rows.cpu() for rows in batches]):
            yield {k: v.to(self._device, non_blocking=True) for k, v in raw.items()}

    def _on_host(self, rows: Tensor) -> Batch:
        """Raw inputs in the host's memory; pinned where a GPU is to fetch them."""
        raw = self.examples.raw_inputs(rows)
        if self._device.type != "cuda":
            return raw
        return {name: tensor.pin_memory() for name, tensor in raw.items()}


def load_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(function, items)``, some items ahead of the caller, in a thread.

    What the function raises is raised in its item's place.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
