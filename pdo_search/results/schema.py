"""The tables of a sweep, made of the records: their columns by sweep, their version, their Parquet
schema.

What the columns are is in ``pdo_search.records``; the same words go into the files' metadata. Knows
nothing of files, and imports pyarrow only inside the function that makes its schemas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pdo_search.config.metrics import TASK_METRICS, is_metric
from pdo_search.records import (
    PARAM,
    RECORDS,
    Column,
    Decision,
    Family,
    Identity,
    Measured,
    Row,
    TrialStatus,
    Type,
    columns_of,
)
from pdo_search.results.params import (
    decode_param,
    encode_param,
    param_column,
    param_types,
    point_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "PARAM",
    "SCHEMA_VERSION",
    "IMAGE_METRICS",
    "TABLES",
    "TRIALS",
    "Col",
    "Column",
    "Decision",
    "Table",
    "TrialStatus",
    "Type",
    "VERSION_METADATA",
    "all_columns",
    "arrow_schema",
    "better_of",
    "decode_param",
    "encode_param",
    "param_column",
    "param_types",
    "point_of",
    "trial_id",
]

SCHEMA_VERSION = 4
VERSION_METADATA = "pdo_search.schema_version"
IMAGE_METRICS = TASK_METRICS["image_classification"]
"""Of a sweep that does not say: older versions knew no other task."""
RENAMED = {
    "images_per_s": "examples_per_s",
    "rung": "level",
    "teacher_rung": "teacher_level",
    "train_accuracy": "train_quality",
    "teacher_accuracy": "teacher_score",
    "composite_accuracy": "composite_score",
    "accuracy_before": "score_before",
}
"""Columns of version 3 and before, by what they are called now."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        record: what a row holds beside the trial's identity.
    """

    record: type[Row]

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.record.TABLE

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that identify a row; the first is the trial's number."""
        return self.record.KEY

    @cached_property
    def parts(self) -> tuple[Column | Family, ...]:
        """Its columns, and the families of those that depend on the sweep, in order."""
        return columns_of(Identity) + columns_of(self.record)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The fixed columns, in order."""
        return tuple(part for part in self.parts if isinstance(part, Column))

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """The fixed columns by name."""
        return {column.name: column for column in self.columns}

    def column(self, name: str) -> Column | None:
        """A fixed column, or that of a metric; None where the table has none of that name."""
        for part in self.parts:
            if isinstance(part, Measured) and name.startswith(part.prefix):
                metric = name.removeprefix(part.prefix)
                if is_metric(metric):
                    return part.column(metric)
        return self.by_name.get(name)

    def holds(self, name: str) -> bool:
        """Whether a column is one of this table's: a fixed one, or that of a metric."""
        return self.column(name) is not None


TABLES: Mapping[str, Table] = {record.TABLE: Table(record) for record in RECORDS}
TRIALS = TABLES["trials"]


_NAMES = {name.upper(): name for table in TABLES.values() for name in table.by_name}


class _Col:
    """The fixed columns of all tables as constants: ``Col.VAL_SCORE`` is ``val_score``."""

    def __getattr__(self, constant: str) -> str:
        if constant not in _NAMES:
            raise AttributeError(f"no table has a column {constant.lower()!r}")
        return _NAMES[constant]


Col = _Col()


def trial_id(number: int) -> str:
    """The name of a trial: ``t0007`` for number 7."""
    return f"t{number:04d}"


def better_of(column: str) -> Literal["max", "min"] | None:
    """Which direction of a trial's column is better; None where neither is, or for no column."""
    found = TRIALS.column(column)
    return found.better if found else None


def all_columns(
    table: Table, params: Mapping[str, Type], metrics: Sequence[str] = IMAGE_METRICS
) -> tuple[Column, ...]:
    """A table's columns, with one per metric of the task and, in ``trials``, per search dimension.

    Args:
        table: one of ``TABLES``.
        params: type by dimension path, from ``param_types``.
        metrics: of the sweep's task.
    """
    columns: list[Column] = []
    for part in table.parts:
        if isinstance(part, Column):
            columns.append(part)
        elif isinstance(part, Measured):
            columns += part.columns(metrics)
        else:
            columns += [_searched(path, dtype) for path, dtype in params.items()]
    return tuple(columns)


def _searched(path: str, dtype: Type) -> Column:
    meaning = f"value of the search dimension {path}"
    return Column(name=param_column(path), dtype=dtype, unit="", meaning=meaning)


def arrow_schema(
    table: Table, params: Mapping[str, Type], metrics: Sequence[str] = IMAGE_METRICS
) -> pa.Schema:
    """The Parquet schema: unit and meaning per field, table and version on the schema."""
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    fields = [
        pa.field(
            column.name,
            kinds[column.dtype],
            nullable=not column.required,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in all_columns(table, params, metrics)
    ]
    about = {
        VERSION_METADATA: str(SCHEMA_VERSION),
        "pdo_search.table": table.name,
        "pdo_search.meaning": table.record.MEANING,
        "pdo_search.key": ",".join(table.key),
    }
    return pa.schema(fields, metadata=about)
