"""Splitting labelled examples into four disjoint, stratified, seeded parts. Pure.

Also which examples a split must do without, because their contents are in another one, and which
keep their labels where few are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.config.schema import SplitsConfig
from pdo_search.tasks.base import Dropped, Split
from pdo_search.tasks.contents import Hashes

__all__ = [
    "PRECEDENCE",
    "four_way_split",
    "labelled_count",
    "labelled_subset",
    "stratified_subset",
    "without_copies",
]

Indices = NDArray[np.int64]

PRECEDENCE = (Split.TEST, Split.VALIDATION, Split.TRAIN, Split.TRANSFER)
"""Of splits with the same contents the first keeps them: what measures before what teaches."""
LABELS_STREAM = 1
"""Draws of labelled examples are others than those of the splits."""


def four_way_split(
    labels: Indices,
    shares: SplitsConfig,
    seed: int,
    *,
    class_names: Sequence[str],
    own_test: bool,
    own_validation: bool,
    other_transfer: bool,
) -> dict[Split, Indices]:
    """Indices of each split, sorted, every class in its share.

    Args:
        labels: (N,) class indices.
        shares: shares of N; the rest is the train split.
        seed: same seed, same splits.
        class_names: for messages.
        own_test: the source has a test split of its own; no share is taken for it.
        own_validation: the same of validation.
        other_transfer: the transfer split comes from another source; no share is taken for it.

    Returns:
        No split for which no share is taken.

    Raises:
        InputError: names a class that would be empty in a split.
    """
    rng = np.random.default_rng(seed)
    wanted = {} if own_validation else {Split.VALIDATION: shares.validation}
    if not other_transfer and shares.transfer > 0:
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


def without_copies(
    hashes: Mapping[Split, Hashes],
) -> tuple[dict[Split, Indices], tuple[Dropped, ...]]:
    """Which examples of each split stay, so that no content is in two of them.

    Test keeps all it has; validation loses what is in test; train what is in test or validation;
    transfer what is in any other. Copies within one split stay.

    Args:
        hashes: of the contents of each split's examples, (N,) each.

    Returns:
        Sorted indices of what stays, by split; and what does not, with the first split in
        ``PRECEDENCE`` that holds it.
    """
    splits = [split for split in PRECEDENCE if split in hashes]
    sizes = [len(hashes[split]) for split in splits]
    rank = np.repeat(np.arange(len(splits)), sizes)
    found, contents = np.unique(
        np.concatenate([hashes[split] for split in splits]), return_inverse=True
    )
    first = np.full(len(found), len(splits))
    np.minimum.at(first, contents, rank)
    holders = np.split(first[contents], np.cumsum(sizes)[:-1])
    kept = {
        s: np.flatnonzero(holder == k)
        for k, (s, holder) in enumerate(zip(splits, holders, strict=True))
    }
    dropped = tuple(
        Dropped(split, splits[other], int(count))
        for k, (split, holder) in enumerate(zip(splits, holders, strict=True))
        for other, count in enumerate(np.bincount(holder, minlength=len(splits))[:k])
        if count
    )
    return kept, dropped


def labelled_count(
    labels: int | float, num_train: int, num_classes: int, *, path: str = "task.splits.labels"
) -> int:
    """How many examples of the train split keep their labels.

    Args:
        labels: how many, or their share of the train split.
        num_train: size of the train split.
        num_classes: each needs one.
        path: for messages.

    Raises:
        InputError: they are fewer than the classes, or more than the train split has.
    """
    count = labels if isinstance(labels, int) else round(labels * num_train)
    if count < num_classes:
        raise InputError(
            f"{count:,} labelled examples are too few: each of {num_classes:,} classes needs one",
            path=path,
            value=labels,
            remedy=f"ask for {num_classes:,} to {num_train:,}",
        )
    if count > num_train:
        raise InputError(
            f"the train split has only {num_train:,} examples",
            path=path,
            value=labels,
            remedy=f"ask for {num_classes:,} to {num_train:,}, or leave it out to use every label",
        )
    return count


def labelled_subset(labels: Indices, count: int, seed: int) -> Indices:
    """Exactly ``count`` indices, every class in its share and with at least one, sorted.

    Of each class the first of one seeded order are taken: up to rounding, fewer labels are among
    more of the same seed.

    Args:
        labels: (N,) class indices.
        count: from the number of classes to N.
        seed: same seed, same examples.
    """
    classes, members = np.unique(labels, return_counts=True)
    rng = np.random.default_rng((seed, LABELS_STREAM))
    counts = _apportioned(members, count)
    kept = [
        rng.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _apportioned(members: Indices, count: int) -> Indices:
    """``count`` in whole parts by classes of so many ``members``, one at least, by the largest
    remainders."""
    shares = count * members / members.sum()
    counts: Indices = np.maximum(1, np.floor(shares)).astype(np.int64)
    while counts.sum() < count:
        counts[np.argmax(np.where(counts < members, shares - counts, -np.inf))] += 1
    while counts.sum() > count:
        counts[np.argmax(np.where(counts > 1, counts - shares, -np.inf))] -= 1
    return counts
