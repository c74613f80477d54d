"""The four splits: disjoint, stratified, seeded; and a test split that a search cannot read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, SplitsConfig, TaskConfig
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Dropped, Split, Task
from pdo_search.tasks.contents import HASH, Hashes
from pdo_search.tasks.splits import (
    four_way_split,
    labelled_count,
    labelled_subset,
    stratified_subset,
    without_copies,
)

from ..pictures import classes, of_pictures, pixels

SEARCHED = (Split.TRAIN, Split.TRANSFER, Split.VALIDATION)


def digits(**changes: Any) -> Task:
    return build_task(TaskConfig(**{"data": DataConfig(source="digits"), **changes}), None)


def test_every_example_lies_in_a_split() -> None:
    task = digits()
    assert sum(len(task.examples(split)) for split in SEARCHED) + len(task.test_examples()) == 1797


def test_every_class_has_its_share_in_every_split() -> None:
    task = digits(splits=SplitsConfig(transfer=0.1, validation=0.2, test=0.3))
    whole = np.bincount(np.concatenate([classes(task.examples(s)) for s in SEARCHED]))
    whole = whole + np.bincount(classes(task.test_examples()))
    for split, share in ((Split.TRAIN, 0.4), (Split.TRANSFER, 0.1), (Split.VALIDATION, 0.2)):
        assert np.abs(np.bincount(classes(task.examples(split))) / whole - share).max() < 0.01


def test_splits_repeat_by_seed() -> None:
    assert digits(seed=3).fingerprint == digits(seed=3).fingerprint
    assert digits(seed=3).fingerprint != digits(seed=4).fingerprint
    assert set(digits(seed=3).examples(Split.TRAIN).ids.tolist()) != set(
        digits(seed=4).examples(Split.TRAIN).ids.tolist()
    )


def test_the_normalisation_is_that_of_the_train_split_alone() -> None:
    task = digits()
    train = pixels(task.examples(Split.TRAIN)).double()
    mean, std = of_pictures(task).normalization
    assert mean[0] == pytest.approx(train.mean().item())
    assert std[0] == pytest.approx(train.std(correction=0).item())


def test_an_unlabelled_source_can_be_the_transfer_split() -> None:
    task = digits(
        data=DataConfig(source="digits", limit=1600),
        splits=SplitsConfig(transfer=0),
        transfer_data=DataConfig(source="digits", labelled=False),
    )
    transfer = task.examples(Split.TRANSFER)
    assert len(transfer) == pytest.approx(197, abs=5)
    assert not transfer.labelled.any()
    assert not set(transfer.ids.tolist()) & set(task.examples(Split.TRAIN).ids.tolist())


def test_an_empty_class_is_named() -> None:
    labels = np.array([0] * 50 + [1])
    with pytest.raises(InputError, match="class 'rare' has no example"):
        four_way_split(labels, SplitsConfig(), 0, class_names=("common", "rare"))


def test_a_limited_source_keeps_its_class_shares() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    kept = stratified_subset(labels, 100, seed=1)
    assert np.bincount(labels[kept]).tolist() == [70, 25, 5]


def hashes(*values: int) -> Hashes:
    """Hashes whose first and last bytes are zero, which must not matter."""
    return np.frombuffer(b"".join(v.to_bytes(15, "big") + b"\0" for v in values), HASH)


def test_what_measures_keeps_its_contents() -> None:
    kept, dropped = without_copies(
        {
            Split.TRAIN: hashes(1, 2, 3, 4, 2),
            Split.TRANSFER: hashes(5, 1, 3, 7, 4, 5, 256, 512),
            Split.VALIDATION: hashes(3, 4, 6, 6),
            Split.TEST: hashes(4, 8, 8),
        }
    )
    assert kept[Split.TEST].tolist() == [0, 1, 2]
    assert kept[Split.VALIDATION].tolist() == [0, 2, 3]
    assert kept[Split.TRAIN].tolist() == [0, 1, 4]
    assert kept[Split.TRANSFER].tolist() == [0, 3, 5, 6, 7]
    assert set(dropped) == {
        Dropped(Split.VALIDATION, Split.TEST, 1),
        Dropped(Split.TRAIN, Split.TEST, 1),
        Dropped(Split.TRAIN, Split.VALIDATION, 1),
        Dropped(Split.TRANSFER, Split.TEST, 1),
        Dropped(Split.TRANSFER, Split.VALIDATION, 1),
        Dropped(Split.TRANSFER, Split.TRAIN, 1),
    }


def test_a_content_that_three_splits_have_stays_in_one() -> None:
    same = {split: hashes(1, 1) for split in (Split.TRANSFER, Split.TRAIN, Split.VALIDATION)}
    kept, dropped = without_copies({**same, Split.TEST: hashes()})
    assert {s: len(k) for s, k in kept.items() if len(k)} == {Split.VALIDATION: 2}
    assert {d.held_by for d in dropped} == {Split.VALIDATION}


@pytest.mark.parametrize("seed", range(20))
def test_no_content_is_left_in_two_splits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = {s: hashes(*rng.integers(0, 60, rng.integers(0, 50)).tolist()) for s in Split}
    kept, dropped = without_copies(given)
    left = {s: set(given[s][kept[s]].tolist()) for s in Split}
    assert sum(map(len, left.values())) == len(set().union(*(h.tolist() for h in given.values())))
    for split in Split:
        lost = sum(d.count for d in dropped if d.split is split)
        assert len(kept[split]) + lost == len(given[split])


@pytest.mark.parametrize("count", [3, 4, 5, 10, 99, 100, 999, 1000])
def test_so_many_labels_as_asked_for_in_the_classes_shares(count: int) -> None:
    labels = np.repeat([0, 1, 2], [700, 297, 3])
    kept = labelled_subset(labels, count, seed=1)
    assert len(kept) == len(np.unique(kept)) == count
    found = np.bincount(labels[kept], minlength=3)
    assert found.min() >= 1
    # Only the guarantee of one example takes more than rounding from the others.
    assert np.abs(found - count * np.array([0.7, 0.297, 0.003])).max() <= 2
    assert np.array_equal(kept, labelled_subset(labels, count, seed=1))


def test_another_seed_gives_labels_to_others() -> None:
    labels = np.repeat([0, 1], 500)
    one, other = labelled_subset(labels, 50, seed=1), labelled_subset(labels, 50, seed=2)
    assert not np.array_equal(one, other)
    assert set(one) < set(labelled_subset(labels, 100, seed=1))


def test_a_share_of_labels_is_one_of_the_train_split() -> None:
    assert labelled_count(0.1, 905, 10) == 90
    assert labelled_count(10, 905, 10) == 10
    assert labelled_count(905, 905, 10) == 905
    for labels in (9, 0.01, 906):
        with pytest.raises(InputError, match="ask for 10 to 905"):
            labelled_count(labels, 905, 10)
