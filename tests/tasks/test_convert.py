"""Raw columns become what heads of each kind take; what cannot is told its row."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pdo_search.base.errors import InputError
from pdo_search.config.task import RecordsConfig
from pdo_search.tasks.base import HeadKind
from pdo_search.tasks.convert import class_column, group_values, target_column
from pdo_search.tasks.sources import read_records


def one(values: Any) -> Any:
    """A raw column of values."""
    sys.modules["one_column"] = module = ModuleType("one_column")
    module.load = lambda: {"x": values}  # type: ignore[attr-defined]
    config = RecordsConfig(source="one_column:load")
    return read_records(config, (), ("x",), path="task.data", base_dir=None).columns["x"]


def test_targets_have_the_values_that_their_kinds_miss() -> None:
    def of(values: Any, kind: HeadKind) -> Any:
        return target_column(one(values), kind)[0].values.tolist()

    assert of([3.5, None], HeadKind.REGRESSION)[0] == [3.5]
    assert np.isnan(of([3.5, None], HeadKind.REGRESSION)[1][0])
    assert of([1, None, 0], HeadKind.BERNOULLI) == [[1], [-1], [0]]
    assert of([[1, 0], [0, 1]], HeadKind.BERNOULLI) == [[1, 0], [0, 1]]
    assert of([["b"], ["a", "b"], [], None], HeadKind.BERNOULLI) == [
        [0, 1],
        [1, 1],
        [0, 0],
        [-1, -1],
    ]
    assert of([[3, 7], [-1, -1]], HeadKind.POINTER) == [[3, 7], [-1, -1]]
    assert of(pd.Series([1.0, None, 5.0]), HeadKind.CATEGORICAL) == [0, -1, 1]
    assert target_column(one(["10", "9", "2"]), HeadKind.CATEGORICAL)[1] == ("2", "9", "10")
    assert of(["no", "yes"], HeadKind.CATEGORICAL) == [0, 1]
    positions, names = target_column(one([["N", "V"], [], ["V"]]), HeadKind.CATEGORICAL)
    assert (names, positions.take(slice(None)).tolist()) == (
        ("N", "V"), [[0, 1], [-1, -1], [1, -1]]
    )  # fmt: skip
    for values, kind, message in (
        ([1, 2], HeadKind.BERNOULLI, "must hold 0 or 1, first in row 2"),
        (["1", "x"], HeadKind.REGRESSION, "holds texts, first in row 2"),
        ([0.5], HeadKind.POINTER, "whole numbers, first in row 1"),
        ([0.5], HeadKind.CATEGORICAL, "no classes"),
    ):
        with pytest.raises(InputError, match=message):
            target_column(one(values), kind)


def test_classes_of_another_source_are_those_that_are_known() -> None:
    column, names = class_column(one(["cat", "cow", None]), ("cat", "dog"))
    assert (names, column.values.tolist()) == (("cat", "dog"), [0, -1, -1])


def test_groups_are_texts_of_any_values() -> None:
    assert group_values(one([3, 3, 12])).tolist() == ["3", "3", "12"]
    assert group_values(one(["a", "b"])).tolist() == ["a", "b"]
    with pytest.raises(InputError, match="no groups"):
        group_values(one([[1], [2]]))
