"""Recorded views: pure functions of seed, id and view."""

from __future__ import annotations

import torch

from pdo_search.config.schema import AugmentConfig
from pdo_search.tasks.augment import augmented

CONFIG = AugmentConfig(crop=2, flip=True)
IMAGES = torch.arange(64 * 3 * 8 * 8).view(64, 3, 8, 8) % 251
IDS = torch.arange(64)


def test_a_view_does_not_depend_on_the_batch_it_is_drawn_in() -> None:
    together = augmented(IMAGES, IDS, 3, CONFIG, 7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = augmented(IMAGES[order], IDS[order], 3, CONFIG, 7)
    alone = torch.cat([augmented(IMAGES[i : i + 1], IDS[i : i + 1], 3, CONFIG, 7) for i in IDS])
    assert torch.equal(together[order], shuffled)
    assert torch.equal(together, alone)


def test_views_and_seeds_differ() -> None:
    first = augmented(IMAGES, IDS, 0, CONFIG, 0)
    assert not torch.equal(first, augmented(IMAGES, IDS, 1, CONFIG, 0))
    assert not torch.equal(first, augmented(IMAGES, IDS, 0, CONFIG, 1))


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
