"""Reading a sweep's tables, while it runs or afterwards. Runs no code from the sweep."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage
from pdo_search.results.params import PARAM
from pdo_search.results.parts import parse_part
from pdo_search.results.schema import IMAGE_METRICS, TABLES, Col, Table, arrow_schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["read_table"]


def read_table(sweep: str, name: str, metrics: Sequence[str] = IMAGE_METRICS) -> pd.DataFrame:
    """All parts of a sweep's table, by key.

    Args:
        sweep: its directory, a path or a URI.
        name: of the table.
        metrics: of the sweep's task.

    Raises:
        InputError: a part cannot be read.
    """
    import pyarrow as pa

    folder, table = Storage(sweep), TABLES[name]
    parts = [arrow_schema(table, {}, metrics).empty_table()]
    try:
        files = folder.files(name, ".parquet")
    except OSError as error:
        raise _unreadable(f"{sweep}/{name}", error) from None
    for file in files:
        try:
            data = folder.read(f"{name}/{file}")
        except FileNotFoundError:
            continue  # Set aside by the writer, just now.
        except OSError as error:
            raise _unreadable(f"{sweep}/{name}/{file}", error) from None
        try:
            parts.append(parse_part(table, data))
        except InputError as error:
            raise error.at(file=f"{sweep}/{name}/{file}") from None
        except MemoryError:
            raise
        except Exception as error:  # Whatever the parser makes of arbitrary bytes.
            raise InputError(
                f"is damaged: {error}",
                file=f"{sweep}/{name}/{file}",
                remedy="move it away to read the rest; `pdo-search resume` does the same",
            ) from None
    try:
        whole = pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(
            f"has parts that contradict each other: {error}", file=f"{sweep}/{name}"
        ) from None
    return _frame(table, whole)


def _unreadable(file: str, error: OSError) -> InputError:
    """What a pipe, a folder or too large a file in a table's place is told."""
    here = error.errno in (errno.EINVAL, errno.EFBIG, errno.ENOTDIR)
    return InputError(
        f"cannot be read: {error.strerror or error}",
        file=file,
        remedy="it is nothing that a sweep writes: move it away to read the rest" if here else None,
    )


def _frame(table: Table, rows: pa.Table) -> pd.DataFrame:
    """The rows as a DataFrame, in the order of keys; parameters after the seed."""
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame = rows.to_pandas(ignore_metadata=True)
    for field in rows.schema:
        if field.type in nullable and rows[field.name].null_count:
            frame[field.name] = rows[field.name].to_pandas(types_mapper=nullable.get)
    frame = frame.sort_values(list(table.key), ignore_index=True)
    fixed = [name for name in frame.columns if not name.startswith(PARAM)]
    params = [name for name in frame.columns if name.startswith(PARAM)]
    after = fixed.index(Col.SEED) + 1 if Col.SEED in fixed else len(fixed)
    found: pd.DataFrame = frame[[*fixed[:after], *params, *fixed[after:]]]
    return found
