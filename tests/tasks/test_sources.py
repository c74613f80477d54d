"""Rows of columns from files and functions: the same numbers, whatever they are written in."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData

from pdo_search.base.errors import InputError
from pdo_search.config.task import RecordsConfig
from pdo_search.tasks.base import HeadKind, Split
from pdo_search.tasks.convert import (
    class_column,
    number_column,
    sequence_column,
    target_column,
    text_batches,
    token_column,
)
from pdo_search.tasks.records import Records
from pdo_search.tasks.sources import read_records

IRIS = load_iris()
NAMES = [str(name) for name in IRIS.target_names]
WINE = load_wine(as_frame=True).frame
DIGITS = load_digits()


def iris() -> pd.DataFrame:
    """150 flowers: a length, a text of several lines with quotes, their kind; ten kinds unknown."""
    label: list[Any] = [NAMES[k] for k in IRIS.target]
    label[::15] = [None] * 10
    length = IRIS.data[:, 0]
    text = [f'a "flower",\nof {cm} cm' for cm in length]
    return pd.DataFrame({"sepal length": length, "about": text, "kind": label, "n": range(150)})


COLUMNS = {"length": "sepal length", "text": "about", "label": "kind"}


def read(path: Path | dict[str, Path], inputs: tuple[str, ...] = ("length", "text"),
         targets: tuple[str, ...] = ("label",), **changes: Any) -> Records:  # fmt: skip
    given = {k: str(v) for k, v in path.items()} if isinstance(path, dict) else str(path)
    own = {name: column for name, column in COLUMNS.items() if name in inputs + targets}
    tree = {"path": given, "columns": own, **changes}
    config = RecordsConfig.model_validate(tree)
    return read_records(config, inputs, targets, path="task.data", base_dir=None)


def csv(frame: pd.DataFrame, file: Path) -> None:
    frame.to_csv(file, index=False)


def excel_csv(frame: pd.DataFrame, file: Path) -> None:
    frame.to_csv(file, index=False, encoding="utf-8-sig", lineterminator="\r\n")


def lines(frame: pd.DataFrame, file: Path) -> None:
    frame.to_json(file, orient="records", lines=True)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "a.parquet": lambda frame, file: frame.to_parquet(file),
    "a.parquet.brotli": lambda frame, file: frame.to_parquet(file, compression="brotli"),
    "a.csv": csv,
    "excel.csv": excel_csv,
    "a.csv.gz": csv,
    "a.tsv": lambda frame, file: frame.to_csv(file, index=False, sep="\t"),
    "a.jsonl": lines,
    "a.jsonl.gz": lines,
    "a.json": lambda frame, file: frame.to_json(file, orient="records"),
    "a.arrow": lambda frame, file: frame.to_feather(file, compression="uncompressed"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_columns(tmp_path: Path, name: str) -> None:
    frame = iris()
    WRITERS[name](frame, tmp_path / name)
    found = read(tmp_path / name)
    assert found.splits == {Split.TRAIN: range(150)}
    length = number_column(found.columns["length"]).values
    assert torch.equal(length, torch.tensor(IRIS.data[:, 0], dtype=torch.float32))
    texts = [text for batch in text_batches(found.columns["text"]) for text in batch]
    assert texts == list(frame["about"])
    column, names = class_column(found.columns["label"])
    assert names == tuple(NAMES)
    wanted = torch.tensor(IRIS.target)
    wanted[::15] = -1
    assert torch.equal(column.values, wanted)


def test_a_folder_of_parts_and_a_pattern_are_one_source(tmp_path: Path) -> None:
    frame = iris()
    (tmp_path / "parts").mkdir()
    for k in range(3):
        frame[50 * k : 50 * k + 50].to_parquet(tmp_path / "parts" / f"part-{k}.snappy.parquet")
    (tmp_path / "parts" / "_SUCCESS").touch()
    (tmp_path / "parts" / "README.md").touch()
    patterns = (tmp_path / "parts" / "part-*.parquet", tmp_path / "p*s" / "*.parquet")
    for path in (tmp_path / "parts", *patterns):
        found = read(path)
        length = number_column(found.columns["length"]).values
        assert torch.equal(length, torch.tensor(IRIS.data[:, 0], dtype=torch.float32))
    assert found.columns["text"].origin.place(60).startswith("row 11 of")
    assert "part-1" in found.columns["text"].origin.place(60)


def test_splits_of_the_source_are_found_by_names_or_given(tmp_path: Path) -> None:
    frame = iris()
    for name, rows in (("train-00000-of-00002", slice(0, 60)), ("train-00001-of-00002",
                       slice(60, 100)), ("validation-0", slice(100, 120)),
                       ("test-0", slice(120, 150))):  # fmt: skip
        frame[rows].to_parquet(tmp_path / f"{name}.parquet")
    wanted = {Split.TRAIN: 100, Split.VALIDATION: 20, Split.TEST: 30}
    found = read(tmp_path)
    assert {s: len(rows) for s, rows in found.splits.items()} == wanted
    test = number_column(found.columns["length"]).values[found.splits[Split.TEST].start :][:30]
    assert torch.equal(test, torch.tensor(IRIS.data[120:, 0], dtype=torch.float32))
    parts = {"train": tmp_path / "train*.parquet", "test": tmp_path / "test-0.parquet"}
    assert {s: len(r) for s, r in read(parts).splits.items()} == {Split.TRAIN: 100, Split.TEST: 30}
    with pytest.raises(InputError, match="has splits of its own: test, train, validation"):
        read({"train": tmp_path})
    frame.to_parquet(tmp_path / "more.parquet")
    with pytest.raises(InputError, match=r"named after a split, and more\.parquet is not"):
        read(tmp_path)


def saved(folder: Path, rows: slice, shards: int = 1) -> None:
    """A data set as ``datasets`` 5.2 saves it: streams of Arrow beside two JSON files."""
    folder.mkdir(parents=True)
    names = [f"data-{k:05}-of-{shards:05}.arrow" for k in range(shards)]
    target = IRIS.target[rows].tolist()
    texts = [f"{cm} cm" for cm in IRIS.data[rows, 0]]
    tags = [[k % 2] * (k % 3) for k in range(len(target))]
    features = {
        "sentence": {"dtype": "string", "_type": "Value"},
        "y": {"names": NAMES[::-1], "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "List"},
    }
    table = pa.table({"sentence": texts, "y": target, "tags": tags})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {}})})
    bounds = np.linspace(0, len(target), shards + 1).astype(int)
    for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table.slice(first, last - first), max_chunksize=20)
    state = {"_data_files": [{"filename": name} for name in names], "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


HUGGING = {"text": "sentence", "label": "y"}


def test_a_saved_data_set_keeps_its_class_names(tmp_path: Path) -> None:
    saved(tmp_path / "one", slice(0, 150), shards=2)
    found = read(tmp_path / "one", ("text",), ("label", "tags"), columns=HUGGING)
    column, names = class_column(found.columns["label"])
    assert names == tuple(NAMES[::-1])
    assert column.values.tolist() == IRIS.target.tolist()
    tags, labels = target_column(found.columns["tags"], HeadKind.BERNOULLI)
    assert labels == ("a", "b")
    assert tags.values[:5].tolist() == [[0, 0], [0, 1], [1, 0], [0, 0], [1, 0]]
    assert next(iter(text_batches(found.columns["text"])))[0] == "5.1 cm"


def test_a_saved_dictionary_of_splits_is_its_splits(tmp_path: Path) -> None:
    for name, rows in (("train", slice(0, 90)), ("dev", slice(90, 120)), ("test", slice(120, 150))):
        saved(tmp_path / name, rows)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "dev", "test"]}')
    found = read(tmp_path, ("text",), columns=HUGGING)
    sizes = {split: len(rows) for split, rows in found.splits.items()}
    assert sizes == {Split.TRAIN: 90, Split.VALIDATION: 30, Split.TEST: 30}
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "hard"]}')
    with pytest.raises(InputError, match="has the splits train, hard"):
        read(tmp_path, ("text",), columns=HUGGING)
    parts = {"train": tmp_path / "train", "test": tmp_path / "dev"}
    assert len(read(parts, ("text",), columns=HUGGING)) == 120


def test_what_datasets_itself_writes_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "image": datasets.Array2D((8, 8), "uint8"), "sentence": datasets.Value("string"),
        "y": datasets.ClassLabel(names=NAMES), "tokens": datasets.List(datasets.Value("int32")),
    })  # fmt: skip
    rows = {
        "image": DIGITS.images[:150].astype(np.uint8), "sentence": ["x"] * 150,
        "y": IRIS.target, "tokens": [list(range(k % 5)) for k in range(150)],
    }  # fmt: skip
    made = datasets.Dataset.from_dict(rows, features=features).shuffle(seed=0)
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "saved", num_shards={"train": 3})
    made.to_parquet(tmp_path / "a.parquet")
    sys.modules["made_by_datasets"] = module = ModuleType("made_by_datasets")
    module.load = lambda: made  # type: ignore[attr-defined]
    for source in (
        {"path": str(tmp_path / "saved")},
        {"path": str(tmp_path / "a.parquet")},
        {"source": "made_by_datasets:load"},
    ):
        config = RecordsConfig.model_validate({**source, "columns": {"label": "y"}})
        given = ("image", "tokens"), ("label",)
        found = read_records(config, *given, path="task.data", base_dir=None)
        image = number_column(found.columns["image"]).values
        assert torch.equal(image, torch.tensor(np.array(made["image"])))
        column, names = class_column(found.columns["label"])
        assert (names, column.values.tolist()) == (tuple(NAMES), made["y"])
        tokens = sequence_column(found.columns["tokens"])
        assert tokens.lengths().tolist() == [len(row) for row in made["tokens"]]


@pytest.fixture
def given() -> Iterator[Callable[..., Records]]:
    """Give a value as a user's function would."""
    module = sys.modules["given_rows"] = ModuleType("given_rows")

    def give(value: Any, inputs: tuple[str, ...] = ("x",), targets: tuple[str, ...] = ("y",),
             **changes: Any) -> Records:  # fmt: skip
        module.load = lambda: value  # type: ignore[attr-defined]
        config = RecordsConfig.model_validate({"source": "given_rows:load", **changes})
        return read_records(config, inputs, targets, path="task.data", base_dir=None)

    yield give
    del sys.modules["given_rows"]


