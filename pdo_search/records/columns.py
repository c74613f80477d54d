"""What a column is, and how a record says which columns it has.

A record's field is a column (annotated with ``About``), columns of one prefix (``Family``), or
columns that stand together (a ``Part``). Its type says how the column is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from pdo_search.config.metrics import is_metric, metric_of

__all__ = [
    "About",
    "Column",
    "Family",
    "Measured",
    "Moment",
    "Part",
    "Row",
    "Type",
    "Values",
    "columns_of",
    "tables_of",
]

COMPARED = ("agreement", "kl")
"""Metrics of a student and its full teacher, not of a model alone."""

Type = Literal["int64", "float64", "bool", "string", "timestamp"]
"""``timestamp`` is microseconds since 1970 in UTC; everything else is what it says."""
Direction = Literal["max", "min"]
Moment = datetime | float
"""An aware datetime, or epoch seconds."""
Values = Mapping[str, float]
"""By metric."""


@dataclass(frozen=True)
class About:
    """What a column holds.

    Attributes:
        unit: such as ``s`` or ``FLOPs``; empty for names, counts and plain numbers.
        meaning: one line.
        required: whether a row cannot be begun without it; such a column is never null.
        better: which direction is better, for what may be an axis of a Pareto front.
        before: its value in files of a version that did not have it yet, where it is required now.
    """

    unit: str
    meaning: str
    required: bool = False
    better: Direction | None = None
    before: str | None = None


@dataclass(frozen=True, kw_only=True)
class Column(About):
    """One column.

    Attributes:
        name: as in the files.
        dtype: see ``Type``.
    """

    name: str
    dtype: Type


@dataclass(frozen=True)
class Family:
    """Columns whose names share a prefix; which there are depends on the sweep."""

    prefix: str


@dataclass(frozen=True)
class Measured(Family):
    """Columns of the task's metrics.

    Attributes:
        whom: of whom they are, in words.
        kept: of the task's metrics ``all`` of them, those of a model ``alone``, or the ``primary``
            one.
        judged: whether they say which trial is better.
    """

    whom: str
    kept: Literal["all", "alone", "primary"] = "alone"
    judged: bool = True

    def columns(self, metrics: Sequence[str]) -> list[Column]:
        """Those of a task with these metrics."""
        own = metrics[:1] if self.kept == "primary" else metrics
        left_out = COMPARED if self.kept == "alone" else ()
        kept = (m for m in own if is_metric(m) and m.rpartition(".")[2] not in left_out)
        return [self.column(metric) for metric in kept]

    def column(self, metric: str) -> Column:
        """That of a metric."""
        known = metric_of(metric)
        return Column(
            name=f"{self.prefix}{metric}",
            dtype="float64",
            unit=known.unit,
            meaning=f"{known.meaning}, {self.whom}",
            better=known.mode if self.judged else None,
        )


class Part:
    """Columns that stand together.

    Attributes:
        FIELDS: what each field is.
    """

    FIELDS: ClassVar[Mapping[str, Column | Family | type[Part]]]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True).items()
        cls.FIELDS = {n: _kind(n, hint) for n, hint in hints if get_origin(hint) is not ClassVar}

    def columns(self) -> dict[str, Any]:
        """Its values by column."""
        found: dict[str, Any] = {}
        for name, kind in self.FIELDS.items():
            value = getattr(self, name)
            if isinstance(kind, Column):
                found[name] = value
            elif isinstance(kind, Family):
                found |= {f"{kind.prefix}{key}": own for key, own in value.items()}
            elif value is not None:
                found |= value.columns()
        return found


class Row(Part):
    """A row of a table, but for the trial's ``Identity``, which the driver adds.

    Attributes:
        TABLE: its name.
        KEY: columns that identify a row of it; the first is the trial's number.
        MEANING: what a row is.
        GROWS: whether a row is written bit by bit: then None says that something is not known yet.
    """

    TABLE: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]]
    MEANING: ClassVar[str]
    GROWS: ClassVar[bool] = False

    def columns(self) -> dict[str, Any]:
        """Its values by column; of a row that grows those that are known."""
        found = super().columns()
        if not self.GROWS:
            return found
        return {name: value for name, value in found.items() if value is not None}


def _kind(name: str, hint: Any) -> Column | Family | type[Part]:
    if get_origin(hint) is not Annotated:
        part: type[Part]
        (part,) = {*(get_args(hint) or (hint,))} - {NoneType}
        return part
    values, about = get_args(hint)
    if isinstance(about, Family):
        return about
    return Column(name=name, dtype=_dtype(values), **vars(about))


def _dtype(hint: Any) -> Type:
    kinds = {*(get_args(hint) or (hint,))} - {NoneType}
    if datetime in kinds:
        return "timestamp"
    (kind,) = kinds
    return next(dtype for stored, dtype in _TYPES if issubclass(kind, stored))


_TYPES: tuple[tuple[type, Type], ...] = (
    (bool, "bool"),
    (int, "int64"),
    (float, "float64"),
    (str, "string"),
)


def columns_of(record: type[Part]) -> tuple[Column | Family, ...]:
    """The columns of a record in order, those of its parts among them."""
    found: list[Column | Family] = []
    for kind in record.FIELDS.values():
        found += columns_of(kind) if isinstance(kind, type) else [kind]
    return tuple(found)


def tables_of(rows: Iterable[Row]) -> dict[str, list[dict[str, Any]]]:
    """Rows as plain values by table, as they travel between processes; of a table whose rows grow,
    one with all that is known."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        known = tables.setdefault(row.TABLE, [])
        if row.GROWS and known:
            known[0] |= row.columns()
        else:
            known.append(row.columns())
    return tables
