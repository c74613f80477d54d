"""One part file of a table: an Arrow table to sealed bytes, and bytes to what it should be.

Shared by writer and reader. Parquet only: nothing in a file is ever run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdo_search.base.errors import InputError
from pdo_search.results.schema import (
    RENAMED,
    SCHEMA_VERSION,
    VERSION_METADATA,
    Col,
    Table,
    arrow_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["encode_part", "parse_part", "type_name"]

PLAIN = ("int64", "float64", "bool", "string")
MAX_DECODED = 1 << 30
"""Bytes that a part may need in memory: a block of 64 trials with ten thousand epochs each needs a
fifth of it, and a file of some kilobytes can claim terabytes."""
MAX_FOOTER = 2 << 20
"""Bytes of a part's metadata: a thousand dimensions need a tenth of it."""
MAX_COLUMNS = 2_000
"""Of a part: one per dimension, of which there are a thousand at most, and some of its own."""
PIECE = 16 << 20
"""Bytes that are decoded at most to learn how many a part needs."""
SEAL = "pdo_search.sha256"
UNSEALED = "0" * 64
"""What stands in the seal's place while the file's digest is taken."""


def encode_part(part: pa.Table) -> bytes:
    """A part file's bytes, with a digest over all of them in its footer.

    Parquet's own checksums cover pages and not the footer, which is most of a small file: a bit
    that flips there can change a name or a statistic unseen.
    """
    from pyarrow import parquet

    buffer = io.BytesIO()
    with parquet.ParquetWriter(buffer, part.schema, write_page_checksum=True) as writer:
        # One group of rows, whatever their number: a reader refuses more (``_decoded_bytes``).
        writer.write_table(part, row_group_size=max(1, len(part)))
        writer.add_key_value_metadata({SEAL: UNSEALED})
    data = buffer.getvalue()
    head, _, tail = data.rpartition(UNSEALED.encode())
    return head + hashlib.sha256(data).hexdigest().encode() + tail


def _check_seal(data: bytes, metadata: Mapping[bytes, bytes]) -> None:
    """Raise ValueError where the bytes are not those that were sealed; older files have no seal."""
    seal = metadata.get(SEAL.encode())
    if seal is None:
        return
    head, _, tail = data.rpartition(seal)
    if hashlib.sha256(head + UNSEALED.encode() + tail).hexdigest().encode() != seal:
        raise ValueError("its bytes are not those that were written")


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

    _refuse_large_footer(data)
    file = parquet.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    if file.metadata.num_columns > MAX_COLUMNS:
        raise ValueError(f"it has {file.metadata.num_columns:,} columns, more than {MAX_COLUMNS:,}")
    _check_seal(data, file.metadata.metadata or {})
    version = _version(file.schema_arrow.metadata or {})
    if _decoded_bytes(file) > MAX_DECODED:
        raise ValueError(f"it would need more than {MAX_DECODED:,} bytes in memory")
    # A part is small: threads cost more than they save.
    part = file.read(use_threads=False)
    part.validate(full=True)
    if version < SCHEMA_VERSION:
        part = _upgraded(table, part)
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


def _refuse_large_footer(data: bytes) -> None:
    """Raise ValueError where the metadata alone would take much memory to parse: many columns."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] == b"PAR1" and size > MAX_FOOTER:
        raise ValueError(f"its footer claims {size:,} bytes, more than {MAX_FOOTER:,}")


def _decoded_bytes(file: Any) -> int:
    """Bytes that the file's columns need, or more where that is few already.

    A column of text may repeat one value of its dictionary in every row, so its chunk's size says
    nothing: that of its rows times the longest possible value bounds it. Where this is too much,
    the rows are decoded and counted in pieces that cannot be large.

    Its first row is read before its columns are asked: where their metadata contradict each other,
    reading raises, while asking ends the process (``RowGroupMetaData.column``, pyarrow 26). That
    vouches for one group of rows, and a part has no more.

    Raises:
        Exception: of the parser; ValueError where there are more groups or nested columns.
    """
    if file.metadata.num_row_groups == 0:
        return 0
    if file.metadata.num_row_groups > 1:
        raise ValueError("it has more than one group of rows")
    if any(column.max_repetition_level for column in file.schema):
        raise ValueError("it has a nested column")
    group = file.metadata.row_group(0)
    if group.total_byte_size > MAX_DECODED:
        return int(group.total_byte_size)
    next(file.iter_batches(batch_size=1, use_threads=False), None)
    whole = row = 0
    for chunk in map(group.column, range(group.num_columns)):
        size: int = chunk.total_uncompressed_size
        whole += size
        row += size if chunk.physical_type.endswith("BYTE_ARRAY") else 12
    most: int = max(whole, group.num_rows * row)
    if most <= MAX_DECODED or row > PIECE:
        return most
    needed = 0
    for piece in file.iter_batches(batch_size=PIECE // row, use_threads=False):
        needed += piece.nbytes
        if needed > MAX_DECODED:
            break
    return needed


def type_name(field: pa.Field) -> Any:
    """The schema's name of a plain Arrow type, Arrow's own of any other."""
    return {"double": "float64"}.get(str(field.type), str(field.type))


def _version(metadata: Mapping[bytes, bytes]) -> int:
    """The version that wrote a file; 0 where it does not say."""
    stored = metadata.get(VERSION_METADATA.encode(), b"0")
    version = int(stored) if stored.isdigit() else 0
    if version > SCHEMA_VERSION:
        raise InputError(
            "was written by a newer version of pdo-search",
            value=version,
            remedy=f"this one knows tables up to version {SCHEMA_VERSION}: upgrade",
        )
    return version


def _upgraded(table: Table, part: pa.Table) -> pa.Table:
    """A part of an older version under the names of today, with the required columns that it
    lacks."""
    import pyarrow as pa

    part = part.rename_columns([RENAMED.get(name, name) for name in part.schema.names])
    if "val_accuracy" in part.schema.names and Col.VAL_SCORE not in part.schema.names:
        part = part.append_column(Col.VAL_SCORE, part["val_accuracy"])
    expected = arrow_schema(table, {})
    for column in table.columns:
        if column.before is not None and column.name not in part.schema.names:
            values = pa.array([column.before] * len(part), pa.string())
            part = part.append_column(expected.field(column.name), values)
    return part
