"""Splitting labelled examples into four disjoint, stratified, seeded parts, or whole groups. Pure.

Also which examples a split must do without, because their contents are in another one, and which
keep their labels where few are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.config.task import SplitsConfig
from pdo_search.tasks.base import Dropped, Split
from pdo_search.tasks.contents import Hashes

__all__ = [
    "LABELS_STREAM",
    "PRECEDENCE",
    "four_way_split",
    "labelled_count",
    "labelled_subset",
    "leave_one_out",
    "stratified_subset",
    "whole_groups",
    "without_copies",
]

Indices = NDArray[np.int64]
Groups = NDArray[Any]
"""Numbers or texts, equal where examples belong together."""

PRECEDENCE = (Split.TEST, Split.VALIDATION, Split.TRAIN, Split.TRANSFER)
"""Of splits with the same contents the first keeps them: what measures before what teaches."""
LARGE = 0.1
"""A group above this share of the smallest split's examples is placed before the order is drawn."""
MEASURED = 3
"""Examples that a group needs, where one is left for test and one for validation."""
LABELS_STREAM = 1
"""Draws of labelled examples are others than those of the splits."""


def four_way_split(
    labels: Indices,
    shares: SplitsConfig,
    seed: int,
    *,
    class_names: Sequence[str] = (),
    own: Collection[Split] = (),
    groups: Groups | None = None,
) -> dict[Split, Indices]:
    """Indices of each split, sorted, every class in its share.

    Args:
        labels: (N,) class indices; -1 for examples of no class, which are divided by themselves and
            may be missing in a split.
        shares: shares of N; the rest is the train split.
        seed: same seed, same splits.
        class_names: for messages; none where nothing is to be balanced.
        own: splits that have examples of their own; no share is taken for them.
        groups: (N,) what each example belongs to; no group comes into two splits. Shares are then
            met about as well as the sizes of groups allow.

    Returns:
        No split for which no share is taken.

    Raises:
        InputError: names a class or a split that would be empty, or there are too few groups.
    """
    rng = np.random.default_rng(seed)
    each = ((s, getattr(shares, s.value)) for s in (Split.VALIDATION, Split.TRANSFER, Split.TEST))
    wanted = {split: share for split, share in each if split not in own and share > 0}
    if groups is None:
        parts = _by_class(labels, wanted, len(class_names), rng)
    else:
        everything = {Split.TRAIN: 1 - sum(wanted.values()), **wanted}
        parts = whole_groups(groups, labels, everything, rng)
    _refuse_empty(parts, labels, class_names, shares, groups)
    return parts


def _by_class(
    labels: Indices, wanted: Mapping[Split, float], num_classes: int, rng: np.random.Generator
) -> dict[Split, Indices]:
    """Sorted indices of each split: shares of each class, those of no class last."""
    parts: dict[Split, list[Indices]] = {split: [] for split in (Split.TRAIN, *wanted)}
    for label in (*range(num_classes), -1):
        members = rng.permutation(np.flatnonzero(labels == label))
        first = 0
        for split, share in wanted.items():
            count = round(share * len(members))
            parts[split].append(members[first : first + count])
            first += count
        parts[Split.TRAIN].append(members[first:])
    return {split: np.sort(np.concatenate(found)) for split, found in parts.items()}


def leave_one_out(
    labels: Indices, transfer: float, seed: int, *, num_classes: int, groups: Groups, times: Groups
) -> dict[Split, Indices]:
    """Sorted indices of each split: test has the last example of each group and validation the last
    but one; the others train, a share of each class of them is for transfer.

    Of examples of one time the last one in order is the last. A group of fewer than three trains.

    Args:
        labels: (N,) class indices, -1 for none.
        transfer: share of the others; 0 leaves the split out.
        seed: of the draw of this share.
        num_classes: how many there are.
        groups: (N,) what each example belongs to.
        times: (N,) when it was.

    Raises:
        InputError: no group has three examples.
    """
    found, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.lexsort((times, group))
    last = np.cumsum(sizes)[sizes >= MEASURED] - 1
    if len(last) == 0:
        raise InputError(
            f"no group has {MEASURED} examples, one each to learn from, to select by and to"
            f" measure: there are {len(labels):,} examples in {len(found):,} groups",
            path="task.splits.leave_one_out",
            remedy="group by a column of fewer values; or leave it out, and group as well",
        )
    test, validation = np.sort(order[last]), np.sort(order[last - 1])
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate([test, validation]))
    wanted = {Split.TRANSFER: transfer} if transfer > 0 else {}
    parts = _by_class(labels[rest], wanted, num_classes, np.random.default_rng(seed))
    parts = {split: rest[rows] for split, rows in parts.items()}
    return {**parts, Split.VALIDATION: validation, Split.TEST: test}