class Pairs(Dataset[Any]):
    def __init__(self, row: Callable[[int], Any]) -> None:
        self.row = row

    def __len__(self) -> int:
        return 178

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


class Row(NamedTuple):
    y: int
    x: Any


@dataclass
class Thing:
    x: Any
    y: int


X = WINE.drop(columns="target").to_numpy(np.float32).copy()
Y = WINE["target"].to_numpy().copy()

ROWS: dict[str, Any] = {
    "tuples": Pairs(lambda k: (torch.from_numpy(X[k]), int(Y[k]))),
    "mappings": Pairs(lambda k: {"y": Y[k], "more": "", "x": X[k]}),
    "named tuples": Pairs(lambda k: Row(int(Y[k]), X[k].tolist())),
    "objects": Pairs(lambda k: Thing(X[k], int(Y[k]))),
    "tensors": TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "a list of mappings": [{"x": x.tolist(), "y": int(y)} for x, y in zip(X, Y, strict=True)],
    "a list of tuples": list(zip(X, Y, strict=True)),
    "arrays": {"x": X, "y": Y},
    "two arrays": (X, torch.from_numpy(Y)),
    "a frame": pd.DataFrame({"x": list(X), "y": Y}, index=range(500, 678)),
    "a table": pa.table({"x": X.tolist(), "y": Y}),
}


