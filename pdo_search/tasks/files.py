"""Columns out of files: which files a path means, which splits they are, and what Hugging Face's
``datasets`` saves to disk. ``readers`` has the formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa

from pdo_search.base.errors import InputError
from pdo_search.tasks.base import Split
from pdo_search.tasks.readers import READERS
from pdo_search.tasks.records import Origin, Table, as_plain

__all__ = ["SPLITS", "joined", "read_files", "read_path"]

SPLITS: Mapping[str, Split] = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "validation": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "val": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
    "transfer": Split.TRANSFER,
    "unsupervised": Split.TRANSFER,
    "unlabelled": Split.TRANSFER,
    "unlabeled": Split.TRANSFER,
}
"""What sources call their splits."""
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".arrow": "arrow",
    ".txt": "text",
}
"""Formats by what names end in; ``.gz`` and the like may follow."""
STATE, SPLIT_LIST, INFO = "state.json", "dataset_dict.json", "dataset_info.json"


def read_path(
    path: Path, wanted: Sequence[str], where: str, given: str | None = None
) -> dict[Split, Table]:
    """Columns of a file, of a folder's files or of those that a pattern names, by split.

    Args:
        path: file, folder or pattern.
        wanted: names of columns.
        where: ``path``'s place in the experiment, for messages.
        given: format of the files; None tells it by their names.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    if (path / SPLIT_LIST).is_file():
        names = _json_of(path / SPLIT_LIST, where).get("splits", [])
        known = _known_splits(names, f"{path} has", where)
        return {split: _saved(path / name, wanted, where) for name, split in known.items()}
    if (path / STATE).is_file():
        return {Split.TRAIN: _saved(path, wanted, where)}
    files = _files(path, where, given)
    if not path.is_dir():
        return {Split.TRAIN: read_files(files, wanted, where, given)}
    by_name = {file: _split_of(file.relative_to(path)) for file in files}
    if None in by_name.values():
        if odd := sorted(str(f.relative_to(path)) for f, split in by_name.items() if split):
            plain = next(f for f, split in by_name.items() if split is None)
            raise InputError(
                f"{odd[0]} is named after a split, and {plain.relative_to(path)} is not",
                path=where,
                value=str(path),
                remedy="name the files of each split: {train: …, test: …}",
            )
        return {Split.TRAIN: read_files(files, wanted, where, given)}
    parts: dict[Split, list[Path]] = {}
    for file, split in by_name.items():
        parts.setdefault(split or Split.TRAIN, []).append(file)
    return {split: read_files(part, wanted, where, given) for split, part in parts.items()}


def read_files(
    files: Sequence[Path], wanted: Sequence[str], where: str, given: str | None = None
) -> Table:
    """Columns of files, row after row.

    Raises:
        InputError: a file cannot be read, or a column has another type in one of them.
    """
    tables = [_read(file, wanted, where, given) for file in files]
    first = tables[0]
    for table in tables[1:]:
        if lacking := set(first.values.column_names) ^ set(table.values.column_names):
            name = min(lacking)
            has, has_not = (first, table) if name in first.names else (table, first)
            raise InputError(
                f"{has_not.origin.parts[0][0]} has no column {name!r}, and"
                f" {has.origin.parts[0][0]} has",
                path=where,
                value=list(has_not.names),
                remedy="write all files with the same columns, or read those that have them",
            )
    return joined(tables, where)


