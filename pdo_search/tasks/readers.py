"""Formats of files: the columns asked for, and no others, as Arrow has them.

Text files give texts, whatever they look like: it is the task that knows which column is of
numbers. Readers raise what their libraries raise, or ``ValueError``; their caller knows the file's
place in the experiment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pdo_search.tasks.records import odd_one

__all__ = ["READERS"]

BLOCK = 1 << 24
"""Bytes of text that are parsed at once: no row may be longer."""
ROWS = 10_000

Found = tuple[Any, Sequence[str]]
"""An Arrow table of the columns asked for that are there, and the names of all that are there."""


def _parquet(file: Path, wanted: Sequence[str]) -> Found:
    with pa.parquet.ParquetFile(file, memory_map=True) as opened:
        names = opened.schema_arrow.names
        return opened.read([name for name in wanted if name in names]), names


def _arrow(file: Path, wanted: Sequence[str]) -> Found:
    """A file or a stream of Arrow, mapped: nothing of it is read yet."""
    mapped = pa.memory_map(str(file))
    try:
        table = pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_file(mapped).read_all()
    return table.select([n for n in wanted if n in table.column_names]), table.column_names


def _csv(file: Path, wanted: Sequence[str], delimiter: str = ",") -> Found:
    """Texts of the cells; an empty cell without quotes is missing."""
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    blocks = pa.csv.ReadOptions(block_size=BLOCK)
    with pa.input_stream(str(file)) as stream:
        names = pa.csv.open_csv(stream, blocks, parse).schema.names
    chosen = [name for name in wanted if name in names]
    if not chosen:
        return pa.table({}), names
    convert = pa.csv.ConvertOptions(
        include_columns=chosen,
        column_types=dict.fromkeys(chosen, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    with pa.input_stream(str(file)) as stream:
        return pa.csv.read_csv(stream, blocks, parse, convert), names


def _tsv(file: Path, wanted: Sequence[str]) -> Found:
    return _csv(file, wanted, "\t")


def _json(file: Path, wanted: Sequence[str]) -> Found:
    """Objects in one list, or one per line; lines that are empty are none."""
    with pa.input_stream(str(file)) as stream:
        head = stream.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
    with pa.input_stream(str(file)) as stream:
        lines = (bytes(line) for line in _lines(stream))
        rows = iter(_listed(b"".join(lines)) if head.startswith(b"[") else _by_line(lines))
        chunks: list[Any] = []
        names: dict[str, None] = {}
        while part := list(islice(rows, ROWS)):
            names |= dict.fromkeys(name for row in part for name in row)
            first = ROWS * len(chunks) + 1
            chosen = [name for name in wanted if name in names]
            chunks.append(pa.table({n: _cells([r.get(n) for r in part], n, first) for n in chosen}))
    if not chunks:
        raise ValueError("it is empty")
    return pa.concat_tables(chunks, promote_options="permissive"), list(names)


def _text(file: Path, wanted: Sequence[str]) -> Found:
    """The whole file as one row: its ``text``, and itself as the ``document``."""
    with pa.input_stream(str(file)) as stream:
        whole = stream.read().decode("utf-8-sig")
    row = {"text": [whole], "document": [str(file)]}
    return pa.table({name: row[name] for name in wanted if name in row}), list(row)


def _cells(values: list[Any], name: str, first: int) -> Any:
    """An Arrow array of a column's values, of which the first is that of a row."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        row, value = odd_one(values)
        raise ValueError(
            f"column {name!r} holds values of several kinds, such as {value!r} in row"
            f" {first + row:,}: {error}"
        ) from None


def _lines(stream: Any) -> Iterable[bytes]:
    """The lines of a stream, which may be compressed."""
    rest = b""
    while block := stream.read(BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in whole)
    yield rest


def _listed(text: bytes) -> list[Any]:
    rows = json.loads(text.decode("utf-8-sig"))
    wrong = next((i for i, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(f"element {wrong + 1} of the list is no object")
    found: list[Any] = rows
    return found


def _by_line(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        yield row


READERS: Mapping[str, Callable[[Path, Sequence[str]], Found]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "text": _text,
}
