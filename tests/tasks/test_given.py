"""What a data factory may return, and what it is told of the rest."""

from __future__ import annotations

import itertools
import logging
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData

from pdo_search.base.errors import InputError
from pdo_search.cli.main import run_command
from pdo_search.config.task import DataConfig
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.given import given_pictures
from pdo_search.tasks.images.pictures import Pictures

X = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
Y = np.arange(30) % 3
NUMBERS = itertools.count()


@pytest.fixture
def given() -> Iterator[Callable[..., Pictures]]:
    """Give a value as a data factory would."""
    name = f"given_module_{next(NUMBERS)}"
    module = sys.modules[name] = ModuleType(name)

    def give(value: Any, path: str = "task.data") -> Pictures:
        module.load = lambda: value  # type: ignore[attr-defined]
        return given_pictures(DataConfig(source=f"{name}:load"), path, None)

    yield give
    del sys.modules[name]


def pictures(mode: str, count: int = 30, size: tuple[int, int] = (8, 6)) -> list[Image.Image]:
    return [Image.new("RGB", size, (8 * i, 0, 0)).convert(mode) for i in range(count)]


Triple = namedtuple("Triple", "inputs targets class_names")


class Pairs(Dataset[Any]):
    """A data set of torch, as users write them."""

    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return torch.from_numpy(X[index]), int(Y[index])


DIGITS = load_digits()
FAKE = FakeData(size=20, image_size=(3, 12, 12), num_classes=4)
FAKE_TENSORS = FakeData(20, (3, 12, 12), 4, transform=transforms.ToTensor())

FORMS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "arrays": ((X, Y), (30, 1, 8, 8), "uint8"),
    "no names": ((X, Y, None), (30, 1, 8, 8), "uint8"),
    "namedtuple": (Triple(X, Y, ["a", "b", "c"]), (30, 1, 8, 8), "uint8"),
    "numpy names": ((X, Y, np.array(["a", "b", "c"])), (30, 1, 8, 8), "uint8"),
    "bytes as names": ((X, Y, [b"a", b"b", b"c"]), (30, 1, 8, 8), "uint8"),
    "mapping with nothing": (
        {"inputs": X, "targets": Y, "class_names": None, "test_inputs": None, "test_targets": None},
        (30, 1, 8, 8),
        "uint8",
    ),
    "test split": (
        {"inputs": X, "targets": Y, "test_inputs": X[:3, 0], "test_targets": Y[:3]},
        (30, 1, 8, 8),
        "uint8",
    ),
    "no channels": ((X[:, 0], Y), (30, 1, 8, 8), "uint8"),
    "read only": ((np.frombuffer(X.tobytes(), np.uint8).reshape(X.shape), Y), X.shape, "uint8"),
    "other byte order": ((X.astype(">f4"), Y.astype(">i4")), X.shape, "float32"),
    "float64": ((X / 255, Y), X.shape, "float32"),
    "half": ((torch.from_numpy(X / 255).to(torch.bfloat16), Y), X.shape, "float32"),
    "int16": ((X.astype(np.int16), Y.astype(np.uint16)), X.shape, "float32"),
    "bool": ((X > 100, Y.astype(np.uint8)), X.shape, "float32"),
    "two classes as bool": ((X, Y > 0), X.shape, "uint8"),
    "tensors": ((torch.from_numpy(X), torch.from_numpy(Y)), X.shape, "uint8"),
    "with a gradient": ((torch.from_numpy(X / 255).requires_grad_(), Y), X.shape, "float32"),
    "not contiguous": (
        (torch.from_numpy(X.repeat(3, 1)).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), Y),
        (30, 3, 8, 8),
        "uint8",
    ),
    "sparse": ((torch.from_numpy(X / 255).to_sparse(), Y), X.shape, "float32"),
    "lists of arrays": ((list(X), list(Y)), X.shape, "uint8"),
    "lists of tensors": ((list(torch.from_numpy(X)), list(torch.from_numpy(Y))), X.shape, "uint8"),
    "plain lists": ((X.tolist(), Y.tolist()), X.shape, "float32"),
    "grey pictures": ((pictures("L"), Y), (30, 1, 6, 8), "uint8"),
    "coloured pictures": ((pictures("RGB"), Y), (30, 3, 6, 8), "uint8"),
    "palette and grey": ((pictures("P", 15) + pictures("L", 15), Y), (30, 3, 6, 8), "uint8"),
    "Dataset": (Pairs(), X.shape, "uint8"),
    "Subset": (Subset(Pairs(), range(12)), (12, 1, 8, 8), "uint8"),
    "TensorDataset": (
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        X.shape,
        "uint8",
    ),
    "torchvision's": (FAKE, (20, 3, 12, 12), "uint8"),
    "torchvision's with a transform": (FAKE_TENSORS, (20, 3, 12, 12), "float32"),
    "scikit-learn's": (
        (DIGITS.images, DIGITS.target, DIGITS.target_names),
        (1797, 1, 8, 8),
        "float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_data(case: str, given: Callable[..., Pictures]) -> None:
    value, shape, dtype = FORMS[case]
    found = given(value)
    assert found.train.inputs.shape == shape
    assert found.train.inputs.dtype == dtype
    assert found.train.labels.dtype == np.int64
    assert len(found.train.labels) == shape[0]
    assert len(found.class_names) == found.train.labels.max() + 1
    assert all(type(name) is str for name in found.class_names)
    if case == "test split":
        assert np.array_equal(found.parts[Split.TEST].inputs, X[:3])


def test_values_come_as_they_are(given: Callable[..., Pictures], tmp_path: Path) -> None:
    assert np.array_equal(given((list(torch.from_numpy(X)), Y)).train.inputs, X)
    assert np.array_equal(given(Pairs()).train.labels, Y)
    assert given(Pairs()).class_names == ("a", "b", "c")
    red = given((pictures("RGB"), Y)).train.inputs
    assert red[:, 0, 0, 0].tolist() == [8 * i for i in range(30)]
    assert red[:, 1:].max() == 0
    assert np.array_equal(given(FAKE).train.inputs[7], np.moveaxis(np.asarray(FAKE[7][0]), -1, 0))
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(given((mapped, Y)).train.inputs, mapped)
    floats = (X / 255).astype(np.float32)
    assert np.shares_memory(given((floats, Y)).train.inputs, floats)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([])


class Triples(Pairs):
    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), index)


