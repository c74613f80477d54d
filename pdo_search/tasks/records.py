"""Rows of named columns as a source has them, before any task reads them. Knows no file and no kind
of head.

Values are Arrow's throughout: they stay in mapped files where the source has them there, and one
type serves numbers, texts, lists and arrays. An array is a list of fixed size for each of its axes.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pdo_search.base.errors import InputError
from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.values import Words, described, of_tensor

__all__ = ["Origin", "Raw", "Records", "Table", "as_arrow", "as_plain", "odd_one"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Attributes:
        parts: name and number of rows of each file, or of what stands in for it, in order.
    """

    parts: tuple[tuple[str, int], ...]

    def place(self, row: int) -> str:
        """Where a row stands, in words; the first row of a file is row 1."""
        for name, count in self.parts:
            if row < count:
                return f"row {row + 1:,} of {name}"
            row -= count
        raise IndexError(row)


@dataclass(frozen=True, eq=False)
class Table:
    """What a reader found.

    Attributes:
        values: an Arrow table of those columns that were asked for and are there.
        names: all columns that there are.
        origin: of the rows.
        class_names: by column, those that the source declares for its whole numbers.
    """

    values: Any
    names: tuple[str, ...]
    origin: Origin
    class_names: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Raw:
    """One column.

    Attributes:
        values: (N,) an Arrow chunked array.
        name: what the source calls it.
        path: where it stands in the experiment, for messages.
        origin: of the source's rows.
        rows: (N,) int64, which of the source's rows these are.
        class_names: names that the source declares, for whole numbers from 0; -1 is none.
    """

    values: Any
    name: str
    path: str
    origin: Origin
    rows: Indices
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def refused(self, row: int, problem: str, remedy: str, value: object) -> InputError:
        """The error of a bad value, with the place where it stands."""
        return InputError(
            f"column {self.name!r} {problem}, first in {self.origin.place(int(self.rows[row]))}",
            path=self.path,
            value=value,
            remedy=remedy,
        )

    def missing(self) -> NDArray[np.bool_]:
        """(N,) which rows have no value."""
        found: NDArray[np.bool_] = self.values.is_null(nan_is_null=True).to_numpy()
        return found

    def take(self, index: Indices) -> Raw:
        """The rows at an index."""
        return replace(self, values=self.values.take(pa.array(index)), rows=self.rows[index])


@dataclass(frozen=True, eq=False)
class Records:
    """Rows of a source, all of its splits one after another.

    Attributes:
        columns: by the task's names; targets that the source lacks are left out.
        splits: the rows of each split; ``TRAIN`` is what is still to be divided, others are there
            where the source has such splits of its own.
        left_out: rows that are not used.
    """

    columns: Mapping[str, Raw]
    splits: Mapping[Split, range]
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return max(rows.stop for rows in self.splits.values())

    def take(self, index: Indices) -> Records:
        """The rows at a sorted index."""
        splits = {}
        for split, rows in self.splits.items():
            first, last = np.searchsorted(index, (rows.start, rows.stop))
            splits[split] = range(int(first), int(last))
        columns = {name: raw.take(index) for name, raw in self.columns.items()}
        return replace(self, columns=columns, splits=splits)


def as_plain(table: Any) -> Any:
    """An Arrow table without dictionaries and types of other libraries: their plain values."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if isinstance(field.type, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in column.chunks]
            column = pa.chunked_array(chunks, field.type.storage_type)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        table = table.set_column(place, field.name, column)
    return table


def as_arrow(values: Any, name: str, path: str) -> Any:
    """An Arrow array of N values: an array or a tensor, or a list of any.

    Args:
        values: what a user gave for a column.
        name: of the column, for messages.
        path: where the source stands in the experiment, for messages.

    Raises:
        InputError: values of several kinds, or of a kind that no column holds.
    """
    if isinstance(values, Tensor):
        values = of_tensor(values)
    elif hasattr(values, "__array__"):  # A column of pandas.
        values = np.asarray(values)
    if not isinstance(values, np.ndarray):
        values = list(values)
        first = next((v for v in values if v is not None), None)
        if isinstance(first, np.ndarray | Tensor | Image.Image):
            return _of_arrays([_array(v, name, path) for v in values], name, path)
    elif values.dtype.kind in "biuf":
        return _nested(values)
    try:
        # NaN among texts is what pandas has for none.
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        return pa.array(plain, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        row, value = odd_one(values)
        raise InputError(
            f"column {name!r} holds values of several kinds, or of none that a column can hold"
            f": {' '.join(str(error).split())}",
            path=path,
            value=Words(described(value)),
            remedy=f"see row {row + 1:,}, and give all rows numbers, texts, lists or arrays",
        ) from None


def odd_one(values: Sequence[Any]) -> tuple[int, Any]:
    """The first value of another type than those before it."""
    first = next(v for v in values if v is not None)
    for row, value in enumerate(values):
        if value is not None and type(value) is not type(first):
            return row, value
    return 0, first


def _array(value: Any, name: str, path: str) -> NDArray[Any]:
    """One row's array; a picture as (C, H, W)."""
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, Image.Image):
        pixels = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"column {name!r} holds arrays, and among them what is none",
            path=path,
            value=Words(described(value)),
            remedy="give every row an array of numbers",
        )
    return array


def _of_arrays(rows: list[NDArray[Any]], name: str, path: str) -> Any:
    """Rows of one shape, or of one shape but for the first axis, as an Arrow array.

    Raises:
        InputError: other axes differ.
    """
    if all(row.shape == rows[0].shape for row in rows):
        return _nested(np.stack(rows))
    odd = next((i for i, r in enumerate(rows) if r.shape[1:] != rows[0].shape[1:] or not r.ndim), 0)
    if odd:
        raise InputError(
            f"column {name!r} holds arrays that differ in more than their length",
            path=path,
            value=(rows[0].shape, rows[odd].shape),
            remedy=f"bring row {odd + 1:,} into the shape of the others: only the first axis may"
            " have any length",
        )
    bounds = np.cumsum([0, *map(len, rows)])
    return pa.LargeListArray.from_arrays(pa.array(bounds), _nested(np.concatenate(rows)))


def _nested(array: NDArray[Any]) -> Any:
    """An array (N, …) of numbers as an Arrow array of N lists of fixed sizes; copies nothing."""
    plain = np.ascontiguousarray(array)
    found = pa.array(plain.reshape(-1).astype(plain.dtype.newbyteorder("="), copy=False))
    for size in reversed(plain.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, size)
    return found
