"""Recorded views: pure functions of seed, id and view."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pdo_search.config.task import AugmentConfig
from pdo_search.tasks.images.augment import augmented, mixed, mixing

CONFIG = AugmentConfig(crop=2, flip=True, color=0.4)
IMAGES = (torch.arange(64 * 3 * 8 * 8).view(64, 3, 8, 8) * 37 % 251).to(torch.uint8)
IDS = torch.arange(64)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 97 - 1, IMAGES[:, :1]])
def test_a_view_does_not_depend_on_the_batch_it_is_drawn_in(images: Tensor) -> None:
    together = augmented(images, IDS, 3, CONFIG, 7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = augmented(images[order], IDS[order], 3, CONFIG, 7)
    alone = torch.cat([augmented(images[i : i + 1], IDS[i : i + 1], 3, CONFIG, 7) for i in IDS])
    assert together.dtype == images.dtype
    assert torch.equal(together[order], shuffled)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("config", [AugmentConfig(crop=2), AugmentConfig(color=0.2)])
def test_views_and_seeds_differ(config: AugmentConfig) -> None:
    first = augmented(IMAGES, IDS, 0, config, 0)
    assert not torch.equal(first, augmented(IMAGES, IDS, 1, config, 0))
    assert not torch.equal(first, augmented(IMAGES, IDS, 0, config, 1))


def test_every_shift_and_both_sides_come_up_about_equally_often() -> None:
    ids = torch.arange(5000)
    dot = torch.zeros(5000, 1, 5, 5, dtype=torch.uint8)
    dot[:, 0, 2, 2] = 1
    shifted = augmented(dot, ids, 0, AugmentConfig(crop=1), 0)
    counts = shifted.sum(dim=0)[0]
    assert counts[1:4, 1:4].min() > 5000 / 9 * 0.85
    assert counts.sum() == 5000
    left = torch.zeros(5000, 1, 1, 2, dtype=torch.uint8)
    left[..., 0] = 1
    flipped = augmented(left, ids, 0, AugmentConfig(flip=True), 0)
    assert abs(int(flipped[..., 1].sum()) - 2500) < 150


def test_without_settings_nothing_changes() -> None:
    assert torch.equal(augmented(IMAGES, IDS, 5, AugmentConfig(), 0), IMAGES)


def test_brightness_contrast_and_saturation_are_scaled_within_the_strength() -> None:
    ids = torch.arange(4000)
    # Two pixels around a mean of 0.5, red and blue apart by 0.2.
    pixels = torch.tensor([[0.5, 0.7], [0.4, 0.6], [0.3, 0.5]])
    images = pixels.expand(4000, 1, 3, 2).transpose(1, 2)
    drawn = augmented(images, ids, 0, AugmentConfig(color=0.4), 0)
    brightness = drawn.mean(dim=(1, 2, 3)) / pixels.mean()
    spread = drawn[..., 1] - drawn[..., 0]
    contrast = spread.mean(dim=(1, 2)) / 0.2 / brightness
    saturation = (drawn[:, 0] - drawn[:, 2]).mean(dim=(1, 2)) / 0.2 / (brightness * contrast)
    for factor in (contrast, saturation):
        assert 0.55 < factor.min() < 0.65
        assert 1.35 < factor.max() < 1.45
        assert abs(float(factor.mean()) - 1) < 0.02
    assert 0.5 < brightness.min() < brightness.max() < 1.5
    assert abs(float(torch.corrcoef(torch.stack([contrast, saturation]))[0, 1])) < 0.1


def test_bytes_are_cut_and_grey_pictures_stay_grey() -> None:
    white = torch.full((500, 3, 2, 2), 255, dtype=torch.uint8)
    drawn = augmented(white, torch.arange(500), 0, AugmentConfig(color=0.5), 0)
    assert drawn.max() == 255
    assert drawn.min() > 120
    assert torch.equal(drawn[:, 0], drawn[:, 2])


def test_mixing_draws_partners_evenly_and_shares_from_beta() -> None:
    ids = torch.arange(20_000)
    size = torch.full_like(ids, 50)
    partners, shares = mixing(ids, 0, size, 0.2, 0)
    counts = torch.bincount(partners, minlength=50)
    assert len(counts) == 50
    assert counts.min() > 300
    beta = torch.distributions.Beta(0.2, 0.2)
    torch.manual_seed(0)
    expected = beta.sample((20_000,))
    expected = torch.maximum(expected, 1 - expected)
    assert shares.min() >= 0.5
    for q in (0.1, 0.25, 0.5, 0.75):
        assert abs(float(shares.quantile(q) - expected.quantile(q))) < 0.02
    again, _ = mixing(ids.flip(0), 0, size, 0.2, 0)
    assert torch.equal(again.flip(0), partners)
    assert not torch.equal(mixing(ids, 1, size, 0.2, 0)[0], partners)


def test_mixed_pictures_keep_their_type() -> None:
    shares = torch.full((64,), 0.75)
    drawn = mixed(IMAGES, IMAGES.flip(0), shares)
    exact = 0.75 * IMAGES.float() + 0.25 * IMAGES.flip(0).float()
    assert drawn.dtype == torch.uint8
    assert float((drawn.float() - exact).abs().max()) <= 0.5
    floats = mixed(IMAGES.float(), IMAGES.flip(0).float(), shares)
    assert torch.allclose(floats, exact)
