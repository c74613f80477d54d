"""The `store` commands' answers on a screen. Owns wording and layout, and computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from pdo_search.base.screen import plain_text, screen

__all__ = ["print_collected", "print_listing", "print_verification"]

DIGEST_SHOWN = 8
WIDTH_WITHOUT_TERMINAL = 120
RIGHT = ("size", "age", "last use", "artifacts")
UNITS = ((86400, "d"), (3600, "h"), (60, "m"))

Row = Mapping[str, Any]


def print_listing(found: Row) -> None:
    """Print what is in a store."""
    console = screen(WIDTH_WITHOUT_TERMINAL)
    entries = found["entries"]
    if not entries:
        console.print(plain_text(f"{found['root']} is empty."))
        return
    console.print(
        _table(
            entries,
            {
                "kind": lambda e: e["kind"],
                "digest": lambda e: e["digest"][:DIGEST_SHOWN],
                "what": lambda e: e["what"],
                "size": lambda e: _size(e["bytes"]),
                "age": lambda e: _ago(e["built_at"]),
                "last use": lambda e: _ago(e["used_at"]),
            },
        )
    )
    totals = [{"kind": kind, **total} for kind, total in found["totals"].items()]
    whole = {key: sum(total[key] for total in totals) for key in ("count", "bytes")}
    console.print()
    console.print(
        _table(
            [*totals, {"kind": "all", **whole}],
            {
                "kind": lambda t: t["kind"],
                "artifacts": lambda t: str(t["count"]),
                "size": lambda t: _size(t["bytes"]),
            },
        )
    )


def print_verification(found: Row) -> None:
    """Print what is damaged."""
    console = screen(WIDTH_WITHOUT_TERMINAL)
    damaged = found["damaged"]
    if damaged:
        console.print(
            _table(
                damaged,
                {
                    "kind": lambda e: e["kind"],
                    "digest": lambda e: e["digest"][:DIGEST_SHOWN],
                    "what": lambda e: e["what"],
                    "file": lambda e: e["file"],
                    "damage": lambda e: e["why"],
                    "": lambda e: "set aside" if e["set_aside"] else "",
                },
            )
        )
    console.print(
        plain_text(
            f"{found['root']}: {_counted(found['checked'], 'artifact')} checked"
            f" ({_size(found['bytes'])}), {len(damaged) or 'none'} damaged."
        ),
        soft_wrap=True,
    )
    if any(not entry["set_aside"] for entry in damaged):
        console.print(
            "A damaged artifact is never used: it is built again when it is needed."
            " Set all aside now: --repair",
            soft_wrap=True,
        )


def print_collected(found: Row) -> None:
    """Print what was removed."""
    console = screen(WIDTH_WITHOUT_TERMINAL)
    columns: dict[str, Callable[[Row], str]] = {
        "kind": lambda e: e["kind"],
        "digest": lambda e: e["digest"][:DIGEST_SHOWN],
        "what": lambda e: e["what"],
        "size": lambda e: _size(e["bytes"]),
        "last use": lambda e: _ago(e.get("used_at", e.get("changed_at"))),
    }
    if found["removed"]:
        console.print(_table(found["removed"], columns))
    if found["in_use"]:
        console.print(plain_text("In use or being built, and kept:"))
        console.print(_table(found["in_use"], columns))
    verb = "Would remove" if found["dry_run"] else "Removed"
    console.print(
        plain_text(
            f"{found['root']}: {verb.lower()} {_counted(len(found['removed']), 'entry')},"
            f" {_size(found['bytes'])}; {_size(found['left'])} of artifacts"
            f" {'would be left' if found['dry_run'] else 'left'}."
        ),
        soft_wrap=True,
    )


def _table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> Table:
    """A table without lines; numbers stand to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in RIGHT else "left",
            no_wrap=name not in ("what", "damage", "file"),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(plain_text(cell(row)) for cell in columns.values()))
    return table


def _counted(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def _size(count: float) -> str:
    """``512 B``, ``1.5 kB``, ``23 MB``, ``1.2 GB``."""
    if count < 1000:
        return f"{count:.0f} B"
    power = 0
    while count >= 999.5 and power < 4:
        count /= 1000
        power += 1
    return f"{count:.{1 if count < 9.95 else 0}f} {'kMGT'[power - 1]}B"


def _ago(moment: float | None) -> str:
    """How long ago: ``now``, ``12m``, ``5h``, ``3d``."""
    if moment is None:
        return "-"
    seconds = time.time() - moment
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return "now"
