"""Values as columns hold them: checked and converted, so that a bad one fails by its name."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pdo_search.records import PARAM, Column
from pdo_search.results.params import encode_param

__all__ = ["cell"]

_INT64 = range(-(2**63), 2**63)


def cell(table: str, columns: Mapping[str, Column], name: str, value: Any) -> Any:
    """A value as its column holds it.

    Raises:
        ValueError: the column is unknown, or the value is none of its type.
    """
    column = columns.get(name)
    if column is None:
        raise ValueError(f"{table} has no column {name!r}")
    if value is None:
        if column.required:
            raise ValueError(f"{table}.{name} cannot be null")
        return None
    if isinstance(value, Enum):
        value = value.value
    if name.startswith(PARAM):
        value = encode_param(value, column.dtype)
    try:
        return _CONVERSIONS[column.dtype](value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"{table}.{name} is {column.dtype}, not {value!r}") from None


def _is_number(value: Any) -> bool:
    """Whether it is a number, NumPy's included, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _integer(value: Any) -> int:
    whole = int(value)
    if not _is_number(value) or whole != value or whole not in _INT64:
        raise ValueError
    return whole


def _float(value: Any) -> float:
    if not _is_number(value):
        raise TypeError
    return float(value) if math.isfinite(value) else math.nan


def _bool(value: Any) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError
    return bool(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    # What UTF-8 cannot hold (a lone surrogate in an error's text) must not keep a block unwritten.
    return value.encode("utf-8", "replace").decode()


def _timestamp(value: Any) -> datetime:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError
        return value.astimezone(UTC)
    return datetime.fromtimestamp(float(value), UTC)


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "int64": _integer,
    "float64": _float,
    "bool": _bool,
    "string": _string,
    "timestamp": _timestamp,
}