@pytest.mark.parametrize("form", ROWS)
def test_whatever_holds_rows_gives_their_columns(given: Callable[..., Records], form: str) -> None:
    found = given(ROWS[form])
    assert torch.equal(number_column(found.columns["x"]).values, torch.from_numpy(X))
    column, names = class_column(found.columns["y"])
    assert column.values.tolist() == Y.tolist()
    assert names == ("0", "1", "2")


def test_transforms_of_a_torchvision_data_set_are_applied(given: Callable[..., Records]) -> None:
    scale = transforms.Compose([transforms.Resize(6), transforms.ToTensor()])
    fake = FakeData(20, (3, 12, 12), 4, transform=scale, target_transform=lambda label: label % 2)
    fake.classes = ["even", "odd"]
    found = given(fake)
    pixels = number_column(found.columns["x"]).values
    assert (pixels.shape, pixels.dtype) == ((20, 3, 6, 6), torch.float32)
    assert torch.equal(pixels[7], fake[7][0])
    assert class_column(found.columns["y"])[1] == ("even", "odd")
    plain = given(FakeData(20, (3, 12, 12), 4), columns={"x": 0, "y": 1})
    pictures = number_column(plain.columns["x"]).values
    assert (pictures.shape, pictures.dtype) == ((20, 3, 12, 12), torch.uint8)


