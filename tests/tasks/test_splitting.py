"""Splits of any columns: as pictures have them, whole groups, few labels, no content in two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits, load_wine

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.config.task import RecordsConfig, SplitsConfig, TaskConfig
from pdo_search.tasks.base import Examples, Head, HeadKind, Split
from pdo_search.tasks.contents import column_hashes
from pdo_search.tasks.convert import (
    group_values,
    number_column,
    target_column,
    time_values,
    token_column,
    unknown_column,
)
from pdo_search.tasks.sources import read_records
from pdo_search.tasks.splits import four_way_split
from pdo_search.tasks.splitting import (
    TRANSFER_IDS,
    Divided,
    Part,
    Told,
    balanced_head,
    divide,
    examples_of,
    own_parts,
    part_of,
)

DIGITS = load_digits().target.astype(np.int64)
TEN = [str(k) for k in range(10)]
TOLD = Told("a.csv")
CLASS = Head("label", HeadKind.CATEGORICAL, 3)


def picture_split(
    labels: NDArray[np.int64], shares: SplitsConfig, seed: int, own: set[Split]
) -> dict[Split, NDArray[np.int64]]:
    """The split of pictures as it was before any columns could be split."""
    rng = np.random.default_rng(seed)
    wanted = {} if Split.VALIDATION in own else {Split.VALIDATION: shares.validation}
    if Split.TRANSFER not in own and shares.transfer > 0:
        wanted[Split.TRANSFER] = shares.transfer
    if Split.TEST not in own:
        wanted[Split.TEST] = shares.test
    parts: dict[Split, list[Any]] = {split: [] for split in (Split.TRAIN, *wanted)}
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        first = 0
        for split, share in wanted.items():
            count = round(share * len(members))
            parts[split].append(members[first : first + count])
            first += count
        parts[Split.TRAIN].append(members[first:])
    return {split: np.sort(np.concatenate(found)) for split, found in parts.items()}


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize(
    "own",
    [set(), {Split.TEST}, {Split.TRANSFER}, {Split.TEST, Split.VALIDATION, Split.TRANSFER}],
    ids=len,
)
def test_pictures_are_split_as_they_were(seed: int, own: set[Split]) -> None:
    for shares in (SplitsConfig(), SplitsConfig(transfer=0, validation=0.1, test=0.31)):
        was = picture_split(DIGITS, shares, seed, own)
        found = four_way_split(DIGITS, shares, seed, class_names=TEN, own=own)
        assert list(found) == list(was)
        assert all(np.array_equal(found[split], was[split]) for split in was)


def test_without_classes_all_are_divided_as_one() -> None:
    found = four_way_split(np.full(1000, -1), SplitsConfig(), 0)
    sizes = {split: len(rows) for split, rows in found.items()}
    assert sizes == {
        Split.TRAIN: 500, Split.VALIDATION: 150, Split.TRANSFER: 150, Split.TEST: 200
    }  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(1000))
    with pytest.raises(InputError, match="no example comes into the validation split"):
        four_way_split(np.full(3, -1), SplitsConfig(), 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stratified", [False, True])
def test_groups_stay_whole_in_about_the_shares(seed: int, stratified: bool) -> None:
    groups = np.random.default_rng(seed).zipf(1.6, len(DIGITS)).clip(max=400)
    labels, names = (DIGITS, TEN) if stratified else (np.full(len(DIGITS), -1), [])
    shares = SplitsConfig(validation=0.2, test=0.1, transfer=0.1)
    found = four_way_split(labels, shares, seed, class_names=names, groups=groups)
    assert np.array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(len(DIGITS)))
    of = {split: set(groups[rows].tolist()) for split, rows in found.items()}
    assert sum(map(len, of.values())) == len(set(groups.tolist()))
    largest = np.bincount(groups).max() / len(groups)
    for split, share in ((Split.VALIDATION, 0.2), (Split.TEST, 0.1), (Split.TRANSFER, 0.1)):
        assert abs(len(found[split]) / len(groups) - share) < max(0.02, largest - share)
    again = four_way_split(labels, shares, seed, class_names=names, groups=groups.astype(str))
    assert all(len(again[split]) for split in found)


def test_groups_of_like_sizes_meet_the_shares_of_every_class() -> None:
    groups = np.random.default_rng(0).integers(0, 300, len(DIGITS))
    found = four_way_split(DIGITS, SplitsConfig(), 3, class_names=TEN, groups=groups)
    whole = np.bincount(DIGITS)
    for split, share in ((Split.VALIDATION, 0.15), (Split.TRANSFER, 0.15), (Split.TEST, 0.2)):
        assert np.abs(np.bincount(DIGITS[found[split]]) / whole - share).max() < 0.015
    other = four_way_split(DIGITS, SplitsConfig(), 4, class_names=TEN, groups=groups)
    assert not np.array_equal(found[Split.TEST], other[Split.TEST])


def test_as_few_groups_as_splits_are_enough_and_fewer_are_not() -> None:
    groups = np.repeat([0, 1, 2, 3], [700, 100, 10, 1])
    found = four_way_split(np.full(811, -1), SplitsConfig(), 0, groups=groups)
    assert sorted(len(rows) for rows in found.values()) == [1, 10, 100, 700]
    assert len(found[Split.TRAIN]) == 700
    with pytest.raises(InputError, match="too few groups: 3 for the 4 splits train, validation"):
        four_way_split(np.full(810, -1), SplitsConfig(), 0, groups=groups[:810])
    labels = np.where(groups == 1, 0, 1)
    with pytest.raises(InputError, match=r"class 'x' has no example .* 100 in all, of 1 groups"):
        four_way_split(labels, SplitsConfig(), 0, class_names=["x", "y"], groups=groups)


def wine() -> pd.DataFrame:
    """178 wines: their numbers, a text, their kind, and where they were grown."""
    frame: pd.DataFrame = load_wine(as_frame=True).frame
    about = [f"{a:.1f} percent, hue {h:.1f}" for a, h in zip(frame.alcohol, frame.hue, strict=True)]
    return frame.assign(about=about, grower=(frame.magnesium.astype(int) % 40).astype(str))


def read(tmp_path: Path, **frames: pd.DataFrame) -> tuple[Examples, Mapping[Split, range], Any]:
    """Wines from files: texts of characters beside numbers, and the kind."""
    for name, frame in frames.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    config = RecordsConfig.model_validate(
        {
            "path": {name: str(tmp_path / f"{name}.csv") for name in frames},
            "columns": {"text": "about", "label": "target"},
        }
    )
    found = read_records(
        config, ("text", "proline", "grower"), ("label",), path="task.data", base_dir=None
    )
    inputs = {
        "tokens": token_column(found.columns["text"], lambda texts: [[*t.encode()] for t in texts]),
        "proline": number_column(found.columns["proline"]),
    }
    label, _ = target_column(found.columns["label"], HeadKind.CATEGORICAL)
    examples = examples_of(inputs, {"label": label})
    return examples, found.splits, group_values(found.columns["grower"])


def contents(examples: Examples) -> set[tuple[Any, ...]]:
    batch = examples.raw_inputs()
    tokens = [tuple(row[mask].tolist()) for row, mask in
              zip(batch["tokens"], batch["tokens.mask"], strict=True)]  # fmt: skip
    return set(zip(tokens, batch["proline"].tolist(), strict=True))


def assert_disjoint(divided: Divided) -> None:
    ids = [i for e in divided.splits.values() for i in e.ids.tolist()]
    assert len(ids) == len(set(ids))
    found = [contents(examples) for examples in divided.splits.values()]
    assert all(found)
    assert sum(map(len, found)) == len(set().union(*found))


def test_columns_from_a_file_are_split_with_their_labels(tmp_path: Path) -> None:
    frame = pd.concat([wine(), wine()[:20]], ignore_index=True)
    frame["target"] = frame["target"].astype("Int64")
    frame.loc[[30, 31, 90], "target"] = None
    examples, own, _ = read(tmp_path, train=frame)
    assert balanced_head([Head("r", HeadKind.REGRESSION, 1), CLASS]) == "label"
    divided = divide(own_parts(examples, own, "label"), SplitsConfig(), 0, "abc", TOLD)
    assert_disjoint(divided)
    assert sum(d.count for d in divided.dropped) + sum(map(len, divided.splits.values())) == 198
    transfer = divided.splits[Split.TRANSFER]
    unlabelled = transfer.select(torch.nonzero(~transfer.labelled)[:, 0])
    assert unlabelled.ids.tolist() == [30, 31, 90]
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        batch = divided.splits[split].batch()
        assert batch["labelled"].all()
        wanted = [int(frame["target"][i]) for i in batch["ids"].tolist()]
        assert batch["target.label"].tolist() == wanted
        prolines = [frame["proline"][i] for i in batch["ids"].tolist()]
        assert batch["proline"].tolist() == prolines


def test_a_files_own_splits_stay_and_lose_no_copy_of_test(tmp_path: Path) -> None:
    frame = wine().sample(frac=1, random_state=0)
    test = pd.concat([frame[120:], frame[:9]])
    examples, own, _ = read(tmp_path, train=frame[:120], test=test)
    divided = divide(own_parts(examples, own, "label"), SplitsConfig(labels=30), 0, "abc", TOLD)
    assert_disjoint(divided)
    assert divided.splits[Split.TEST].ids.tolist() == list(range(120, 187))
    assert len(divided.splits[Split.TRAIN]) == 30
    known = set(zip(test["about"], test["proline"], strict=True))
    copies = [k in known for k in zip(frame["about"][:120], frame["proline"][:120], strict=True)]
    assert sum(d.count for d in divided.dropped if d.held_by is Split.TEST) == sum(copies) > 9
    assert not divided.splits[Split.TRANSFER].labelled.any()
    assert len(divided.train_inputs) > 60
    test = test.assign(target=None)
    examples, own, _ = read(tmp_path, train=frame[:120], test=test)
    with pytest.raises(InputError, match="own test split has no labels"):
        divide(own_parts(examples, own, "label"), SplitsConfig(), 0, "abc", TOLD)


def growers(examples: Examples, groups: Any) -> set[str]:
    return {str(groups[i]) for i in examples.ids.tolist()}


def test_growers_stay_whole_with_few_labels_too(tmp_path: Path) -> None:
    examples, own, groups = read(tmp_path, train=wine())
    parts = own_parts(examples, own, "label", groups)
    divided = divide(parts, SplitsConfig(labels=40), 1, "abc", TOLD)
    assert_disjoint(divided)
    found = [growers(e, groups) for e in divided.splits.values()]
    assert sum(map(len, found)) == len(set().union(*found)) == len(set(groups))
    assert len(divided.splits[Split.TRAIN]) == pytest.approx(40, abs=8)
    assert len(np.unique(divided.splits[Split.TRAIN].batch()["target.label"])) == 3
    examples, own, groups = read(tmp_path, train=wine()[::2], test=wine()[1::2])
    with pytest.raises(InputError, match="groups are in both the train and the test split"):
        divide(own_parts(examples, own, "label", groups), SplitsConfig(), 0, "abc", TOLD)


def test_another_source_gives_transfer_what_is_new(tmp_path: Path) -> None:
    examples, own, _ = read(tmp_path, train=wine()[:130:2].drop_duplicates("about"))
    other, _, _ = read(tmp_path, train=wine())
    targets = {"label": unknown_column(examples.targets["label"], len(other))}
    other = examples_of(other.inputs, targets, TRANSFER_IDS)
    parts = {**own_parts(examples, own), Split.TRANSFER: part_of(other)}
    told = Told("a.csv", "b.csv")
    divided = divide(parts, SplitsConfig(labels=0.5), 0, (), told)
    assert_disjoint(divided)
    assert not divided.splits[Split.TRANSFER].labelled.any()
    assert sum(map(len, (contents(e) for e in divided.splits.values()))) == len(contents(other))
    same = Part(other, column_hashes(other.inputs), np.full(len(other), -1))
    whole = own_parts(other.to(torch.device("cpu")), {Split.TRAIN: range(len(other))})
    whole[Split.TRAIN].examples.labelled.fill_(True)
    with pytest.raises(InputError, match="holds nothing new: all of its 178 examples"):
        divide({**whole, Split.TRANSFER: same}, SplitsConfig(), 0, (), told)


def test_numbers_are_divided_without_classes() -> None:
    data = load_diabetes()
    inputs = {"x": Column(torch.tensor(data.data, dtype=torch.float32))}
    target = torch.tensor(data.target, dtype=torch.float32)[:, None]
    target[5] = torch.nan
    examples = examples_of(inputs, {"y": Column(target)})
    assert examples.labelled.sum() == 441
    assert balanced_head([Head("y", HeadKind.REGRESSION, 1)]) is None
    divided = divide({Split.TRAIN: part_of(examples)}, SplitsConfig(labels=50), 0, (), TOLD)
    sizes = {split: len(e) for split, e in divided.splits.items()}
    assert sizes == {
        Split.TRAIN: 50, Split.VALIDATION: 66, Split.TRANSFER: 238, Split.TEST: 88
    }  # fmt: skip
    all_four = {split: part_of(examples) for split in Split}
    message = "no example is left in the train split: all 441 are copies"
    with pytest.raises(InputError, match=message):
        divide(all_four, SplitsConfig(), 0, (), TOLD)


def test_hashes_are_equal_where_all_inputs_are() -> None:
    rows = [[1, 2], [1], [2, 1], [], [1, 2], [1], []]
    other = torch.tensor([[0.0], [2], [0], [0], [-0.0], [3], [0]])
    ragged = Column.ragged([torch.tensor(row, dtype=torch.int32) for row in rows])
    hashes = column_hashes({"tokens": ragged, "x": Column(other)})
    assert np.array_equal(hashes, column_hashes({"x": Column(other), "tokens": ragged}))
    places = np.unique(hashes, return_inverse=True)[1]
    for i in range(len(rows)):
        for j in range(len(rows)):
            same = rows[i] == rows[j] and bool(other[i] == other[j])
            assert (places[i] == places[j]) == same
    renamed = column_hashes({"word": ragged, "x": Column(other)})
    assert not set(hashes.tolist()) & set(renamed.tolist())
    many = Column(torch.arange(2100).view(-1, 1))
    assert len(np.unique(column_hashes({"x": many}))) == 2100
    moved = ragged.select(torch.tensor([6, 0, 3]))
    found = column_hashes({"tokens": moved, "x": Column(other[[6, 0, 3]])})
    assert np.array_equal(found, hashes[[6, 0, 3]])
    left, right = (Column.ragged([torch.tensor(row)]) for row in ([1, 2], [3]))
    one = column_hashes({"a": left, "b": right})
    two = column_hashes({"a": Column.ragged([torch.tensor([1])]), "b":
                         Column.ragged([torch.tensor([2, 3])])})  # fmt: skip
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"group": "writer"}, "pictures have none"),
        ({"group": "writer", "leave_one_out": "day"}, "pictures have none"),
        ({"stratify": False}, "balanced by their one class"),
        ({"stratify": "class"}, "balanced by their one class"),
        ({"stratify": True}, "is a name, or false"),
        ({"leave_one_out": "day"}, "give group, too"),
    ],
    ids=str,
)
def test_pictures_are_balanced_by_class_and_have_no_columns(splits: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TaskConfig.model_validate({"data": {"source": "digits"}, "splits": splits})


def test_what_is_balanced_can_be_named_or_left(tmp_path: Path) -> None:
    heads = [CLASS, Head("hue", HeadKind.CATEGORICAL, 2), Head("r", HeadKind.REGRESSION, 1)]
    heads += [Head("tag", HeadKind.CATEGORICAL, 5, positions="tokens.mask")]
    named = [balanced_head(heads, name) for name in (None, "label", "hue", False)]
    assert named == ["label", "label", "hue", None]
    for name in ("r", "tag", "kind"):
        with pytest.raises(InputError, match="name label or hue") as refused:
            balanced_head(heads, name)
        assert (refused.value.path, refused.value.value) == ("task.splits.stratify", name)
    with pytest.raises(InputError, match="leave it out"):
        balanced_head(heads[2:], "r")
    # One in 25 is of the second class: in its share where it is balanced, by chance where not.
    rare = (np.arange(1000) % 25 == 0).astype(np.int64)
    targets = {
        "label": Column(torch.arange(1000) % 3),
        "hue": Column(torch.from_numpy(rare)),
    }
    examples = examples_of({"x": Column(torch.arange(1000.0))}, targets)

    def found(stratify: Any, names: str) -> list[int]:
        parts = {Split.TRAIN: part_of(examples, balanced_head(heads, stratify))}
        splits = divide(parts, SplitsConfig(), 0, names, TOLD).splits
        return [int(splits[split].batch()["target.hue"].sum()) for split in Split]

    assert found("hue", "ab") == [20, 6, 6, 8]
    assert found(False, "") == found(False, "") != [20, 6, 6, 8]
    assert sum(found(False, "")) == 40


def visits(count: int = 400) -> pd.DataFrame:
    """Visits of 40 guests at random times, in random order; the last guests came once or twice."""
    rng = np.random.default_rng(0)
    guest = np.concatenate([rng.integers(0, 37, count - 4), [37, 38, 38, 39]])
    frame = pd.DataFrame({"guest": guest, "spent": rng.permutation(count)})
    frame["day"] = pd.Timestamp("2024-01-31") + pd.to_timedelta(rng.permutation(count), "D")
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("form", ["texts", "dates", "numbers"])
def test_the_last_of_each_group_is_for_test_and_the_last_but_one_for_validation(
    form: str, tmp_path: Path
) -> None:
    frame = visits()
    told = frame.copy()
    if form == "numbers":
        told["day"] = (told["day"] - told["day"].min()).dt.days / 2
    name = "visits.csv" if form == "texts" else "visits.parquet"
    told.to_csv(tmp_path / name) if form == "texts" else told.to_parquet(tmp_path / name)
    config = RecordsConfig(path=str(tmp_path / name))
    records = read_records(config, ("spent", "guest", "day"), path="task.data", base_dir=None)
    groups, times = (f(records.columns[n]) for f, n in
                     ((group_values, "guest"), (time_values, "day")))  # fmt: skip
    spent = number_column(records.columns["spent"])
    target = Column(spent.values.float()[:, None])
    examples = examples_of({"spent": spent}, {"spent": target})
    config_of = {"group": "guest", "leave_one_out": "day", "transfer": 0.25}
    splits = SplitsConfig.model_validate(config_of)
    parts = own_parts(examples, records.splits, None, groups, times)
    divided = divide(parts, splits, 0, (), TOLD)
    test, validation = [], []
    for _, rows in frame.sort_values("day").groupby("guest"):
        if len(rows) >= 3:
            test.append(int(rows.index[-1]))
            validation.append(int(rows.index[-2]))
    assert divided.splits[Split.TEST].ids.tolist() == sorted(test)
    assert divided.splits[Split.VALIDATION].ids.tolist() == sorted(validation)
    rest = 400 - 2 * len(test)
    assert len(divided.splits[Split.TRANSFER]) == round(rest / 4)
    assert sum(map(len, divided.splits.values())) == 400
    again = divide(parts, splits, 0, (), TOLD).splits
    other = divide(parts, splits, 1, (), TOLD).splits
    for split in Split:
        assert torch.equal(again[split].ids, divided.splits[split].ids)
    assert not torch.equal(other[Split.TRAIN].ids, divided.splits[Split.TRAIN].ids)
    assert torch.equal(other[Split.TEST].ids, divided.splits[Split.TEST].ids)


def left_out(
    groups: list[int], times: list[float], labels: list[int] | None = None, **parts: Part
) -> Divided:
    count = len(groups)
    classes = torch.tensor(labels if labels else [0] * count)
    examples = examples_of({"x": Column(torch.arange(float(count)))}, {"y": Column(classes)})
    own = {Split(name): part for name, part in parts.items()}
    part = part_of(examples, "y", np.array(groups), times=np.array(times))
    config = {"group": "g", "leave_one_out": "t", "transfer": 0.2}
    splits = SplitsConfig.model_validate(config)
    return divide({Split.TRAIN: part, **own}, splits, 0, "ab"[: 1 + int(classes.max())], TOLD)


def test_of_one_time_the_later_row_is_the_last() -> None:
    found = left_out([0] * 8, [5, 1, 5, 5, 2, 2, 0, 0]).splits
    assert found[Split.TEST].ids.tolist() == [3]
    assert found[Split.VALIDATION].ids.tolist() == [2]


def test_a_class_that_is_never_last_is_still_learnt() -> None:
    found = left_out([0] * 10, list(range(10)), [1, 0, 1, 0, 1, 1, 1, 1, 0, 0]).splits
    learnt = [int(y) for s in (Split.TRAIN, Split.TRANSFER) for y in found[s].batch()["target.y"]]
    assert sorted(learnt) == [0, 0, 1, 1, 1, 1, 1, 1]


def test_the_last_cannot_be_left_out_of_small_groups_or_beside_splits_of_ones_own() -> None:
    with pytest.raises(InputError, match="no group has 3 examples") as refused:
        left_out([0, 0, 1, 1], [1, 2, 3, 4])
    assert refused.value.path == "task.splits.leave_one_out"
    labels = {"y": Column(torch.zeros(2, dtype=torch.int64))}
    own = part_of(examples_of({"x": Column(torch.tensor([98.0, 99]))}, labels, 50), "y")
    with pytest.raises(InputError, match="has a test split of its own"):
        left_out([0] * 8, [1] * 8, test=own)


def test_a_column_without_times_is_refused_with_its_row(tmp_path: Path) -> None:
    for values, said in (
        (["2024-01-01", "soon"], "no times can be made of them"),
        ([1.5, None], "row 2"),
    ):
        file = tmp_path / "a.parquet"
        pd.DataFrame({"day": values, "x": [1, 2]}).to_parquet(file)
        config = RecordsConfig(path=str(file))
        records = read_records(config, ("x",), ("day",), path="task.data", base_dir=None)
        with pytest.raises(InputError, match=said):
            time_values(records.columns["day"])
