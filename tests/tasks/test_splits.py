"""The four splits: disjoint, stratified, seeded; and a test split that a search cannot read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdo_search.config.schema import DataConfig, SplitsConfig, TaskConfig
from pdo_search.errors import InputError, PdoError
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.splits import four_way_split, stratified_subset

SEARCHED = (Split.TRAIN, Split.TRANSFER, Split.VALIDATION)


def digits(**changes: Any) -> Task:
    return build_task(TaskConfig(data=DataConfig(source="digits"), **changes), None)


def pictures_of(task: Task) -> dict[Split, set[bytes]]:
    found = {split: task.examples(split) for split in SEARCHED}
    found[Split.TEST] = task.test_examples()
    return {
        split: {label.numpy().tobytes() + row.numpy().tobytes() for row, label in zip(
            e.inputs(), e.targets, strict=True)}
        for split, e in found.items()
    }  # fmt: skip


def test_no_example_lies_in_two_splits() -> None:
    task = digits()
    ids = [task.examples(split).ids for split in SEARCHED] + [task.test_examples().ids]
    every = np.concatenate([i.numpy() for i in ids])
    assert len(every) == len(np.unique(every)) == 1797
    pictures = pictures_of(task)
    for one in Split:
        for other in Split:
            assert one is other or not pictures[one] & pictures[other]


def test_every_class_has_its_share_in_every_split() -> None:
    task = digits(splits=SplitsConfig(transfer=0.1, validation=0.2, test=0.3))
    whole = np.bincount(np.concatenate([task.examples(s).targets for s in SEARCHED]))
    whole = whole + np.bincount(task.test_examples().targets)
    for split, share in ((Split.TRAIN, 0.4), (Split.TRANSFER, 0.1), (Split.VALIDATION, 0.2)):
        assert np.abs(np.bincount(task.examples(split).targets) / whole - share).max() < 0.01


def test_splits_repeat_by_seed() -> None:
    assert digits(seed=3).fingerprint == digits(seed=3).fingerprint
    assert digits(seed=3).fingerprint != digits(seed=4).fingerprint
    assert set(digits(seed=3).examples(Split.TRAIN).ids.tolist()) != set(
        digits(seed=4).examples(Split.TRAIN).ids.tolist()
    )


def test_a_search_cannot_read_the_test_split() -> None:
    with pytest.raises(PdoError, match="must not read the test split"):
        digits().examples(Split.TEST)


def test_the_normalisation_is_that_of_the_train_split_alone() -> None:
    task = digits()
    train = task.examples(Split.TRAIN).inputs().double()
    mean, std = task.normalization
    assert mean[0] == pytest.approx(train.mean().item())
    assert std[0] == pytest.approx(train.std(correction=0).item())


def test_an_unlabelled_source_can_be_the_transfer_split() -> None:
    task = digits(
        splits=SplitsConfig(transfer=0),
        transfer_data=DataConfig(source="digits", limit=200, labelled=False),
    )
    transfer = task.examples(Split.TRANSFER)
    assert len(transfer) == pytest.approx(200, abs=5)
    assert not transfer.labelled
    assert not set(transfer.ids.tolist()) & set(task.examples(Split.TRAIN).ids.tolist())


def test_an_empty_class_is_named() -> None:
    labels = np.array([0] * 50 + [1])
    with pytest.raises(InputError, match="class 'rare' has no example"):
        four_way_split(
            labels, SplitsConfig(), 0, class_names=("common", "rare"), own_test=False,
            other_transfer=False,
        )  # fmt: skip


def test_a_limited_source_keeps_its_class_shares() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    kept = stratified_subset(labels, 100, seed=1)
    assert np.bincount(labels[kept]).tolist() == [70, 25, 5]