def test_splits_that_a_function_returns_are_its_splits(given: Callable[..., Records]) -> None:
    half = {"x": X[:90], "y": Y[:90]}
    found = given(
        {"train": half, "test": TensorDataset(torch.tensor(X[90:]), torch.tensor(Y[90:]))}
    )
    assert found.splits == {Split.TRAIN: range(90), Split.TEST: range(90, 178)}
    assert torch.equal(number_column(found.columns["x"]).values, torch.from_numpy(X))


def test_arrays_of_different_lengths_are_sequences(given: Callable[..., Records]) -> None:
    rows = [(DIGITS.images[k][: 1 + k % 8], k % 3) for k in range(40)]
    column = sequence_column(given(rows).columns["x"], pad=-1.0)
    assert column.values.shape[1:] == (8,)
    taken = column.take(torch.tensor([9, 0]))
    assert torch.equal(taken[0], torch.tensor(DIGITS.images[9][:2]).float())
    assert (taken[1, 1:] == -1).all()
    with pytest.raises(InputError, match="lists of different lengths"):
        number_column(given(rows).columns["x"])


def test_texts_become_tokens_of_their_own_lengths(given: Callable[..., Records]) -> None:
    raw = given({"x": ["to be or not", "to be", ""] * 1000}, targets=()).columns["x"]
    column = token_column(raw, lambda texts: [[len(word) for word in t.split()] for t in texts])
    found = column.take(torch.tensor([2998, 2997, 2999])).tolist()
    assert found == [[2, 2, 0, 0], [2, 2, 2, 3], [0, 0, 0, 0]]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(1.0, 0)])


