"""The one writer of a sweep's tables.

Rows lie in blocks by trial number, a Parquet file each, that are rewritten beside and renamed. So a
key never stands twice, a reader never sees a torn file, and a trial's row may change while it runs.
Who knows the rows is ``search.tune.recorder``.

A reader that opens a file twice in one query, as DuckDB and Polars do and pandas does not, can meet
two versions of a block, fail, and succeed when asked again. Measured: 54 of 1640 such queries
beside a writer that flushes without pause, none of 650 at one flush a second.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.safefile import NOT_REGULAR
from pdo_search.base.storage import Storage
from pdo_search.results.cells import cell
from pdo_search.results.params import PARAM
from pdo_search.results.parts import encode_part, parse_part, type_name
from pdo_search.results.schema import (
    IMAGE_METRICS,
    TABLES,
    Col,
    Type,
    all_columns,
    arrow_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableWriter"]

log = logging.getLogger(__name__)

BLOCK = 64
BLOCKS_KEPT = 8
SHARE_OF_TIME = 0.1
_PART = re.compile(r"part-(\d{5,})\.parquet")

Key = tuple[Any, ...]
Row = dict[str, Any]


class TableWriter:
    """The tables of one sweep; what its directory holds already is there from the start.

    Not for several threads or processes at once.

    Attributes:
        damaged: files that could not be read and were set aside, by their new names.

    Args:
        root: the sweep's directory, a path or URI.
        params: type by dimension path, from ``param_types``; those of existing files are added.
        metrics: of the sweep's task.
        interval_s: least seconds between two flushes that are not forced.

    Raises:
        InputError: the tables are of a newer version or of another experiment.
        StoreError: the directory cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        params: Mapping[str, Type] | None = None,
        *,
        metrics: Sequence[str] = IMAGE_METRICS,
        interval_s: float = 1.0,
    ) -> None:
        self.folder = Storage(root)
        self.damaged: list[str] = []
        self._params: dict[str, Type] = dict(params or {})
        self._interval_s = interval_s
        self._flush_s = 0.0
        self._flushed_at = -math.inf
        self._keys: dict[str, dict[int, set[Key]]] = {name: {} for name in TABLES}
        self._blocks: dict[str, dict[int, dict[Key, Row]]] = {name: {} for name in TABLES}
        self._changed: dict[str, set[int]] = {name: set() for name in TABLES}
        self.folder.remove_leftovers()
        found = {name: self._stored_parts(name) for name in TABLES}
        self._adopt_params(found["trials"])
        self._schemas = {
            name: arrow_schema(table, self._params, metrics) for name, table in TABLES.items()
        }
        self._columns = {
            name: {column.name: column for column in all_columns(table, self._params, metrics)}
            for name, table in TABLES.items()
        }
        for name, parts in found.items():
            self._take_over(name, parts)

    def upsert(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row, or change the given columns of the row with its key.

        Times may be epoch seconds; what is not finite becomes NaN.

        Raises:
            ValueError: a column is unknown, missing or of the wrong type; nothing was changed.
        """
        columns = self._columns[table]
        cells = {name: cell(table, columns, name, value) for name, value in row.items()}
        try:
            key = tuple(cells[name] for name in TABLES[table].key)
        except KeyError as error:
            raise ValueError(f"a row of {table} lacks its key column {error}") from None
        number = cells[Col.NUMBER] // BLOCK
        block = self._block(table, number)
        if key not in block:
            missing = [c.name for c in columns.values() if c.required and c.name not in cells]
            if missing:
                raise ValueError(f"a new row of {table} lacks the column {missing[0]!r}")
            block[key] = dict.fromkeys(columns)
            self._keys[table].setdefault(number, set()).add(key)
        block[key].update(cells)
        self._changed[table].add(number)

    def has(self, table: str, key: Any) -> bool:
        """Whether a row is there.

        Args:
            table: its table.
            key: a trial's number, a tuple such as ``(number, epoch)``, or a mapping that holds it.
        """
        return (found := _key(table, key)) in self._keys[table].get(found[0] // BLOCK, ())

    def get(self, table: str, key: Any) -> Row | None:
        """A copy of a row, every column of the table in it; None where there is none."""
        if not self.has(table, key):
            return None
        found = _key(table, key)
        return dict(self._block(table, found[0] // BLOCK)[found])

    def rows(self, table: str) -> Iterator[Row]:
        """Copies of all rows of a table in the order of their keys, every column in each.

        Nulls are None, times are aware datetimes.
        """
        for number in sorted(self._keys[table]):
            for _, row in sorted(self._block(table, number).items()):
                yield dict(row)

    def flush(self, force: bool = True) -> bool:
        """Write the blocks that have changed.

        Args:
            force: False leaves it where the last flush was less than ``interval_s`` ago, or writing
                would take more than a tenth of the time.

        Returns:
            Whether everything is written.

        Raises:
            StoreError: a file cannot be written; rows stay in memory, and the next flush tries
                again.
        """
        started = time.monotonic()
        pause = max(self._interval_s, self._flush_s / SHARE_OF_TIME)
        if not force and started - self._flushed_at < pause:
            return not any(self._changed.values())
        # The trials table last: where it says that a trial ended, the trial's other rows are there.
        for table in sorted(TABLES, key=lambda name: name == "trials"):
            if not self._keys[table]:
                # A table without rows is a table too: whoever reads it finds its columns.
                self._keys[table][0] = set()
                self._changed[table].add(0)
            self.flush_table(table)
        self._flushed_at = time.monotonic()
        self._flush_s = self._flushed_at - started
        return True

    def flush_table(self, table: str) -> None:
        """Write the blocks of one table that have changed.

        Raises:
            StoreError: as ``flush``.
        """
        for number in sorted(self._changed[table]):
            self.folder.write(_path(table, number), self._encoded(table, number))
            self._changed[table].discard(number)
        self._evict(table)

    def drop_orphans(self) -> list[str]:
        """Take rows of trials that ``trials`` does not know out of the other tables.

        A damaged part of ``trials`` that was set aside leaves some, and so did a driver of an
        earlier version that was killed while it wrote. Their numbers are given to new trials.

        Returns:
            The files, beside the tables, that keep the parts as they were.
        """
        kept = []
        for table in (name for name in TABLES if name != "trials"):
            for number, keys in self._keys[table].items():
                orphans = [key for key in keys if not self.has("trials", key[0])]
                if not orphans:
                    continue
                block = self._block(table, number)
                kept.append(f".orphans-{_path(table, number).replace('/', '-')}")
                self.folder.write(kept[-1], self._encoded(table, number))
                for key in orphans:
                    del block[key]
                self._keys[table][number] = set(block)
                self._changed[table].add(number)
        return kept

    def _encoded(self, table: str, number: int) -> bytes:
        import pyarrow as pa

        schema = self._schemas[table]
        rows = [row for _, row in sorted(self._block(table, number).items())]
        columns = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
        return encode_part(pa.Table.from_arrays(columns, schema=schema))

    def _block(self, table: str, number: int) -> dict[Key, Row]:
        """A block's rows, from memory or its file; the most recently used one last in memory."""
        blocks = self._blocks[table]
        block = blocks.pop(number, None)
        if block is None:
            stored = self._keys[table].get(number)
            block = self._decoded(table, self._stored_part(table, number)) if stored else {}
            self._keys[table][number] = set(block)
        blocks[number] = block
        self._evict(table)
        return block

    def _evict(self, table: str) -> None:
        """Forget the least recently used blocks that are written, beyond some."""
        blocks = self._blocks[table]
        for number in list(blocks)[:-1]:
            if len(blocks) <= BLOCKS_KEPT:
                return
            if number not in self._changed[table]:
                del blocks[number]

    def _stored_parts(self, table: str) -> dict[int, pa.Table]:
        """All stored blocks of a table; damaged ones are set aside."""
        try:
            names = self.folder.files(table)
        except OSError as error:
            raise StoreError(f"{self.folder.root}/{table} cannot be listed: {error}") from error
        found = {}
        for name in names:
            if match := _PART.fullmatch(name):
                part = self._stored_part(table, int(match[1]))
                if part is not None:
                    found[int(match[1])] = part
        return found

    def _stored_part(self, table: str, number: int) -> pa.Table | None:
        """One stored block; a damaged one is set aside, and None."""
        name = _path(table, number)
        try:
            data = self.folder.read(name)
        except OSError as error:
            if error.strerror == NOT_REGULAR:
                raise InputError(
                    NOT_REGULAR,
                    file=f"{self.folder.root}/{name}",
                    remedy="it is nothing that a sweep writes: move it away, then resume",
                ) from None
            raise StoreError(f"{self.folder.root}/{name} cannot be read: {error}") from error
        try:
            part = _parsed(table, number, data)
        except InputError as error:
            raise error.at(file=f"{self.folder.root}/{name}") from None
        except MemoryError:
            raise
        except Exception as error:  # Whatever the parser makes of arbitrary bytes.
            aside = self.folder.set_aside(name)
            self.damaged.append(aside)
            log.warning("%s is damaged and was set aside as %s: %s", name, aside, error)
            return None
        if unknown := _unknown_column(table, part):
            raise InputError(
                f"has a column that this version of pdo-search does not know: {unknown}",
                file=f"{self.folder.root}/{name}",
                remedy="go on with the version that wrote it, which sweep.json names",
            )
        return part

    def _adopt_params(self, parts: Mapping[int, pa.Table]) -> None:
        """Add the dimensions of existing files to those given."""
        for number, part in parts.items():
            for field in part.schema:
                if field.name.startswith(PARAM):
                    stored = type_name(field)
                    path = field.name.removeprefix(PARAM)
                    if self._params.setdefault(path, stored) != stored:
                        raise InputError(
                            f"holds another experiment: {path} is {stored} there",
                            file=f"{self.folder.root}/{_path('trials', number)}",
                            value=self._params[path],
                            remedy="give this sweep another name",
                        )

    def _take_over(self, table: str, parts: Mapping[int, pa.Table]) -> None:
        for number, part in parts.items():
            self._keys[table][number] = set(
                zip(*(part[name].to_pylist() for name in TABLES[table].key), strict=True)
            )
            if not part.schema.equals(self._schemas[table]):
                # All parts of a table have one schema: readers take the first one's.
                self._blocks[table][number] = self._decoded(table, part)
                self._changed[table].add(number)

    def _decoded(self, table: str, part: pa.Table | None) -> dict[Key, Row]:
        empty = dict.fromkeys(self._columns[table])
        rows = [] if part is None else part.to_pylist()
        return {tuple(row[n] for n in TABLES[table].key): {**empty, **row} for row in rows}


def _path(table: str, number: int) -> str:
    return f"{table}/part-{number:05d}.parquet"


def _key(table: str, key: Any) -> Key:
    if isinstance(key, Mapping):
        return tuple(key[name] for name in TABLES[table].key)
    return key if isinstance(key, tuple) else (key,)


def _parsed(table: str, number: int, data: bytes) -> pa.Table:
    """A block's table.

    Raises:
        Exception: it is damaged, or no block of this table.
    """
    part = parse_part(TABLES[table], data)
    keys = list(zip(*(part[name].to_pylist() for name in TABLES[table].key), strict=True))
    if any(None in key or key[0] // BLOCK != number for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("its keys are not those of this block")
    return part


def _unknown_column(table: str, part: pa.Table) -> str | None:
    """A column that rewriting the block would lose."""
    names = (name for name in part.schema.names if not name.startswith(PARAM))
    return next((name for name in names if not TABLES[table].holds(name)), None)
