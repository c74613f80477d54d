"""No content lies in two splits, whatever the sources; and few labels are few, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, SplitsConfig, TaskConfig
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Dropped, Examples, Split, Task
from pdo_search.tasks.contents import content_hashes
from pdo_search.tasks.images import decode
from pdo_search.tasks.images import task as image_classification
from pdo_search.tasks.images.data import load_pictures
from pdo_search.tasks.images.pictures import Pictures
from pdo_search.tasks.splitting import TRANSFER_IDS

from ..pictures import classes, pixels

DIGITS = {"source": "digits"}


def drawn(number: int) -> NDArray[np.uint8]:
    """The picture of a number: another for each, the same each time."""
    return np.random.default_rng(number).integers(0, 256, (1, 8, 8), dtype=np.uint8)


def numbered(numbers: list[int], test: list[int] | None = None) -> dict[str, Any]:
    """A source of numbered pictures of even and odd numbers."""
    found: dict[str, Any] = {"class_names": ("even", "odd")}
    for prefix, part in (("", numbers), ("test_", test or [])):
        if part:
            found[f"{prefix}inputs"] = np.stack([drawn(n) for n in part])
            found[f"{prefix}targets"] = np.array(part) % 2
    return found


def digits_and_others(channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """300 of the digits, and as many pictures that are none."""
    digits = np.rint(load_digits().images[:300] * (255 / 16)).astype(np.uint8)[:, None]
    inputs = np.concatenate([digits, 255 - digits])
    return np.repeat(inputs, channels, axis=1), np.zeros(600, np.int64)


def of_numbers(numbers: list[int], test: list[int] | None = None, **more: Any) -> dict[str, Any]:
    args = {"numbers": numbers, **({"test": test} if test else {})}
    return {"source": f"{__name__}:numbered", "args": args, **more}


def write_digits(folder: Path, rows: range, prefix: str) -> None:
    """Digits of two classes as picture files."""
    digits = load_digits()
    for label in (0, 1):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(digits.target == label)[rows.start : rows.stop]:
            picture = np.rint(digits.images[row] * (255 / 16)).astype(np.uint8)
            Image.fromarray(picture).save(folder / str(label) / f"{prefix}{row}.png")


def task_of(
    source: dict[str, Any],
    other: dict[str, Any] | None = None,
    store: Store | None = None,
    seed: int = 0,
    **splits: Any,
) -> Task:
    tree = {"data": source, "transfer_data": other, "splits": splits, "seed": seed}
    return build_task(TaskConfig.model_validate(tree), None, store)


def splits_of(task: Task) -> dict[Split, Examples]:
    return {
        split: task.test_examples() if split is Split.TEST else task.examples(split)
        for split in Split
    }


def assert_disjoint(task: Task) -> None:
    examples = splits_of(task)
    contents = {s: {row.tobytes() for row in pixels(e).numpy()} for s, e in examples.items()}
    ids = {s: set(e.ids.tolist()) for s, e in examples.items()}
    assert all(contents.values())
    for one in Split:
        for other in Split:
            assert one is other or not contents[one] & contents[other], (one, other)
            assert one is other or not ids[one] & ids[other]


REPEATED = of_numbers([*range(200), *range(0, 200, 3)])
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "part of a source and all of it": ({**DIGITS, "limit": 900}, {**DIGITS, "labelled": False}),
    "known and new pictures": (DIGITS, {"source": f"{__name__}:digits_and_others"}),
    "known pictures in colour": (
        DIGITS,
        {"source": f"{__name__}:digits_and_others", "args": {"channels": 3}},
    ),
    "known pictures, enlarged": (
        {**DIGITS, "size": 12},
        {"source": f"{__name__}:digits_and_others"},
    ),
    "pictures twice in one source": (REPEATED, None),
    "train pictures in the source's own test": (
        of_numbers(list(range(200)), list(range(150, 260))),
        None,
    ),
    "all of it at once": (
        of_numbers([*range(200), *range(0, 200, 3)], list(range(150, 260))),
        of_numbers([*range(0, 400, 2), *range(300, 400)]),
    ),
}


@pytest.mark.parametrize("labels", [None, 30, 0.5])
@pytest.mark.parametrize("pair", PAIRS)
def test_no_content_lies_in_two_splits(pair: str, labels: float | None) -> None:
    source, transfer = PAIRS[pair]
    task = task_of(source, transfer, labels=labels)
    assert task.dropped or pair == "part of a source and all of it"
    assert_disjoint(task)


@pytest.mark.parametrize("mapped", [False, True])
def test_the_same_picture_under_other_names_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    monkeypatch.setattr(decode, "MAPPED_BYTES", 0)
    write_digits(tmp_path / "ours", range(80), "")
    write_digits(tmp_path / "ours", range(20), "again")
    write_digits(tmp_path / "theirs", range(60, 120), "other")
    ours, theirs = (
        {"source": "image_folder", "path": str(tmp_path / name), "size": 8}
        for name in ("ours", "theirs")
    )
    task = task_of(ours, theirs, Store(tmp_path / "store") if mapped else None)
    assert_disjoint(task)
    assert len(task.examples(Split.TRANSFER)) == 80
    assert sum(d.count for d in task.dropped if d.split is Split.TRANSFER) == 40
    grey = task_of({**DIGITS, "limit": 1700}, theirs)
    assert_disjoint(grey)
    assert len(grey.examples(Split.TRANSFER)) < 20


def test_what_is_left_out_is_counted() -> None:
    task = task_of(
        of_numbers(list(range(100)), list(range(90, 110))),
        of_numbers([*range(95, 105), *range(200, 205)]),
        validation=0.2,
    )
    test = {d.split: d.count for d in task.dropped if d.held_by is Split.TEST}
    assert test[Split.TRANSFER] == 10
    assert test[Split.TRAIN] + test.get(Split.VALIDATION, 0) == 10
    assert len(task.examples(Split.TRANSFER)) == 5
    assert len(task.test_examples()) == 20
    assert len(task.examples(Split.TRAIN)) + len(task.examples(Split.VALIDATION)) == 90
    assert task_of(DIGITS).dropped == ()


def test_what_stays_keeps_its_ids_and_its_pictures() -> None:
    source = of_numbers(list(range(200)))
    plain = splits_of(task_of(source, of_numbers(list(range(200, 250)))))
    task = task_of(of_numbers(list(range(200)), list(range(0, 20))))
    for split in (Split.TRAIN, Split.VALIDATION):
        for row, number in zip(
            pixels(task.examples(split)), task.examples(split).ids.tolist(), strict=True
        ):
            assert np.array_equal(row.numpy(), drawn(number))
            assert number >= 20
    dropped = task_of(source, of_numbers(list(range(150, 250))))
    assert dropped.examples(Split.TRANSFER).ids.tolist() == [
        TRANSFER_IDS + n for n in range(50, 100)
    ]
    assert torch.equal(dropped.examples(Split.VALIDATION).ids, plain[Split.VALIDATION].ids)
    assert torch.equal(dropped.test_examples().ids, plain[Split.TEST].ids)


def test_copies_within_one_split_stay() -> None:
    task = task_of(of_numbers(list(range(100))), of_numbers([*range(100, 150), *range(100, 150)]))
    assert len(task.examples(Split.TRANSFER)) == 100
    assert task.dropped == ()


def test_a_transfer_source_that_holds_nothing_new_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"task\.transfer_data: holds nothing new: all of its 1,797"
    ):
        task_of(DIGITS, {**DIGITS, "labelled": False})
    with pytest.raises(InputError, match="holds nothing new"):
        task_of(DIGITS, DIGITS, labels=100)


def test_a_class_that_is_all_copies_is_named() -> None:
    evens, odds = list(range(0, 100, 2)), list(range(1, 100, 2))
    with pytest.raises(InputError, match=r"class 'odd' has no example left in the train split"):
        task_of(of_numbers([*evens, *odds], odds))


def test_a_transfer_split_that_is_all_copies_is_refused() -> None:
    twice = [*range(100), *range(100)]
    with pytest.raises(InputError, match=r"task\.data: no example is left in the transfer split"):
        task_of(of_numbers(twice), transfer=0.01)


def test_a_folders_hashes_are_those_of_its_pictures_and_kept_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAPPED_BYTES", 0)
    write_digits(tmp_path / "pictures" / "train", range(50), "")
    write_digits(tmp_path / "pictures" / "test", range(40, 60), "")
    config = DataConfig(source="image_folder", path=str(tmp_path / "pictures"), size=8)
    store = Store(tmp_path / "store")

    def load(**changes: Any) -> Pictures:
        changed = config.model_copy(update=changes)
        return load_pictures(changed, path="task.data", base_dir=None, seed=0, store=store)

    for pictures in (load(), load(), load(limit=30)):
        for part in (pictures.train, pictures.parts[Split.TEST]):
            assert part.hashes is not None
            assert np.array_equal(part.hashes, content_hashes(part.inputs))

    def refused(inputs: NDArray[Any]) -> Any:
        raise AssertionError("all pictures were read")

    monkeypatch.setattr(image_classification, "content_hashes", refused)
    task = build_task(TaskConfig(data=config), None, store)
    assert sum(d.count for d in task.dropped) == 20


def test_a_hash_is_of_shape_type_and_numbers() -> None:
    zeros = np.zeros((3, 1, 4, 4), np.float32)
    plain = content_hashes(zeros)
    assert len(np.unique(plain)) == 1
    assert np.array_equal(plain, content_hashes(-zeros)), "-0 is 0"
    assert plain[0] != content_hashes(zeros.reshape(3, 1, 2, 8))[0]
    assert plain[0] != content_hashes(zeros.view(np.int32))[0]
    many = np.arange(5000, dtype=np.float32)[:, None, None, None]
    assert len(np.unique(content_hashes(many))) == 5000
    assert np.array_equal(content_hashes(many[::2]), content_hashes(many)[::2])


def test_few_labels_are_few_for_every_method() -> None:
    plain, task = task_of(DIGITS), task_of(DIGITS, labels=100)
    before, after = splits_of(plain), splits_of(task)
    assert len(after[Split.TRAIN]) == 100
    assert after[Split.TRAIN].labelled.all()
    assert torch.bincount(classes(after[Split.TRAIN])).tolist() == [10] * 10
    assert not (classes(after[Split.TRANSFER]) >= 0).any()
    assert (
        len(after[Split.TRANSFER]) == len(before[Split.TRAIN]) + len(before[Split.TRANSFER]) - 100
    )
    for split in (Split.VALIDATION, Split.TEST):
        assert torch.equal(after[split].ids, before[split].ids)
        assert after[split].labelled.all()
    ids = {split: set(e.ids.tolist()) for split, e in after.items()}
    assert ids[Split.TRAIN] < set(before[Split.TRAIN].ids.tolist())
    kept = ids[Split.TRAIN] | ids[Split.TRANSFER]
    assert kept == {*before[Split.TRAIN].ids.tolist(), *before[Split.TRANSFER].ids.tolist()}
    labels = load_digits().target[after[Split.TRAIN].ids.numpy()]
    assert labels.tolist() == classes(after[Split.TRAIN]).tolist()
    pictures = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    found = pixels(after[Split.TRANSFER])[:, 0].numpy()
    assert np.array_equal(found, pictures[after[Split.TRANSFER].ids.numpy()])
    assert task.epoch_examples == plain.epoch_examples == len(before[Split.TRAIN])


def test_labels_may_be_a_share_or_all() -> None:
    train = len(task_of(DIGITS).examples(Split.TRAIN))
    assert len(task_of(DIGITS, labels=0.25).examples(Split.TRAIN)) == round(train / 4)
    every = task_of(DIGITS, labels=train)
    assert len(every.examples(Split.TRAIN)) == train
    assert not (classes(every.examples(Split.TRANSFER)) >= 0).any()


def test_the_rest_of_train_can_be_the_whole_transfer_split() -> None:
    task = task_of(DIGITS, labels=100, transfer=0)
    assert len(task.examples(Split.TRANSFER)) == task.epoch_examples - 100
    with pytest.raises(InputError, match=r"task\.splits\.labels: every example of train keeps"):
        task_of(DIGITS, labels=task.epoch_examples, transfer=0)


def test_few_labels_beside_another_transfer_source() -> None:
    other = of_numbers(list(range(300, 340)))
    task = task_of(of_numbers(list(range(200))), other, labels=20)
    transfer = task.examples(Split.TRANSFER)
    assert len(transfer) == task.epoch_examples - 20 + 40
    assert not (classes(transfer) >= 0).any()
    assert len(task.examples(Split.TRAIN)) == 20


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (9, "9 labelled examples are too few: each of 10 classes needs one"),
        (0.001, "1 labelled examples are too few"),
        (901, "the train split has only 900 examples"),
    ],
)
def test_a_number_of_labels_that_cannot_be_is_refused(labels: float, problem: str) -> None:
    with pytest.raises(InputError, match=rf"task\.splits\.labels: {problem}"):
        task_of(DIGITS, labels=labels)


@pytest.mark.parametrize("labels", [1, 0, -5, 0.0, 1.0, 50.0, True, "100", [100]])
def test_labels_are_a_whole_number_or_a_share(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"from 2, or a share|true is no number"):
        SplitsConfig(labels=labels)


def test_a_copy_of_a_labelled_picture_stays_in_no_other_split() -> None:
    task = task_of(of_numbers(list(range(60)) * 4), labels=10)
    train = task.examples(Split.TRAIN)
    assert len(train) == 10
    assert_disjoint(task)
    again = [d for d in task.dropped if (d.split, d.held_by) == (Split.TRANSFER, Split.TRAIN)]
    assert again
    assert isinstance(again[0], Dropped)


def test_the_fingerprint_tells_labels_and_what_was_left_out() -> None:
    source, new = of_numbers(list(range(200))), of_numbers(list(range(300, 400)))
    tasks = [
        task_of(source),
        task_of(source, labels=20),
        task_of(source, labels=21),
        task_of(source, labels=len(task_of(source).examples(Split.TRAIN))),
        task_of(source, new),
        task_of(source, of_numbers([*range(150, 200), *range(300, 400)])),
        task_of(source, new, labels=20),
    ]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert task_of(source, labels=20).fingerprint == tasks[1].fingerprint
    assert task_of(source, labels=20, seed=1).fingerprint != tasks[1].fingerprint
