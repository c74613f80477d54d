"""The four splits of any task's examples: by shares or as the source has them, disjoint by content.

Knows columns, classes to balance and groups to keep whole; no domain and no source. ``splits`` has
the arithmetic.

Legend: N examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.config.task import SplitsConfig
from pdo_search.tasks.base import Dropped, Examples, Head, HeadKind, Split
from pdo_search.tasks.contents import Hashes, column_hashes
from pdo_search.tasks.splits import (
    LABELS_STREAM,
    four_way_split,
    labelled_count,
    labelled_subset,
    leave_one_out,
    whole_groups,
    without_copies,
)

__all__ = [
    "TRANSFER_IDS",
    "Divided",
    "Part",
    "Told",
    "balanced_head",
    "divide",
    "examples_of",
    "own_parts",
    "part_of",
]

TRANSFER_IDS = 1 << 41
"""The first id of another source's examples."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Examples, and what decides which split each of them comes into.

    Attributes:
        examples: N.
        hashes: (N,) of their contents.
        strata: (N,) int64, the class by which splits are balanced, -1 for none.
        groups: (N,) numbers or texts, what may not be torn apart; None: nothing.
        times: (N,) numbers, when each was; for ``leave_one_out`` alone.
    """

    examples: Examples
    hashes: Hashes
    strata: Indices
    groups: NDArray[Any] | None = None
    times: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    def select(self, index: Indices) -> Part:
        """The examples at an index."""
        return Part(
            self.examples.select(torch.from_numpy(index)),
            self.hashes[index],
            self.strata[index],
            None if self.groups is None else self.groups[index],
            None if self.times is None else self.times[index],
        )

    def followed_by(self, other: Part) -> Part:
        """These examples, then others."""
        if not len(self) or not len(other):
            return self if len(self) else other
        groups = [part.groups for part in (self, other) if part.groups is not None]
        return Part(
            self.examples.followed_by(other.examples),
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.strata, other.strata]),
            np.concatenate(groups) if len(groups) == 2 else None,
        )


@dataclass(frozen=True)
class Told:
    """What messages call things.

    Attributes:
        data: the labelled source, as the experiment names it.
        transfer: another source of the transfer split; None where there is none.
        things: what examples are.
    """

    data: object
    transfer: object = None
    things: str = "examples"


@dataclass(frozen=True, eq=False)
class Divided:
    """The four splits.

    Attributes:
        splits: examples of each.
        train_inputs: the train split as it is before labels are taken away.
        dropped: what was left out, so that no two splits share a content.
    """

    splits: dict[Split, Examples]
    train_inputs: Examples
    dropped: tuple[Dropped, ...]


def balanced_head(
    heads: Sequence[Head], stratify: str | Literal[False] | None = None
) -> str | None:
    """By which head's classes splits are balanced, as ``splits.stratify`` has it: by default the
    first of one class per example, if any.

    Raises:
        InputError: the head that is named does not exist, or has no one class per example.
    """
    fitting = [h.name for h in heads if h.kind is HeadKind.CATEGORICAL and h.positions is None]
    if stratify is False:
        return None
    if stratify is None:
        return fitting[0] if fitting else None
    if stratify not in fitting:
        raise InputError(
            "is no head of one class per example",
            path="task.splits.stratify",
            value=stratify,
            remedy=f"name {' or '.join(fitting)}, or leave it out" if fitting else "leave it out",
        )
    return stratify


def examples_of(
    inputs: Mapping[str, Column],
    targets: Mapping[str, Column],
    first_id: int = 0,
    labelled: Tensor | None = None,
) -> Examples:
    """All rows of columns as examples.

    Args:
        inputs: by name, N rows each.
        targets: by name; a row is labelled where any of them is known.
        first_id: rows have the ids from it on.
        labelled: (N,) bool, where targets do not say it, as of texts that are their own.
    """
    count = len(next(iter(inputs.values())))
    if labelled is None:
        known = [_known(column) for column in targets.values()]
        labelled = torch.stack(known).any(dim=0) if known else torch.zeros(count, dtype=torch.bool)
    return Examples(inputs, targets, None, torch.arange(count) + first_id, labelled)


def _known(column: Column) -> Tensor:
    """(N,) bool, rows with a number that is known: -1 and NaN are not."""
    values = column.values
    known = ~values.isnan() if values.is_floating_point() else values >= 0
    known = known.flatten(1).any(dim=1) if known.dim() > 1 else known
    if column.offsets is None:
        return known
    rows = torch.repeat_interleave(torch.arange(len(column)), column.lengths())
    return torch.zeros(len(column), dtype=torch.bool).index_fill(0, rows[known], True)


def own_parts(
    examples: Examples,
    splits: Mapping[Split, range],
    balanced: str | None = None,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
) -> dict[Split, Part]:
    """A source's rows by the splits that it has, as ``divide`` takes them."""
    whole = part_of(examples, balanced, groups, times=times)
    return {split: whole.select(np.arange(r.start, r.stop)) for split, r in splits.items()}


