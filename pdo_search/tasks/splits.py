"""Splitting labelled examples into four disjoint, stratified, seeded parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdo_search.config.schema import SplitsConfig
from pdo_search.errors import InputError
from pdo_search.tasks.base import Split

__all__ = ["four_way_split", "stratified_subset"]

Indices = NDArray[np.int64]


def four_way_split(
    labels: Indices,
    shares: SplitsConfig,
    seed: int,
    *,
    class_names: Sequence[str],
    own_test: bool,
    other_transfer: bool,
) -> dict[Split, Indices]:
    """Indices of each split, sorted, every class in its share.

    Args:
        labels: (N,) class indices.
        shares: shares of N; the rest is the train split.
        seed: same seed, same splits.
        class_names: for messages.
        own_test: the source has a test split of its own; no share is taken for it.
        other_transfer: the transfer split comes from another source; no share is taken for it.

    Raises:
        InputError: names a class that would be empty in a split.
    """
    rng = np.random.default_rng(seed)
    wanted = {Split.VALIDATION: shares.validation}
    if not other_transfer:
        wanted[Split.TRANSFER] = shares.transfer
    if not own_test:
        wanted[Split.TEST] = shares.test
    parts: dict[Split, list[Indices]] = {split: [] for split in (Split.TRAIN, *wanted)}
    for label, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels == label))
        first = 0
        for split, share in wanted.items():
            count = round(share * len(members))
            parts[split].append(members[first : first + count])
            first += count
        parts[Split.TRAIN].append(members[first:])
        for split, found in parts.items():
            if len(found[-1]) == 0:
                raise InputError(
                    f"class {name!r} has no example in the {split.value} split:"
                    f" it has {len(members)} in all",
                    path="task.splits",
                    value=shares.model_dump(),
                    remedy="add examples of the class, remove it, or change the shares",
                )
    return {split: np.sort(np.concatenate(found)) for split, found in parts.items()}


def stratified_subset(labels: Indices, limit: int, seed: int) -> Indices:
    """About ``limit`` indices, every class in its share and with at least one, sorted."""
    rng = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(limit * len(members) / len(labels)))
        kept.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(kept))
