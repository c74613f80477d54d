"""The one reader of raw rows for all domains that read columns: from files and from functions.

Splitting, tokenizing and turning columns into tensors come later.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdo_search.base.errors import InputError
from pdo_search.base.factory import call_factory, is_factory, load_factory
from pdo_search.base.user_code import user_code
from pdo_search.config.task import RecordsConfig
from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.files import SPLITS, joined, read_path
from pdo_search.tasks.given import Asked, tables_of
from pdo_search.tasks.records import Raw, Records, Table

__all__ = ["FILES", "read_records"]

FILES = "files"
SHOWN = 12


def read_records(
    config: RecordsConfig,
    inputs: Sequence[str],
    targets: Sequence[str] = (),
    *,
    path: str,
    base_dir: Path | None,
    seed: int = 0,
) -> Records:
    """Read the columns that a task wants.

    Args:
        config: the source.
        inputs: the task's names of columns that every row must have a value of.
        targets: the task's names of labels; rows may lack them, and where ``config.labelled`` is
            false they are not read.
        path: where the source stands in the experiment, such as ``task.data``.
        base_dir: folder that relative paths and factories refer to.
        seed: of the rows that are used, where ``limit`` is set.

    Raises:
        InputError: the source or a column is not there, or it cannot be read, or a row has no
            input; names the file, the row and the value.
    """
    order = (*inputs, *targets)
    wanted = order if config.labelled else tuple(inputs)
    names = {name: str(config.columns.get(name, name)) for name in wanted}
    _refuse_unknown(config.columns, order, path)
    label = names.get(targets[0]) if len(targets) == 1 else None
    tables = _tables(config, tuple(names.values()), order, label, path=path, base_dir=base_dir)
    for name in inputs:
        for table in tables.values():
            if names[name] not in table.names:
                raise _no_column(names[name], name, table, path)
    found = _records(tables, names, path)
    found = _with_inputs(found, inputs, skip=config.on_error == "skip")
    if config.limit is not None:
        found = _limited(found, config.limit, seed)
    return found


def _refuse_unknown(columns: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    """Refuse columns that the task does not have.

    Raises:
        InputError: there is one.
    """
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                f"the task has no column {name!r}",
                path=f"{path}.columns",
                value=dict(columns),
                remedy=f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}",
            )


def _tables(
    config: RecordsConfig,
    wanted: tuple[str, ...],
    order: tuple[str, ...],
    label: str | None,
    *,
    path: str,
    base_dir: Path | None,
) -> dict[Split, Table]:
    """The source's columns by split."""
    folder = Path.cwd() if base_dir is None else base_dir
    if is_factory(config.source):
        where = f"{path}.source"
        function = load_factory(config.source, where, base_dir)
        asked = Asked(wanted, order, config.source, where, folder, label)
        # A generator that the function seeds, or draws from, goes on as if it had not been called.
        with torch.random.fork_rng(devices=[]):
            result = call_factory(function, config.args, name=config.source, path=where)
            with user_code(config.source, where):  # A Dataset loads its rows here.
                return tables_of(result, asked)
    if config.source != FILES:
        raise InputError(
            "unknown data source",
            path=f"{path}.source",
            value=config.source,
            remedy=f"known: {FILES}, or module:function",
        )
    if config.path is None:
        raise InputError(
            "files need a path", path=f"{path}.path", remedy="name a file, a folder or a pattern"
        )
    if isinstance(config.path, str):
        return read_path(folder / config.path, wanted, f"{path}.path", config.format)
    tables = {}
    for name, place in config.path.items():
        parts = read_path(folder / place, wanted, f"{path}.path.{name}", config.format)
        if len(parts) > 1:
            raise InputError(
                f"has splits of its own: {', '.join(split.value for split in parts)}",
                path=f"{path}.path.{name}",
                value=place,
                remedy=f"name one of them, or write path: {place} to use them as they are",
            )
        tables[SPLITS[name]] = next(iter(parts.values()))
    return tables


def _records(tables: Mapping[Split, Table], names: Mapping[str, str], path: str) -> Records:
    """Columns by the task's names, all splits one after another.

    Raises:
        InputError: there is no train split, or a column is missing.
    """
    if Split.TRAIN not in tables:
        raise InputError(
            f"has no train split, only {', '.join(split.value for split in tables)}",
            path=path,
            remedy="name it: path: {train: …, test: …}",
        )
    together = joined(list(tables.values()), path)
    if together.values.num_rows == 0 and together.values.num_columns:
        raise InputError("has no rows", path=path, value=together.origin.parts[0][0])
    rows = np.arange(together.values.num_rows)
    columns = {}
    for name, own in names.items():
        if own not in together.values.column_names:
            raise _no_column(own, name, together, path)
        columns[name] = Raw(
            together.values.column(own),
            own,
            f"{path}.columns.{name}",
            together.origin,
            rows,
            together.class_names.get(own, ()),
        )
    bounds = np.cumsum([0, *(table.values.num_rows for table in tables.values())]).tolist()
    splits = {s: range(bounds[k], bounds[k + 1]) for k, s in enumerate(tables)}
    return Records(columns, splits)


def _no_column(own: str, name: str, table: Table, path: str) -> InputError:
    """The error of a column that is not there."""
    near = difflib.get_close_matches(own, table.names, n=3, cutoff=0.5)
    near = near or [n for n in table.names if n.lower() == own.lower()]
    shown = ", ".join(table.names[:SHOWN])
    more = f" and {len(table.names) - SHOWN:,} more" if len(table.names) > SHOWN else ""
    choice = near[0] if near else table.names[0] if table.names else "…"
    return InputError(
        f"{table.origin.parts[0][0]} has no column {own!r}; it has {shown}{more}",
        path=f"{path}.columns.{name}",
        value=own,
        remedy=f"{'did you mean' if near else 'such as'} columns: {{{name}: {choice}}}"
        + (f", or {' or '.join(near[1:])}?" if near[1:] else "?" if near else ""),
    )


def _with_inputs(records: Records, inputs: Sequence[str], *, skip: bool) -> Records:
    """The rows that have all inputs.

    Raises:
        InputError: one has not, and rows are not to be skipped; or none has.
    """
    kept = np.ones(len(records), bool)
    for name in inputs:
        raw = records.columns[name]
        missing = raw.missing()
        if not missing.any():
            continue
        if not skip:
            raise raw.refused(
                int(missing.argmax()),
                f"has no value in {int(missing.sum()):,} rows",
                "fill them in; or leave these rows out: on_error: skip",
                None,
            )
        kept &= ~missing
    if kept.all():
        return records
    lost = LeftOut("", "rows without an input: not used", int((~kept).sum()))
    found = records.take(np.flatnonzero(kept))
    if len(found.splits[Split.TRAIN]) == 0:
        raise records.columns[inputs[0]].refused(0, "leaves no row", "fill the inputs in", None)
    return Records(found.columns, found.splits, (*found.left_out, lost))


def _limited(records: Records, limit: int, seed: int) -> Records:
    """So many rows of train, drawn by the seed; the source's own splits stay."""
    train = records.splits[Split.TRAIN]
    if limit >= len(train):
        return records
    drawn = np.random.default_rng(seed).permutation(len(train))[:limit] + train.start
    others = np.setdiff1d(np.arange(len(records)), np.arange(train.start, train.stop))
    return records.take(np.sort(np.concatenate([drawn, others])))