def part_of(
    examples: Examples,
    balanced: str | None = None,
    groups: NDArray[Any] | None = None,
    hashes: Hashes | None = None,
    times: NDArray[Any] | None = None,
) -> Part:
    """Examples, one per row of their columns, as a part.

    Args:
        examples: of a source.
        balanced: the target by whose classes splits are balanced, int64 (N,); None for none.
        groups: (N,) what may not be torn apart.
        hashes: (N,) of their contents, where they are known; otherwise those of all inputs.
        times: (N,) when each was, as ``convert.time_values`` gives them.
    """
    assert examples.rows is None
    strata = torch.full_like(examples.ids, -1)
    if balanced is not None:
        strata = examples.targets[balanced].values.masked_fill(~examples.labelled, -1)
    found = column_hashes(examples.inputs) if hashes is None else hashes
    return Part(examples, found, strata.numpy(), groups, times)


def divide(
    parts: Mapping[Split, Part],
    splits: SplitsConfig,
    seed: int,
    class_names: Sequence[str],
    told: Told,
) -> Divided:
    """Divide examples into splits that share no content.

    Args:
        parts: under ``TRAIN`` what is divided; under the others what the source has as splits of
            its own, and under ``TRANSFER`` maybe another source. Examples of ``TRAIN`` that have
            no label come into transfer.
        splits: shares, number of labels, whether the last of each group are left out.
        seed: of all draws.
        class_names: of the classes that are balanced; none where nothing is.
        told: for messages.

    Raises:
        InputError: names the class or the split that would be empty, or the groups that the
            source's own splits tear apart.
    """
    found = _four_parts(parts, splits, seed, class_names)
    own = {split for split in (Split.VALIDATION, Split.TEST) if split in parts}
    found, dropped = _disjoint(found, class_names, told, own)
    if splits.labels is None or Split.TRANSFER in parts:
        _check_transfer(found, dropped, splits, told)
    train_inputs = found[Split.TRAIN].examples
    if splits.labels is not None:
        found = _few_labels(found, splits.labels, seed, class_names)
        # An example that is in train twice may have kept its label once.
        found, more = _disjoint(found, class_names, told, own)
        dropped += more
        _check_transfer(found, dropped, splits, told)
    return Divided({s: part.examples for s, part in found.items()}, train_inputs, dropped)


def _four_parts(
    parts: Mapping[Split, Part], splits: SplitsConfig, seed: int, class_names: Sequence[str]
) -> dict[Split, Part]:
    """All splits; contents that lie in two of them are still in both."""
    labelled = parts[Split.TRAIN].examples.labelled.numpy()
    pool = parts[Split.TRAIN]
    rest = pool.select(np.flatnonzero(~labelled))
    if len(rest):
        pool = pool.select(np.flatnonzero(labelled))
    own: dict[Split, Part] = {s: part for s, part in parts.items() if s is not Split.TRAIN}
    for split in (Split.VALIDATION, Split.TEST):
        if split in own and not own[split].examples.labelled.any():
            raise InputError(
                f"the source's own {split.value} split has no labels",
                path="task.data",
                remedy="give task.data.path the splits that have labels, such as {train: …}: a"
                " share of train then stands in",
            )
    if splits.leave_one_out:
        indices = _last_left_out(pool, splits, seed, own, len(class_names))
    else:
        indices = four_way_split(
            pool.strata, splits, seed, class_names=class_names, own=own, groups=pool.groups
        )
    found = {split: pool.select(index) for split, index in indices.items()} | own
    # Empty where another source, or `splits.labels` alone, gives the split its examples.
    found.setdefault(Split.TRANSFER, pool.select(np.empty(0, np.int64)))
    found[Split.TRANSFER] = found[Split.TRANSFER].followed_by(rest)
    if not splits.leave_one_out:
        _refuse_torn(found)
    return found


def _last_left_out(
    pool: Part, splits: SplitsConfig, seed: int, own: Mapping[Split, Part], num_classes: int
) -> dict[Split, Indices]:
    """Indices of each split where the last of each group are left out.

    Raises:
        InputError: the source has a validation or test split of its own.
    """
    for split in (Split.VALIDATION, Split.TEST):
        if split in own:
            raise InputError(
                f"the source has a {split.value} split of its own",
                path="task.splits.leave_one_out",
                value=splits.leave_one_out,
                remedy="leave it out; or join the source's own splits into one",
            )
    assert pool.groups is not None
    assert pool.times is not None
    return leave_one_out(
        pool.strata,
        0.0 if Split.TRANSFER in own else splits.transfer,
        seed,
        num_classes=num_classes,
        groups=pool.groups,
        times=pool.times,
    )


def _refuse_torn(parts: Mapping[Split, Part]) -> None:
    """Refuse groups that are in two splits: of these one is the source's own.

    Raises:
        InputError: there is one.
    """
    seen: dict[str, Split] = {}
    for split, part in parts.items():
        if part.groups is None:
            continue
        names = [str(name) for name in np.unique(part.groups)]
        torn = [name for name in names if name in seen]
        if torn:
            raise InputError(
                f"{len(torn):,} groups are in both the {seen[torn[0]].value} and the {split.value}"
                f" split, such as {torn[0]!r}",
                path="task.splits.group",
                remedy="leave splits.group out; or join the source's own splits into one, which is"
                " then divided by groups",
            )
        seen |= dict.fromkeys(names, split)


