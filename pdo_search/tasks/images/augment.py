"""Recorded augmentation: view v of example i is a pure function of (seed, i, v).

So the teacher's stored outputs and the student's inputs are of the same picture (Beyer et al. 2022,
section 3, "consistent teaching"), whatever batch an example falls into.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.task import AugmentConfig

__all__ = ["augmented", "mixed", "mixing"]

SHARES = 4096
"""Quantiles that a Beta distribution is drawn from."""


class _Purpose(IntEnum):
    """What a number is drawn for."""

    SHIFT_DOWN = 1
    SHIFT_RIGHT = 2
    FLIP = 3
    BRIGHTNESS = 4
    CONTRAST = 5
    SATURATION = 6
    PARTNER = 7
    SHARE = 8


def augmented(images: Tensor, ids: Tensor, view: int, config: AugmentConfig, seed: int) -> Tensor:
    """Pictures with random colours, randomly cropped and flipped. Mixing is apart: ``mixed``.

    Args:
        images: (N, C, H, W).
        ids: (N,) int64.
        view: number of the view.
        config: what is drawn.
        seed: of the task.

    Returns:
        (N, C, H, W), the same type.
    """
    if config.color:
        images = _jittered(images, ids, view, config.color, seed)
    if config.crop:
        edge = 2 * config.crop + 1
        dy = _draw(ids, view, seed, _Purpose.SHIFT_DOWN) % edge
        dx = _draw(ids, view, seed, _Purpose.SHIFT_RIGHT) % edge
        height, width = images.shape[-2:]
        padded = F.pad(images, (config.crop,) * 4)
        rows = (dy[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
        columns = (dx[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
        examples = torch.arange(len(images), device=images.device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        images = padded[examples, channels, rows, columns]
    if config.flip:
        flips = (_draw(ids, view, seed, _Purpose.FLIP) % 2 == 1)[:, None, None, None]
        images = torch.where(flips, images.flip(-1), images)
    return images


def mixing(
    ids: Tensor, view: int, num_partners: Tensor, alpha: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Whom mixup mixes an example with, and how much of the example stays (Zhang et al. 2018).

    The larger share is the example's own: Beta(alpha, alpha) is symmetric and partners are drawn
    uniformly, so that pairs and shares are distributed as in the paper, and an example stays mainly
    itself.

    Args:
        ids: (N,) int64.
        view: number of the view.
        num_partners: (N,) int64, how many examples each has to choose from.
        alpha: of the Beta distribution.
        seed: of the task.

    Returns:
        (N,) int64 partner from 0 to ``num_partners`` - 1, and (N,) float32 share from 0.5 to 1.
    """
    partners = _draw(ids, view, seed, _Purpose.PARTNER) % num_partners
    quantiles = _beta_quantiles(alpha).to(ids.device)
    return partners, quantiles[_draw(ids, view, seed, _Purpose.SHARE) % SHARES]


def mixed(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Pictures (N, C, H, W) mixed with their partners' at shares (N,), in their own type."""
    weights = shares.view(-1, 1, 1, 1)
    return _as(images.dtype, images * weights + partners * (1 - weights))


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float) -> Tensor:
    """(SHARES,) float32: the larger share at evenly spaced quantiles of Beta(alpha, alpha)."""
    from scipy.special import betaincinv

    # The upper half: the distribution of the larger of a share and what it leaves.
    quantiles = 0.5 + (np.arange(SHARES) + 0.5) / (2 * SHARES)
    return torch.from_numpy(betaincinv(alpha, alpha, quantiles)).float()


def _jittered(images: Tensor, ids: Tensor, view: int, strength: float, seed: int) -> Tensor:
    """Brightness, contrast and saturation scaled, as torchvision's ColorJitter defines them, but
    contrast around the plain mean of all channels: of whole numbers it is exact, and so the same
    in every batch."""
    brightness, contrast, saturation = (
        (1 + strength * (2 * _uniform(ids, view, seed, purpose) - 1)).view(-1, 1, 1, 1)
        for purpose in (_Purpose.BRIGHTNESS, _Purpose.CONTRAST, _Purpose.SATURATION)
    )
    exact = torch.float64 if images.is_floating_point() else torch.int64
    total = images.sum(dim=(1, 2, 3), keepdim=True, dtype=exact)
    mean = (total.double() / images[0].numel()).float()
    pixels = images * (brightness * contrast) + mean * (brightness * (1 - contrast))
    if images.shape[1] == 3:
        red, green, blue = pixels.unbind(1)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
        pixels = pixels * saturation + grey * (1 - saturation)
    return _as(images.dtype, pixels)


def _as(dtype: torch.dtype, pixels: Tensor) -> Tensor:
    """Float pixels in the source's type: bytes are rounded and cut, floats have no known range."""
    if dtype == torch.uint8:
        return pixels.round_().clamp_(0, 255).to(dtype)
    return pixels.to(dtype)


def _uniform(ids: Tensor, view: int, seed: int, purpose: _Purpose) -> Tensor:
    """(N,) float32 in [0, 1), of 24 bits: exact in float32."""
    return (_draw(ids, view, seed, purpose) >> 39).float() / (1 << 24)


def _draw(ids: Tensor, view: int, seed: int, purpose: _Purpose) -> Tensor:
    """Uniform non-negative int64 (N,): a counter-based hash (the finaliser of splitmix64)."""
    start = (seed * 1_000_003 + view * 101 + purpose) & 0x7FFF_FFFF_FFFF
    z = (ids + start) * -0x61C8864680B583EB
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return _shifted(z ^ _shifted(z, 31), 1)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
