"""Tables on a screen, and how numbers stand in them. Knows no sweep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from pdo_search.base.safetext import printable
from pdo_search.base.screen import plain_text

__all__ = [
    "GAP",
    "column_width",
    "count",
    "duration",
    "empty_table",
    "fitted",
    "fixed_point",
    "milliseconds",
    "narrowed",
    "short",
    "short_names",
]

GAP = 2
"""Blanks between two columns."""


def empty_table(*columns: str) -> Table:
    """A table without lines; numbers stand to the right."""
    table = Table(
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
    )
    for name in columns:
        left = name in ("", "dimension", "model", "trial", "status", "method")
        table.add_column(plain_text(name), justify="left" if left else "right", no_wrap=True)
    return table


def fitted(
    names: Sequence[str], lines: Sequence[Sequence[str]], width: int, drop: Sequence[str]
) -> Table:
    """A table of the lines, without the columns that may be dropped where it would be too wide."""
    columns = {name: [line[at] for line in lines] for at, name in enumerate(names)}
    columns = narrowed(columns, width, drop)
    table = empty_table(*columns)
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(plain_text, line))
    return table


def narrowed(
    columns: Mapping[str, list[str]], width: int, drop: Sequence[str]
) -> dict[str, list[str]]:
    """Columns by name, without those that may be dropped, one after the other, where all are too
    wide."""
    left = dict(columns)
    for name in drop:
        if sum(column_width(*column) for column in left.items()) - GAP > width:
            del left[name]
    return left


def column_width(name: str, cells: Iterable[str]) -> int:
    """Of a column, with the gap to the next."""
    return max(map(len, (name, *cells))) + GAP


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Names as short as they can be told apart, by path: ``kl`` for ``loss.kl``."""
    tails = {path: path.rpartition(".")[2] for path in paths}
    counts = Counter(tails.values())
    return {path: tail if counts[tail] == 1 else path for path, tail in tails.items()}


def short(value: Any) -> str:
    """A parameter's value, a float in three digits."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def fixed_point(value: float | None, digits: int) -> str:
    """A number with so many digits after the point."""
    return "-" if value is None else f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """A time in three digits."""
    return "-" if value is None else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``8.2s``, ``45s``, ``12m05s``, ``3h07m``."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def count(value: float | None) -> str:
    """A large number in three digits: 696k, 13.1M."""
    if value is None:
        return "-"
    if abs(value) < 999.5:
        return f"{value:.0f}"
    power = 1
    while abs(value) >= 999.5 * 1000**power and power < 4:
        power += 1
    scaled = value / 1000**power
    digits = max(0, 2 - int(math.log10(abs(scaled)) + 1e-9))
    return f"{scaled:.{digits}f}{'kMGT'[power - 1]}"