def _counts(part: Part, class_names: Sequence[str]) -> Indices:
    """Examples by class; in one number where nothing is balanced."""
    if not class_names:
        return np.array([len(part)])
    return np.bincount(part.strata[part.strata >= 0], minlength=len(class_names))


def _disjoint(
    parts: Mapping[Split, Part], class_names: Sequence[str], told: Told, own: set[Split]
) -> tuple[dict[Split, Part], tuple[Dropped, ...]]:
    """The splits without what another one holds, and what they lost.

    Args:
        parts: all of them.
        class_names: of the classes that are balanced.
        told: for messages.
        own: splits that the source has itself, where a share of train could be taken.

    Raises:
        InputError: nothing is left of a class in train or validation.
    """
    kept, dropped = without_copies({split: part.hashes for split, part in parts.items()})
    left = {
        split: part if len(kept[split]) == len(part) else part.select(kept[split])
        for split, part in parts.items()
    }
    for split in (Split.TRAIN, Split.VALIDATION):
        before, after = (_counts(p[split], class_names) for p in (parts, left))
        lost = np.flatnonzero((after == 0) & (before > 0))
        if len(lost):
            label = int(lost[0])
            holders = {d.held_by for d in dropped if d.split is split}
            named = " and ".join(s.value for s in Split if s in holders)
            given = " and ".join(s.value for s in Split if s in holders & own)
            what = (
                f"class {class_names[label]!r} has no example" if class_names else "no example is"
            )
            raise InputError(
                f"{what} left in the {split.value} split: all"
                f" {int(before[label]):,} are copies of examples of {named}",
                path="task.data",
                value=told.data,
                remedy=f"take {given} away from the source, and a share of train is used; or leave"
                f" each of these {told.things} in one split alone"
                if given
                else "remove the copies from the source, or change the shares in task.splits",
            )
    return left, dropped


def _check_transfer(
    parts: Mapping[Split, Part], dropped: tuple[Dropped, ...], splits: SplitsConfig, told: Told
) -> None:
    """Refuse an empty transfer split, and say why it is empty.

    Raises:
        InputError: it is.
    """
    if len(parts[Split.TRANSFER]):
        return
    lost = sum(d.count for d in dropped if d.split is Split.TRANSFER)
    if told.transfer is not None:
        raise InputError(
            f"holds nothing new: all of its {lost:,} {told.things} are in the labelled source, too",
            path="task.transfer_data",
            value=told.transfer,
            remedy=f"name a source of other {told.things}, or leave it out: splits.transfer then"
            " takes a share of the labelled source",
        )
    if lost:
        raise InputError(
            f"no example is left in the transfer split: all {lost:,} are copies of examples in"
            " other splits",
            path="task.data",
            value=told.data,
            remedy="remove the copies from the source, or give splits.transfer a larger share",
        )
    raise InputError(
        "every example of train keeps its label, and none is left for the transfer split",
        path="task.splits.labels",
        value=splits.labels,
        remedy="ask for fewer labels, or give splits.transfer a share",
    )


def _few_labels(
    parts: Mapping[Split, Part], labels: int | float, seed: int, class_names: Sequence[str]
) -> dict[Split, Part]:
    """The splits where so many labels of train are left in it, and transfer has the others.

    Raises:
        InputError: they are fewer than the classes, or more than there are; or the groups do not
            allow it.
    """
    train = parts[Split.TRAIN]
    classes = len(np.unique(train.strata)) if class_names else 0
    count = labelled_count(labels, len(train), classes)
    chosen = _labelled(train, count, seed, class_names)
    rest = train.select(np.setdiff1d(np.arange(len(train)), chosen))
    joined = parts[Split.TRANSFER].followed_by(rest)
    joined = replace(joined, examples=joined.examples.unlabelled())
    return {**parts, Split.TRAIN: train.select(chosen), Split.TRANSFER: joined}


def _labelled(train: Part, count: int, seed: int, class_names: Sequence[str]) -> Indices:
    """Sorted indices of the examples that keep their labels: so many, or about so many where whole
    groups keep theirs.

    Raises:
        InputError: the groups leave a class without a label.
    """
    if train.groups is None or count == len(train):
        return labelled_subset(train.strata, count, seed)
    share, path = count / len(train), "task.splits.labels"
    wanted = {Split.TRAIN: share, Split.TRANSFER: 1 - share}
    rng = np.random.default_rng((seed, LABELS_STREAM))
    chosen = whole_groups(train.groups, train.strata, wanted, rng, path=path)[Split.TRAIN]
    counts = _counts(train.select(chosen), class_names)
    if counts.min() == 0:
        raise InputError(
            f"class {class_names[int(counts.argmin())]!r} has no label where whole groups keep"
            f" about {count:,} of them",
            path=path,
            value=count,
            remedy=f"ask for more labels, up to {len(train):,}, or leave splits.group out",
        )
    return chosen