def whole_groups(
    groups: Groups,
    labels: Indices,
    wanted: Mapping[Split, float],
    rng: np.random.Generator,
    *,
    path: str = "task.splits.group",
) -> dict[Split, Indices]:
    """Sorted indices of each split, no group in two.

    One group after another goes where its classes are missed most: where the squared error of the
    class counts, in shares of each class, grows least. Groups that are large for the smallest split
    come first, the largest before the others; the order of all others is drawn, so that no split
    has the small groups alone.

    Args:
        groups: (N,) what each example belongs to.
        labels: (N,) class indices, -1 for none.
        wanted: shares by split; their sum is 1.
        rng: draws the order.
        path: for messages.

    Raises:
        InputError: there are fewer groups than splits.
    """
    found, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(found) < len(wanted):
        raise InputError(
            f"there are too few groups: {len(found):,} for the {len(wanted)} splits"
            f" {', '.join(split.value for split in wanted)}",
            path=path,
            value=[str(name) for name in found],
            remedy="group by a column of more values, or leave it out",
        )
    strata = labels + 1
    need = np.array(list(wanted.values()))[:, None] * np.bincount(strata)
    weight = 1 / np.maximum(1, np.bincount(strata)) ** 2
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    order = rng.permutation(len(found))
    large = np.where(sizes > LARGE * min(wanted.values()) * len(labels), sizes, 0)
    order = order[np.argsort(-large[order], kind="stable")]
    chosen = np.full(len(found), -1)
    empty = list(range(len(wanted)))
    for place, number in enumerate(order):
        own = strata[members[number]]
        score = (need[:, own] * weight[own]).sum(axis=1)
        allowed = empty if len(order) - place <= len(empty) else list(range(len(wanted)))
        best = max(allowed, key=lambda k: score[k])
        chosen[number] = best
        need[best] -= np.bincount(own, minlength=need.shape[1])
        empty = [k for k in empty if k != best]
    return {split: np.flatnonzero(chosen[group] == k) for k, split in enumerate(wanted)}


def _refuse_empty(
    parts: Mapping[Split, Indices],
    labels: Indices,
    class_names: Sequence[str],
    shares: SplitsConfig,
    groups: Groups | None,
) -> None:
    """Refuse splits without an example, or without one of a class.

    Raises:
        InputError: there is one.
    """
    count = len(class_names)
    have = {s: np.bincount(labels[rows] + 1, minlength=count + 1) for s, rows in parts.items()}
    for label, name in enumerate(class_names):
        empty = next((split for split in parts if have[split][label + 1] == 0), None)
        if empty is None:
            continue
        members = np.flatnonzero(labels == label)
        of = "" if groups is None else f", of {len(np.unique(groups[members])):,} groups"
        raise InputError(
            f"class {name!r} has no example in the {empty.value} split:"
            f" it has {len(members)} in all{of}",
            path="task.splits",
            value=shares.model_dump(exclude_none=True),
            remedy="add examples of the class, remove it, or change the shares",
        )
    empty = next((split for split, rows in parts.items() if len(rows) == 0), None)
    if empty is not None:
        raise InputError(
            f"no example comes into the {empty.value} split: there are {len(labels)} in all",
            path="task.splits",
            value=shares.model_dump(exclude_none=True),
            remedy="add examples, or change the shares",
        )


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
        num_classes: each needs one; 0 where nothing is balanced.
        path: for messages.

    Raises:
        InputError: they are fewer than the classes, or more than the train split has.
    """
    count = labels if isinstance(labels, int) else round(labels * num_train)
    least = max(1, num_classes)
    if count < least:
        each = f": each of {num_classes:,} classes needs one" if num_classes else ""
        raise InputError(
            f"{count:,} labelled examples are too few{each}",
            path=path,
            value=labels,
            remedy=f"ask for {least:,} to {num_train:,}",
        )
    if count > num_train:
        raise InputError(
            f"the train split has only {num_train:,} examples",
            path=path,
            value=labels,
            remedy=f"ask for {least:,} to {num_train:,}, or leave it out to use every label",
        )
    return count


def labelled_subset(labels: Indices, count: int, seed: int) -> Indices:
    """Exactly ``count`` indices, every class in its share and with at least one, sorted.

    Of each class the first of one seeded order are taken: up to rounding, fewer labels are among
    more of the same seed.

    Args:
        labels: (N,) class indices; -1 counts as a class.
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
