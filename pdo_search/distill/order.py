"""In which order an epoch sees its examples: batch after batch, a function of seed and epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdo_search.base.seeds import seed_for

__all__ = ["by_like_length", "epoch_batches"]

WINDOW = 50
"""Batches among whose examples those of like length come together."""


def epoch_batches(
    admitted: Tensor, steps: int, size: int, *, lengths: Tensor | None, seed: int, epoch: int
) -> list[Tensor]:
    """Rows (size,) of each batch: shuffled passes over what is admitted.

    Examples of different lengths are sorted by them inside of windows, so that a batch has little
    padding, and the batches are shuffled again.

    Args:
        admitted: (M,) int64 rows of the pool.
        steps: how many batches.
        size: examples in a batch.
        lengths: (N,) positions of the pool's examples; None where they have none.
        seed: of the trial.
        epoch: from 0.
    """
    needed = steps * size
    generator = torch.Generator().manual_seed(seed_for(seed, "order", epoch))
    passes = [
        admitted[torch.randperm(len(admitted), generator=generator)]
        for _ in range(math.ceil(needed / len(admitted)))
    ]
    return by_like_length(torch.cat(passes)[:needed], size, lengths, generator)


def by_like_length(
    order: Tensor, size: int, lengths: Tensor | None, generator: torch.Generator
) -> list[Tensor]:
    """Rows (size,) of each batch of an order.

    Args:
        order: (M,) int64 rows.
        size: examples in a batch.
        lengths: (N,) positions of the examples, on the rows' device; None where they have none.
        generator: shuffles batches of like length again.
    """
    if lengths is None:
        return list(torch.split(order, size))
    batches: list[Tensor] = []
    for window in torch.split(order, WINDOW * size):
        by_length = window[lengths[window].argsort(stable=True)]
        batches += torch.split(by_length, size)
    return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]
