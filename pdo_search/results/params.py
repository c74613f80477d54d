"""Search dimensions as columns: their names, their types, and values there and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pdo_search.records import PARAM, Type

if TYPE_CHECKING:
    from pdo_search.config.space import Dimension

__all__ = [
    "PARAM",
    "decode_param",
    "encode_param",
    "param_column",
    "param_types",
    "point_of",
]


def param_column(path: str) -> str:
    """The column of a search dimension: ``param.temperature``."""
    return f"{PARAM}{path}"


def param_types(dimensions: Iterable[Dimension]) -> dict[str, Type]:
    """Type of each dimension's column, by path.

    Numbers stay numbers and booleans booleans, null being a missing value; a choice that mixes
    kinds becomes text.

    Args:
        dimensions: a ``Space`` or any dimensions.
    """
    return {d.path: _param_type(d) for d in dimensions}


def _param_type(dimension: Dimension) -> Type:
    if dimension.kind != "choice":
        return "int64" if dimension.kind == "int" else "float64"
    kinds = {type(value) for value in dimension.choices if value is not None}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64"
    if kinds and kinds <= {int, float}:
        return "float64"
    return "string"


def encode_param(value: Any, dtype: Type) -> Any:
    """A parameter's value as its column holds it: in text columns, other values as JSON."""
    if value is None or dtype != "string" or isinstance(value, str):
        return value
    return json.dumps(value)


def decode_param(dimension: Dimension, stored: Any) -> Any:
    """The dimension's value that a column holds: the inverse of ``encode_param``.

    Raises:
        ValueError: the dimension has no such value.
    """
    if isinstance(stored, float) and math.isnan(stored):
        stored = None  # pandas' null among numbers
    if stored is not None and dimension.kind == "int":
        return int(stored)
    if stored is not None and dimension.kind == "float":
        return float(stored)
    dtype = _param_type(dimension)
    for choice in dimension.choices:
        if encode_param(choice, dtype) == stored:
            return choice
    raise ValueError(f"{stored!r} is not among the choices of {dimension.path}")


def point_of(row: Mapping[str, Any], dimensions: Iterable[Dimension]) -> dict[str, Any]:
    """The point of the search space that a trial's row holds: the inverse of ``encode_param``.

    Args:
        row: of ``trials``, with all its columns.
        dimensions: a ``Space`` or any dimensions.

    Raises:
        KeyError: the row lacks a dimension.
        ValueError: a value is none of its dimension.
    """
    return {d.path: decode_param(d, row[param_column(d.path)]) for d in dimensions}