def joined(tables: Sequence[Table], where: str) -> Table:
    """Tables one after another; a column that some of them lack is missing there.

    Raises:
        InputError: a column has different types.
    """
    if len(tables) == 1:
        return tables[0]
    try:
        values = pa.concat_tables([t.values for t in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"columns of {tables[0].origin.parts[0][0]} and of"
            f" {' or '.join(t.origin.parts[0][0] for t in tables[1:3])} differ in type:"
            f" {' '.join(str(error).split())}",
            path=where,
            remedy="write all of them with the same types",
        ) from None
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    declared: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for column, own in table.class_names.items():
            if declared.setdefault(column, own) != own:
                raise InputError(
                    f"parts of the source declare different classes of column {column!r}",
                    path=where,
                    value=[declared[column], own],
                    remedy="write all of them with the same classes",
                )
    origin = Origin(tuple(part for table in tables for part in table.origin.parts))
    return Table(values, names, origin, declared)


def _files(path: Path, where: str, given: str | None) -> list[Path]:
    """The files that a path means.

    Raises:
        InputError: there are none, or of several formats.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(f for f in path.rglob("*") if f.is_file())
        hidden = [f for f in inside if any(p[0] in "._" for p in f.relative_to(path).parts)]
        inside = [f for f in inside if f not in set(hidden)]
        known = [f for f in inside if _format_of(f)]
        # Beside tables a text file is a note about them.
        tables = [f for f in known if _format_of(f) != "text"]
        found = inside if given else tables or known
    else:
        found = sorted(f for f in map(Path, glob(str(path), recursive=True)) if f.is_file())
    formats = {_format_of(f) for f in found} if given is None else {given}
    if not found:
        there = path.exists()
        raise InputError(
            "holds no file of a known format" if there else "is not there",
            path=where,
            value=str(path),
            remedy=f"known are {', '.join(FORMATS)}; of other names say the format: format: csv"
            if there
            else "write the path of a file, a folder or a pattern, relative to the experiment file",
        )
    if len(formats) > 1:
        raise InputError(
            "means files of several formats",
            path=where,
            value=[file.name for file in found[:6]],
            remedy="write a pattern that means those of one, such as *.parquet",
        )
    return found


def _format_of(file: Path) -> str | None:
    """A file's format by its name, None where it tells none."""
    return next((FORMATS[s.lower()] for s in reversed(file.suffixes) if s.lower() in FORMATS), None)


def _split_of(file: Path) -> Split | None:
    """The split that a file's folder or name begins with: ``train/a.csv``, ``test-00000.csv``."""
    for part in (*file.parts[:-1], file.name):
        word = "".join(c if c.isalpha() else " " for c in part).split(" ")[0].lower()
        if word in SPLITS:
            return SPLITS[word]
    return None


def _known_splits(names: Iterable[str], told: str, where: str) -> dict[str, Split]:
    """Splits by the names that a source has for them.

    Raises:
        InputError: a name says no split, or two say the same, or none is to be trained on.
    """
    found = {str(name): SPLITS.get(str(name).lower()) for name in names}
    known = {name: split for name, split in found.items() if split is not None}
    if len(known) == len(found) == len(set(known.values())) and Split.TRAIN in known.values():
        return known
    raise InputError(
        f"{told} the splits {', '.join(found)}: which of them are train, validation and test?",
        path=where,
        value=list(found),
        remedy="name the folder or file of each: path: {train: …, test: …}",
    )


def _saved(folder: Path, wanted: Sequence[str], where: str) -> Table:
    """Columns of a data set that ``datasets`` saved: its Arrow files stay mapped."""
    files = [str(f["filename"]) for f in _json_of(folder / STATE, where).get("_data_files", [])]
    features = _json_of(folder / INFO, where).get("features") or {}
    if not files:
        raise InputError(
            f"{folder / STATE} names no data file",
            path=where,
            value=str(folder),
            remedy="save a data set that has rows",
        )
    found = read_files([folder / name for name in files], wanted, where, "arrow")
    return Table(found.values, found.names, found.origin, _declared(features))


def _declared(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Class names by column, of one class or of lists of them, as ``datasets`` notes them."""
    found = {}
    for name, feature in features.items():
        if isinstance(feature, list) and feature:
            feature = feature[0]
        feature = feature.get("feature", feature) if isinstance(feature, Mapping) else {}
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
            found[name] = tuple(str(n) for n in feature.get("names") or ())
    return {name: names for name, names in found.items() if names}


def _json_of(file: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(file, "JSON", error, where) from None
    return found if isinstance(found, dict) else {}


def _unreadable(file: Path, kind: str, error: Exception, where: str) -> InputError:
    text = " ".join(str(error).split())
    coded = "UTF8" in text or "utf-8" in text
    return InputError(
        f"{file} cannot be read as {kind}: {text}",
        path=where,
        remedy="save it as UTF-8" if coded else "repair it, or write it anew",
    )


def _read(file: Path, wanted: Sequence[str], where: str, given: str | None) -> Table:
    """Columns of one file.

    Raises:
        InputError: it cannot be read, or its format is not known.
    """
    form = given or _format_of(file)
    if form is None:
        raise InputError(
            "has a name that tells no format",
            path=where,
            value=str(file),
            remedy="say it: format: csv, tsv, json, parquet, arrow or text; or end the name in one"
            f" of {', '.join(FORMATS)}",
        )
    try:
        values, names = READERS[form](file, wanted)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, form, error, where) from None
    noted = (values.schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(noted).get("info", {}).get("features") or {}
    origin = Origin(((str(file), values.num_rows),))
    return Table(as_plain(values), tuple(names), origin, _declared(features))
