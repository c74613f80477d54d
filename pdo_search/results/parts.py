"""One part file of a table: from bytes to an Arrow table that is what it should be.

Shared by writer and reader. Parquet only: nothing in a file is ever run.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdo_search.errors import InputError
from pdo_search.results.schema import SCHEMA_VERSION, VERSION_METADATA, Table, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["parse_part", "type_name"]

PLAIN = ("int64", "float64", "bool", "string")


def parse_part(table: Table, data: bytes) -> pa.Table:
    """The rows of a part file.

    Args:
        table: the table that it should be of.
        data: the file's bytes.

    Raises:
        InputError: it was written by a newer version.
        Exception: of many kinds, whatever arbitrary bytes make of the parser; ValueError where it
            is good Parquet and no part of this table.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(io.BytesIO(data))
    _check_version(file.schema_arrow.metadata or {})
    # A part is small: threads cost more than they save.
    part = file.read(use_threads=False)
    part.validate(full=True)
    names = part.schema.names
    if len(set(names)) < len(names):
        raise ValueError("a column stands twice")
    missing = [c.name for c in table.columns if c.required and c.name not in names]
    if missing:
        raise ValueError(f"the column {missing[0]} is missing")
    expected = {field.name: field.type for field in arrow_schema(table, {})}
    for field in part.schema:
        known = expected.get(field.name)
        right = type_name(field) in PLAIN if known is None else field.type == known
        if not right:
            raise ValueError(f"the column {field.name} has the type {field.type}")
    return part


def type_name(field: pa.Field) -> Any:
    """The schema's name of a plain Arrow type, Arrow's own of any other."""
    return {"double": "float64"}.get(str(field.type), str(field.type))


def _check_version(metadata: Mapping[bytes, bytes]) -> None:
    stored = metadata.get(VERSION_METADATA.encode(), b"0")
    if stored.isdigit() and int(stored) > SCHEMA_VERSION:
        raise InputError(
            "was written by a newer version of pdo-search",
            value=int(stored),
            remedy=f"this one knows tables up to version {SCHEMA_VERSION}: upgrade",
        )