REFUSED: dict[str, tuple[Any, str]] = {
    "a stream": (Stream(), r"return list\(dataset\)"),
    "a generator": ((pair for pair in [(1, 2)]), r"return list\(dataset\)"),
    "a loader": (DataLoader(Pairs(lambda k: k)), "the data set that the loader reads"),
    "one array": (X, "name its columns"),
    "nothing": (None, "None: nothing"),
    "no rows": ([], "has no rows"),
    "columns of different lengths": ({"x": X, "y": Y[:9]}, "different lengths"),
    "another name": ({"x": X, "why": Y}, r"no column 'y'; it has x, why .*\n.*columns: {y: why}"),
    "no input": ([{"x": 1.0, "y": 1}, {"x": None, "y": 1}], "no value in 1 rows, first in row 2"),
    "mixed": ([{"x": 1.0, "y": 1}, {"x": "a", "y": 1}], "several kinds.*\n.*row 2"),
    "no arrays": ([(X[0], 1), (X[1][None], 1)], "differ in more than their length"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_rows_is_told_what_to_return(given: Callable[..., Records], what: str) -> None:
    value, message = REFUSED[what]
    with pytest.raises(InputError, match=message) as caught:
        given(value)
    assert str(caught.value.path).startswith("task.data")


def test_a_missing_column_is_told_its_neighbours(tmp_path: Path) -> None:
    iris().to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.csv", columns={**COLUMNS, "text": "abut"})
    message = str(caught.value)
    assert "task.data.columns.text" in message
    assert "has no column 'abut'; it has sepal length, about, kind, n" in message
    assert "did you mean columns: {text: about}?" in message
    with pytest.raises(InputError, match=r"did you mean label\?"):
        read(tmp_path / "a.csv", columns={"lable": "kind"})


def test_rows_without_an_input_are_refused_or_left_out(tmp_path: Path) -> None:
    frame = iris()
    frame.loc[[6, 100], "about"] = None
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match=r"no value in 2 rows, first in row 7 of .*a\.csv"):
        read(tmp_path / "a.csv")
    found = read(tmp_path / "a.csv", on_error="skip")
    assert (len(found), found.left_out[0].count) == (148, 2)
    number = number_column(found.columns["length"]).values
    assert number[6] == pytest.approx(IRIS.data[7, 0])
    assert (
        found.columns["text"].origin.place(int(found.columns["text"].rows[6])).startswith("row 8")
    )


def test_a_limit_draws_rows_of_train_alone(tmp_path: Path) -> None:
    frame = iris()
    csv(frame[:100], tmp_path / "train.csv")
    csv(frame[100:], tmp_path / "test.csv")
    found = read(tmp_path, ("n", "text"), limit=30)
    assert {s: len(r) for s, r in found.splits.items()} == {Split.TRAIN: 30, Split.TEST: 50}
    drawn = number_column(found.columns["n"]).values[list(found.splits[Split.TRAIN])]
    assert len(set(drawn.tolist())) == 30
    assert drawn.max() < 100
    unlabelled = read(tmp_path, ("n", "text"), limit=30, labelled=False)
    assert unlabelled.columns.keys() == {"n", "text"}


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    iris().to_parquet(tmp_path / "a.parquet")
    bad = {
        "a.csv": (b"about,kind\na,b\na,b,c\n", "Expected 2 columns, got 3"),
        "b.csv": ("about,kind\nä,b\n".encode("latin-1"), "save it as UTF-8"),
        "empty.csv": (b"", "Empty CSV"),
        "a.jsonl": (b'{"about": "a"}\n{"about"\n', "line 2"),
        "b.jsonl": (b'{"about": "a"}\n\n{"about": 1}\n', "'about' holds values of several kinds"),
        "a.json": (b"[1, 2]", "element 1 of the list is no object"),
        "cut.parquet": ((tmp_path / "a.parquet").read_bytes()[:-9], "cannot be read as parquet"),
        "cut.csv.gz": (gzip.compress(b"about,kind\n" * 9)[:-9], "cannot be read as csv"),
        "a.xlsx": (b"", "a name that tells no format"),
    }
    for name, (text, message) in bad.items():
        (tmp_path / name).write_bytes(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path / name, ("text",), ())
    with pytest.raises(InputError, match="is not there"):
        read(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="several formats"):
        read(tmp_path / "a.*")
    (tmp_path / "c.inter").write_bytes(b"about\tkind\na\tb\n")
    assert len(read(tmp_path / "c.inter", ("text",), (), format="tsv")) == 1


def test_parts_of_different_columns_or_types_are_refused(tmp_path: Path) -> None:
    frame = iris()
    for name, part in (("a", frame), ("b", frame.rename(columns={"about": "text"}))):
        part.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"b\.parquet has no column 'about'"):
        read(tmp_path)
    frame.assign(about=1.0).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a\.parquet and of .*b\.parquet differ in type"):
        read(tmp_path)
