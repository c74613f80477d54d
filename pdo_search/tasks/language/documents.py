"""Documents of a source, and which split each of them comes into. Knows no token.

Splits are made of whole documents, or groups of them, before there is a tokenizer: it is trained on
the train split alone. Shares are of bytes.

Legend: N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.base.factory import is_factory
from pdo_search.config.language import DocumentsConfig, DocumentSplitsConfig
from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.convert import group_values, text_batches
from pdo_search.tasks.records import Raw, Records
from pdo_search.tasks.sources import read_records
from pdo_search.tasks.splits import four_way_split

__all__ = ["Documents", "divided", "read_documents"]

TEXT, DOCUMENT = "text", "document"
"""Columns."""
PASSAGE = 1 << 14
"""Characters of a passage of a document that is cut up."""
PIECE = 1 << 10
"""Bytes of text that count as one when shares are met."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Texts of a source.

    Attributes:
        texts: N, none of them empty.
        groups: (N,) what each belongs to: what is equal comes into the same split.
        splits: those of each split that the source has; ``TRAIN`` is what is still to be divided.
        left_out: rows that are not used.
    """

    texts: Sequence[str]
    groups: NDArray[np.str_]
    splits: dict[Split, range]
    left_out: tuple[LeftOut, ...] = ()


def read_documents(
    config: DocumentsConfig,
    group: str | None,
    *,
    path: str,
    base_dir: Path | None,
    seed: int,
) -> Documents:
    """Read a source's documents.

    Args:
        config: the source.
        group: the column of what may not be torn apart; None cuts documents into passages, each on
            its own.
        path: where the source stands in the experiment, such as ``task.data``.
        base_dir: folder that relative paths and factories refer to.
        seed: of the rows that are used, where ``limit`` is set.

    Raises:
        InputError: there are none, or one is empty or no text; names the file and the row.
    """
    named = tuple(dict.fromkeys(name for name in (DOCUMENT, group) if name))
    records = read_records(
        config,
        (TEXT,),
        named,
        path=path,
        base_dir=base_dir,
        seed=seed,
        order=(DOCUMENT, TEXT) if is_factory(config.source) else (),
        optional=(DOCUMENT,),
    )
    texts = [text for batch in text_batches(records.columns[TEXT]) for text in batch]
    records, texts = _without_empty(records, texts, skip=config.on_error == "skip")
    found = Documents(texts, _groups(records, group), dict(records.splits), records.left_out)
    return found if group is not None else _passages(found)


def _without_empty(records: Records, texts: list[str], *, skip: bool) -> tuple[Records, list[str]]:
    """The rows whose text has something in it, and these texts.

    Raises:
        InputError: one has nothing, and rows are not to be skipped; or none has anything.
    """
    full = np.array([bool(text.strip()) for text in texts])
    if full.all():
        return records, texts
    raw, first = records.columns[TEXT], int(full.argmin())
    if not skip or not full.any():
        raise raw.refused(
            first,
            f"has no text in {int((~full).sum()):,} rows",
            "remove them; or leave them out: on_error: skip",
            texts[first],
        )
    lost = LeftOut("", "rows without text: not used", int((~full).sum()))
    kept = records.take(np.flatnonzero(full))
    if len(kept.splits[Split.TRAIN]) == 0:
        raise raw.refused(first, "leaves no row of train", "give texts with words", None)
    found = Records(kept.columns, kept.splits, (*kept.left_out, lost))
    return found, [text for text in texts if text.strip()]


def _groups(records: Records, group: str | None) -> NDArray[np.str_]:
    """(N,) what each row belongs to; without a column every row is on its own.

    Raises:
        InputError: a row belongs to nothing, or the column holds no names.
    """
    raw: Raw | None = records.columns.get(group or DOCUMENT)
    if raw is None:
        return np.arange(len(records)).astype(str)
    missing = raw.missing()
    if missing.any():
        raise raw.refused(int(missing.argmax()), "has no value", "fill it in", None)
    return group_values(raw)


def _passages(documents: Documents) -> Documents:
    """Passages of documents, each in a group of its own."""
    texts: list[str] = []
    splits = {}
    for split, rows in documents.splits.items():
        first = len(texts)
        for row in rows:
            texts += _cut(documents.texts[row])
        splits[split] = range(first, len(texts))
    groups = np.arange(len(texts)).astype(str)
    return Documents(texts, groups, splits, documents.left_out)


def _cut(text: str) -> list[str]:
    """A text in passages that end with a line, or else with a word."""
    found, first = [], 0
    while len(text) - first > PASSAGE:
        last = first + PASSAGE
        end = max(text.rfind("\n", first, last), first)
        end = end if end > first else max(text.rfind(" ", first, last), first)
        last = end + 1 if end > first else last
        found.append(text[first:last])
        first = last
    return [*found, text[first:]]


def divided(
    documents: Documents, splits: DocumentSplitsConfig, seed: int, own: Sequence[Split] = ()
) -> dict[Split, NDArray[np.int64]]:
    """Sorted indices of the documents of each split.

    Args:
        documents: of the labelled source.
        splits: shares.
        seed: same seed, same splits.
        own: splits whose examples come from elsewhere.

    Raises:
        InputError: there are too few groups, or a split would be empty.
    """
    given = [split for split in documents.splits if split is not Split.TRAIN]
    pool = documents.splits[Split.TRAIN]
    names, groups = np.unique(documents.groups[pool.start : pool.stop], return_inverse=True)
    own = (*own, *given)
    needed = len(Split) - len(set(own))
    if (number := len(names)) < needed:
        raise InputError(
            f"there are {number:,} documents, or groups of them, for {needed} splits",
            path="task.splits.group",
            value=splits.group,
            remedy="give more documents; or write splits: {group: null}, which cuts them into"
            f" passages of {PASSAGE:,} characters",
        )
    sizes = [-(-len(documents.texts[row].encode()) // PIECE) for row in pool]
    row_of = np.repeat(np.arange(len(pool)), sizes)
    nothing = np.full(len(row_of), -1)
    found = four_way_split(nothing, splits, seed, own=own, groups=groups[row_of])
    parts = {split: np.unique(row_of[index]) + pool.start for split, index in found.items()}
    return parts | {
        s: np.arange(documents.splits[s].start, documents.splits[s].stop) for s in given
    }
