"""Recorded augmentation: view v of example i is a pure function of (seed, i, v).

So the teacher's stored outputs and the student's inputs are of the same picture (Beyer et al. 2022,
section 3, "consistent teaching"), whatever batch an example falls into.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.schema import AugmentConfig

__all__ = ["augmented"]


def augmented(images: Tensor, ids: Tensor, view: int, config: AugmentConfig, seed: int) -> Tensor:
    """Randomly cropped and flipped pictures.

    Args:
        images: (N, C, H, W).
        ids: (N,) int64.
        view: number of the view.
        config: what is drawn.
        seed: of the task.

    Returns:
        (N, C, H, W), the same type.
    """
    if config.crop:
        edge = 2 * config.crop + 1
        dy = _draw(ids, view, seed, 1) % edge
        dx = _draw(ids, view, seed, 2) % edge
        height, width = images.shape[-2:]
        padded = F.pad(images, (config.crop,) * 4)
        rows = (dy[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
        columns = (dx[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
        examples = torch.arange(len(images), device=images.device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        images = padded[examples, channels, rows, columns]
    if config.flip:
        flips = (_draw(ids, view, seed, 3) % 2 == 1)[:, None, None, None]
        images = torch.where(flips, images.flip(-1), images)
    return images


def _draw(ids: Tensor, view: int, seed: int, purpose: int) -> Tensor:
    """Uniform non-negative int64 (N,): a counter-based hash (the finaliser of splitmix64)."""
    start = (seed * 1_000_003 + view * 101 + purpose) & 0x7FFF_FFFF_FFFF
    z = (ids + start) * -0x61C8864680B583EB
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return _shifted(z ^ _shifted(z, 31), 1)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
