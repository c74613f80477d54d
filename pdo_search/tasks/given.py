"""Columns out of what a user's function returns: data sets of torch and Hugging Face, frames,
mappings of columns, lists of rows, paths of files, and any of these by split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pdo_search.base.errors import InputError
from pdo_search.tasks.base import Split
from pdo_search.tasks.files import SPLITS, read_path
from pdo_search.tasks.records import Origin, Table, as_arrow, as_plain
from pdo_search.tasks.values import Words, described

__all__ = ["Asked", "tables_of"]

WANTED = (
    "the function must return a torch Dataset or another with __len__ and __getitem__, a frame, a"
    " mapping of columns, a list of rows, or a mapping of these by split"
)


@dataclass(frozen=True)
class Asked:
    """What is asked of a source.

    Attributes:
        wanted: names of columns in the source; ``"0"`` is the first place of rows that are tuples.
        order: names of the columns of rows that are tuples, unless ``wanted`` has places.
        name: ``module:function``.
        path: where it stands in the experiment, for messages.
        folder: what relative paths refer to.
        label: the source's name of the one target, to which the ``classes`` of a data set belong;
            None where there are none or several.
    """

    wanted: tuple[str, ...]
    order: tuple[str, ...]
    name: str
    path: str
    folder: Path
    label: str | None = None


def tables_of(result: Any, asked: Asked) -> dict[Split, Table]:
    """Columns of what a function returned, by split.

    Args:
        result: what it returned.
        asked: which columns.

    Raises:
        InputError: it is nothing that has rows; says what it is.
    """
    if isinstance(result, str | Path):
        return read_path(asked.folder / result, asked.wanted, asked.path)
    if isinstance(result, Mapping) and _is_by_split(result):
        parts = {SPLITS[str(name).lower()]: _table(part, asked) for name, part in result.items()}
        if len(parts) < len(result):
            raise InputError(
                "two splits of the source mean the same",
                path=asked.path,
                value=[str(name) for name in result],
                remedy="name them train, validation, test",
            )
        return parts
    return {Split.TRAIN: _table(result, asked)}


def _is_by_split(result: Mapping[Any, Any]) -> bool:
    names = [str(name).lower() for name in result]
    return "train" in names and all(name in SPLITS for name in names)


def _table(result: Any, asked: Asked) -> Table:
    """Columns of one split.

    Raises:
        InputError: it has no rows that can be asked for.
    """
    refused = partial(InputError, f"{WANTED}; it returned {described(result)}", path=asked.path)
    if isinstance(result, DataLoader):
        raise refused(value=asked.name, remedy="return the data set that the loader reads")
    if isinstance(result, Mapping):
        return _of_columns(result, asked)
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return _of_columns(dict(zip(asked.order, result, strict=False)), asked)
    if hasattr(result, "__arrow_c_stream__") or isinstance(result, pa.Table):
        return _of_frame(result, asked)
    # A data set that is iterated over may inherit a __getitem__ that only raises.
    has_rows = hasattr(result, "__getitem__") and hasattr(result, "__len__")
    if isinstance(result, IterableDataset) or not has_rows:
        iterable = isinstance(result, IterableDataset) or hasattr(result, "__iter__")
        raise refused(
            value=asked.name,
            remedy="return list(dataset): rows are drawn by their places, again and again"
            if iterable
            else "return one of these",
        )
    if isinstance(result, str | bytes | np.ndarray | Tensor):
        raise refused(value=asked.name, remedy="name its columns: {'text': …, 'label': …}")
    plain = getattr(result, "format", None)
    if hasattr(result, "with_format") and isinstance(plain, Mapping) and plain["type"] != "custom":
        return _of_frame(result.with_format("arrow")[:], asked, getattr(result, "features", None))
    return _of_rows(result, asked)


def _origin(asked: Asked, count: int) -> Origin:
    return Origin(((asked.name, count),))


def _of_columns(columns: Mapping[Any, Any], asked: Asked) -> Table:
    """A mapping of columns of the same length.

    Raises:
        InputError: their lengths differ.
    """
    given = {str(name): values for name, values in columns.items()}
    arrays = {n: as_arrow(given[n], n, asked.path) for n in asked.wanted if n in given}
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            "columns have different lengths",
            path=asked.path,
            value=sizes,
            remedy="return one value of each column for every row",
        )
    count = next(iter(sizes.values()), 0)
    return Table(pa.table(arrays), tuple(given), _origin(asked, count), {})


def _of_frame(frame: Any, asked: Asked, features: Any = None) -> Table:
    """A table of pandas, polars or Arrow; an index is no column."""
    names = [str(name) for name in getattr(frame, "column_names", getattr(frame, "columns", ()))]
    chosen = [name for name in asked.wanted if name in names]
    places = [names.index(name) for name in chosen]
    try:
        if hasattr(frame, "iloc"):
            part = frame.iloc[:, places].set_axis(chosen, axis=1)
            table = pa.Table.from_pandas(part, preserve_index=False)
        else:
            table = pa.table(frame).select(chosen)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"a column of the frame cannot be read: {' '.join(str(error).split())}",
            path=asked.path,
            value=asked.name,
            remedy="give each column values of one kind, such as by frame[name].astype(str)",
        ) from None
    table = as_plain(table.replace_schema_metadata(None))
    declared = _class_names(features, chosen)
    return Table(table, tuple(names), _origin(asked, table.num_rows), declared)


def _class_names(features: Any, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Class names that a data set of Hugging Face declares."""
    found = {}
    for name in names if isinstance(features, Mapping) else ():
        feature = features.get(name)
        feature = getattr(feature, "feature", feature)
        if own := getattr(feature, "names", None):
            found[name] = tuple(str(n) for n in own)
    return found