class Broken(Pairs):
    def __getitem__(self, index: int) -> Any:
        raise OSError("disk is away")


def spoilt(at: float) -> NDArray[np.float64]:
    inputs = X / 255
    inputs[17, 0, 3, 3] = at
    return inputs


def with_test(inputs: Any, targets: Any) -> dict[str, Any]:
    return {"inputs": X, "targets": Y, "test_inputs": inputs, "test_targets": targets}


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "nothing": (None, ["must return", "returned None: nothing", "return inputs, targets"]),
    "a number": (7, ["returned int"]),
    "one array": (X, ["returned numpy.ndarray of shape (30, 1, 8, 8), uint8"]),
    "four arrays": ((X, Y, X, Y), ["returned tuple of 4: ndarray, ndarray"]),
    "two pairs": (((X, Y), (X, Y)), ["return a mapping: {'inputs'"]),
    "a generator": ((i for i in range(3)), ["returned generator"]),
    "a loader": (DataLoader(Pairs()), ["return the data set that the loader reads"]),
    "a stream": (Stream(), ["has no length"]),
    "triples": (Triples(), ["tuple of 3", "not (picture, target)"]),
    "a data set that fails": (Broken(), ["OSError: disk is away", "test_given.py, line"]),
    "other keys": (load_digits(), ["'data'", "'target'", "name the keys inputs, targets"]),
    "no test targets": (
        {"inputs": X, "targets": Y, "test_inputs": X},
        ["test_targets is missing"],
    ),
    "no test inputs": (
        {"inputs": X, "targets": Y, "test_targets": Y},
        ["test_inputs is missing"],
    ),
    "empty": ((X[:0], Y[:0]), ["no examples"]),
    "empty lists": (([], []), ["no examples"]),
    "no pixels": ((X[..., :0], Y), ["shape (N, C, H, W)"]),
    "ragged": (
        ([np.zeros((1, 8 + i % 2, 8)) for i in range(30)], Y),
        ["pictures of different sizes", "(1, 8, 8), (1, 9, 8)"],
    ),
    "ragged lists": (([[[1, 2]], [[1]], [[3]]], [0, 1, 0]), ["inputs have different sizes"]),
    "ragged pictures": ((pictures("L", 29) + pictures("L", 1, (4, 4)), Y), ["different sizes"]),
    "deep pictures": ((pictures("I"), Y), ["8 bits", "'I'", "convert"]),
    "names of files": (([f"{i}.png" for i in range(30)], Y), ["text", "read the pictures"]),
    "objects": (([object()] * 30, Y), ["no array of numbers"]),
    "complex": ((X + 1j, Y), ["complex"]),
    "channels last": (
        (np.moveaxis(np.tile(X, (1, 3, 4, 4)), 1, -1), Y),
        ["(30, 32, 32, 3)", "look like (N, H, W, C)", "np.moveaxis(inputs, -1, 1)"],
    ),
    "grey channel last": ((np.moveaxis(X, 1, -1), Y), ["(30, 8, 8, 1)", "np.moveaxis"]),
    "flat": ((X.reshape(30, -1), Y), ["return inputs.reshape(-1, 1, 8, 8)"]),
    "flat colours": ((np.tile(X, (1, 3, 1, 1)).reshape(30, -1), Y), ["reshape(-1, 3, 8, 8)"]),
    "changed places": ((Y, X), ["changed places"]),
    "other counts": ((X, Y[:20]), ["30 inputs and 20 targets"]),
    "NaN": ((spoilt(float("nan")), Y), ["NaN or infinity", "example 17"]),
    "infinity": ((spoilt(float("-inf")), Y), ["NaN or infinity", "example 17"]),
    "beyond float32": ((spoilt(1e300), Y), ["float32 cannot hold", "example 17"]),
    "constant": ((np.zeros_like(X), Y), ["all inputs are 0 everywhere"]),
    "from one": ((X, Y + 1), ["targets begin at 1", "return targets - 1"]),
    "from one with names": ((X, Y + 1, ["a", "b", "c"]), ["targets begin at 1", "targets - 1"]),
    "from seven with a gap": ((X, Y * 2 + 7), ["targets begin at 7", "np.unique"]),
    "gaps": ((X, Y * 2), ["no example is of class 1, 3", "np.unique(targets, return_inverse"]),
    "huge gaps": ((X, Y * 10**12), ["and 1,999,999,999,992 more"]),
    "a name too many": ((X, Y, ["a", "b", "c", "d"]), ["class 3 ('d')", "leave their names out"]),
    "a name too few": ((X, Y, ["a", "b"]), ["targets must lie in -1…1", "one name for each class"]),
    "names in a text": ((X, Y, "abc"), ["must be a list of names"]),
    "names in a mapping": ((X, Y, {0: "a", 1: "b", 2: "c"}), ["must be a list of names"]),
    "one class": ((X, Y * 0), ["all targets are 0", "two classes"]),
    "a name twice": ((X, Y, ["a", "b", "a"]), ["class_names has 'a' twice"]),
    "a name of two lines": ((X, Y, ["a", "b\n", "c"]), ["cannot be shown", "'b\\n'"]),
    "below -1": (
        (X, Y - (Y == 2) * 7),
        ["targets must lie in -1…1", "(-5, 1)", "whose targets are below -1"],
    ),
    "no label at all": ((X, Y * 0 - 1), ["all targets are negative", "from 0 on"]),
    "text": ((X, np.array(["a", "b", "c"])[Y]), ["targets are text, such as 'a'", "np.unique"]),
    "text in a list": ((X, ["a", "b", "c"] * 10), ["targets are text", "np.unique"]),
    "text as objects": ((X, np.array(["a", "b", "c"] * 10, object)), ["targets are text"]),
    "whole floats": ((X, Y.astype(np.float32)), ["without fractions", "targets.astype(int)"]),
    "fractions": ((X, Y / 2), ["targets must be whole numbers"]),
    "NaN as target": ((X, np.where(Y, Y, np.nan)), ["targets must be whole numbers"]),
    "one-hot": ((X, np.eye(3)[Y]), ["one-hot", "return targets.argmax(1)"]),
    "many labels": ((X, np.ones((30, 3))), ["one class per example"]),
    "a column": ((X, Y[:, None]), ["return targets.reshape(-1)"]),
    "test of another shape": (
        with_test(np.zeros((9, 3, 4, 4), np.uint8), Y[:9]),
        ["pictures of different shapes", "(3, 4, 4), (1, 8, 8)"],
    ),
    "test as floats": (with_test(X / 255, Y), ["test_inputs are float64 from 0 to 1", "uint8"]),
    "test of another scale": (with_test(X // 255, Y), ["uint8 from 0 to 1", "another scale"]),
    "test beyond the classes": (with_test(X, Y + 3), ["test_targets must lie in 0…2", "(3, 5)"]),
    "test from one": (with_test(X, Y + 1), ["return test_targets - 1"]),
    "test without labels": (with_test(X, Y - 1), ["test_targets must lie in 0…2", "below 0"]),
    "other test counts": (with_test(X, Y[:3]), ["30 test_inputs and 3 test_targets"]),
    "empty test": (with_test(X[:0], Y[:0]), ["test_inputs hold no examples"]),
    "test with channels last": (
        with_test(np.moveaxis(X, 1, -1), Y),
        ["np.moveaxis(test_inputs, -1, 1)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_data_is_refused_in_words(case: str, given: Callable[..., Pictures]) -> None:
    value, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        given(value)
    told = str(caught.value)
    for word in words:
        assert word in told, told
    assert told.startswith("task.data.source: ")
    assert "->" in told or "raised" in told


def test_a_transfer_source_may_lack_classes(given: Callable[..., Pictures]) -> None:
    found = given((X, np.full(30, 2), ["a", "b", "c"]), "task.transfer_data")
    assert found.class_names == ("a", "b", "c")
    assert given((X, np.full(30, -1), ["a", "b"]), "task.transfer_data").train.labels.max() == -1


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (X.astype(np.float32), "float32 from 0 to 255: return inputs.astype(np.uint8)"),
        (X.astype(np.int64), "int64 from 0 to 255"),
        ((X > 100).astype(np.uint8), "bytes of 0 and 1"),
        (X, None),
        (X / 255, None),
        (X / 128 - 1, None),
        (DIGITS.images[:30], None),
    ],
)
def test_a_scale_that_looks_wrong_is_told(
    inputs: NDArray[Any],
    words: str | None,
    given: Callable[..., Pictures],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        given((inputs, Y))
    assert (words in caplog.text) if words is not None else not caplog.records


def test_a_factory_that_draws_changes_nothing_that_is_drawn_after_it() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    given_pictures(DataConfig(source=f"{__name__}:drawn"), "task.data", None)
    assert (torch.rand(1), np.random.rand()) == expected


def drawn() -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    return np.random.rand(30, 8, 8), torch.randperm(30) % 3


EXPERIMENT = """
name: few
task: {data: {source: "few_examples:load", args: {count: COUNT}}}
teacher: {arch: small_resnet, width: 4, train: {epochs: 1, batch_size: 256}}
student: {arch: small_convnet, width: 4}
trial: {epochs: 3, num_stages: 2, optimizer: {batch_size: 256}}
search: {num_trials: 1}
"""


@pytest.mark.parametrize("count", [12, 60])
def test_few_examples_are_checked_and_said_to_be_few(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few_examples.py").write_text(
        "import numpy as np\ndef load(count):\n    r = np.random.default_rng(0)\n"
        "    return r.integers(0, 255, (count, 8, 8)).astype(np.uint8), np.arange(count) % 3\n"
    )
    file = tmp_path / "few.yaml"
    file.write_text(EXPERIMENT.replace("COUNT", str(count)))
    assert run_command(["check", str(file)]) == 0
    told = capsys.readouterr().out
    assert f"Validation has only {3 if count == 12 else 9} examples" in told
    file.write_text(EXPERIMENT.replace("COUNT", "3"))
    assert run_command(["check", str(file)]) == 2
    assert "class '0' has no example in the" in capsys.readouterr().err