def _of_rows(rows: Any, asked: Asked) -> Table:
    """Rows by their places: tuples, mappings or objects; a data set's transforms are applied, once
    to each row.

    Raises:
        InputError: there is none, or they are of several kinds.
    """
    count = len(rows)
    if count == 0:
        raise InputError(
            "has no rows",
            path=asked.path,
            value=asked.name,
            remedy="see that the function finds its data",
        )
    first = _fields(rows[0], asked)
    chosen = [name for name in asked.wanted if name in first]
    columns: dict[str, list[Any]] = {name: [] for name in chosen}
    for place in range(count):
        row = rows[place]
        fields = _fields(row, asked)
        if not any(name in fields for name in chosen) and chosen:
            raise InputError(
                f"rows are of several kinds: row 1 has {', '.join(first)}, and row {place + 1:,}"
                " nothing of that",
                path=asked.path,
                value=Words(described(row)),
                remedy="return rows of one kind",
            )
        for name in chosen:
            columns[name].append(fields.get(name))
    arrays = {name: as_arrow(values, name, asked.path) for name, values in columns.items()}
    names = _declared_by(rows, asked)
    return Table(pa.table(arrays), tuple(first), _origin(asked, count), names)


def _declared_by(rows: Any, asked: Asked) -> dict[str, tuple[str, ...]]:
    """The class names of a data set with ``classes``, as those of torchvision: of its labels."""
    names = getattr(rows, "classes", None)
    if not isinstance(names, Sequence) or isinstance(names, str) or asked.label is None:
        return {}
    return {asked.label: tuple(str(name) for name in names)}


def _fields(row: Any, asked: Asked) -> Mapping[str, Any]:
    """The fields of a row by their names."""
    if isinstance(row, Mapping):
        return {str(name): value for name, value in row.items()}
    if hasattr(row, "_asdict"):
        return dict(row._asdict())
    if isinstance(row, tuple | list):
        by_place = any(name.isdigit() for name in asked.wanted)
        names = map(str, range(len(row))) if by_place else asked.order
        return dict(zip(names, row, strict=False))
    if hasattr(row, "__dict__") and not isinstance(row, Tensor):
        return dict(vars(row))
    return {asked.wanted[0]: row}
