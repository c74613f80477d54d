"""Raw columns to tensors: numbers, sequences, tokens, classes, and targets by a head's kind.

Knows no file and no domain. What cannot be converted is refused with the row where it stands.

Legend: N rows, S positions of all rows, K size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdo_search.base.columns import Column
from pdo_search.tasks.base import HeadKind
from pdo_search.tasks.records import Raw

__all__ = [
    "MISSING",
    "Tokenize",
    "class_column",
    "group_values",
    "number_column",
    "sequence_column",
    "target_column",
    "text_batches",
    "time_values",
    "token_column",
    "unknown_column",
]

Tokenize = Callable[[list[str]], Sequence[Sequence[int]]]
"""Texts to the numbers of their tokens."""
MISSING = -1
"""What stands for a class, a label or a pointer that is not known; of numbers it is NaN."""
TEXTS = 1_024


def number_column(raw: Raw) -> Column:
    """Numbers, or arrays of one shape, as a dense column: (N, …), NaN where there is none.

    Whole numbers without gaps keep their type, others are float32. Texts are read as numbers.

    Raises:
        InputError: a value is no number, or arrays have different shapes.
    """
    return Column(_numbers(raw))


def _numbers(raw: Raw) -> Tensor:
    flat, shape = raw.values, [len(raw)]
    while _is_list(flat.type):
        if flat.null_count:
            row = int(raw.missing().argmax())
            raise raw.refused(row, "has no array in some rows", "give each row one", None)
        sizes = np.unique(_lengths(flat))
        if len(sizes) > 1:
            row = int(np.argmax(_lengths(raw.values) != _lengths(raw.values)[0]))
            raise raw.refused(
                row,
                "holds lists of different lengths, where one is wanted",
                "bring all of them to one length",
                sizes[:4].tolist(),
            )
        shape.append(int(sizes[0]) if len(sizes) else 0)
        flat = pc.list_flatten(flat)
    return _plain(flat, raw).reshape(shape)


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _lengths(values: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pc.list_value_length(values).to_numpy().astype(np.int64)
    return found


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(flat: Any, raw: Raw) -> Tensor:
    """Numbers that no list holds, as a tensor."""
    if _is_text(flat.type):
        flat = _parsed(flat, raw)
    kind = flat.type
    if pa.types.is_null(kind):
        return torch.full((len(flat),), torch.nan)
    if pa.types.is_decimal(kind):
        flat = flat.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        value = raw.values[0].as_py() if len(raw) else None
        raise raw.refused(0, f"holds no numbers but {kind}", "name a column of numbers", value)
    array = flat.to_numpy()
    if array.dtype == object:  # Truth values with gaps.
        array = np.array([np.nan if v is None else v for v in array], np.float32)
    if array.dtype.kind == "f" and array.dtype.itemsize != 4:
        array = array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _parsed(flat: Any, raw: Raw) -> Any:
    """Texts as numbers: whole ones where all are."""
    trimmed = pc.utf8_trim_whitespace(flat)
    for kind in (pa.int64(), pa.float64()):
        try:
            return trimmed.cast(kind)
        except pa.ArrowInvalid:
            continue
    for row, text in enumerate(trimmed.to_pylist()):
        try:
            float(text or 0)
        except ValueError:
            raise raw.refused(
                row if len(flat) == len(raw) else 0,
                "must hold numbers, and holds texts",
                "correct it, or leave the cell empty where nothing is known",
                text,
            ) from None
    return pa.chunked_array([[None if t is None else float(t) for t in trimmed.to_pylist()]])


def sequence_column(raw: Raw, pad: float = 0) -> Column:
    """Lists of numbers, or of arrays of one shape, as a ragged column: values (S, …).

    Raises:
        InputError: a row holds no list, or its entries are no numbers.
    """
    if not _is_list(raw.values.type):
        raise raw.refused(
            0,
            f"holds {raw.values.type}, where lists are wanted",
            "write lists, as Parquet and JSON have them",
            raw.values[0].as_py() if len(raw) else None,
        )
    missing = raw.missing()
    if missing.any():
        row = int(missing.argmax())
        raise raw.refused(row, "has no list in some rows", "give each row one", None)
    offsets = np.cumsum(np.concatenate([[0], _lengths(raw.values)]))
    inner = pc.list_flatten(raw.values)
    own = np.repeat(raw.rows, np.diff(offsets))
    entries = Raw(inner, raw.name, raw.path, raw.origin, own)
    return Column(_numbers(entries), torch.from_numpy(offsets), pad)


def text_batches(raw: Raw) -> list[list[str]]:
    """The texts, so many at a time; numbers and truth values are none.

    Raises:
        InputError: the column holds no texts.
    """
    if not _is_text(raw.values.type):
        value = raw.values[0].as_py() if len(raw) else None
        raise raw.refused(0, f"holds {raw.values.type}, no texts", "name a column of texts", value)
    return [raw.values.slice(k, TEXTS).to_pylist() for k in range(0, len(raw), TEXTS)]


def token_column(raw: Raw, tokenize: Tokenize, pad: int = 0) -> Column:
    """Texts as a ragged column of tokens, int32.

    Args:
        raw: texts.
        tokenize: called with so many texts at a time.
        pad: what fills batches up.

    Raises:
        InputError: the column holds no texts.
    """
    lengths, values = [np.zeros(1, np.int64)], []
    for texts in text_batches(raw):
        rows = tokenize(texts)
        lengths.append(np.array([len(row) for row in rows], np.int64))
        values.append(np.array([token for row in rows for token in row], np.int32))
    offsets = np.cumsum(np.concatenate(lengths))
    tokens = np.concatenate(values) if values else np.zeros(0, np.int32)
    return Column(torch.from_numpy(tokens), torch.from_numpy(offsets), pad)


def class_column(raw: Raw, names: Sequence[str] = ()) -> tuple[Column, tuple[str, ...]]:
    """Classes as int64 (N,), ``MISSING`` where there is none, and their names.

    Names that the source declares stay in its order, and its whole numbers are their places.
    Otherwise the names are the values that there are, sorted: by number where all are whole
    numbers.

    Args:
        raw: names or numbers of classes.
        names: the classes, where they are known, as those of the labelled source; others are
            ``MISSING``.

    Raises:
        InputError: a value is no class; there are none.
    """
    codes, found = _coded(raw.values, raw)
    if not names:
        return Column(torch.from_numpy(codes)), found
    place = {name: k for k, name in enumerate(names)}
    lookup = np.array([place.get(name, MISSING) for name in found] + [MISSING])
    return Column(torch.from_numpy(lookup[codes])), tuple(names)


def _coded(values: Any, raw: Raw) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Places of values (N,) in the names of their classes, and the names."""
    kind = values.type
    if pa.types.is_floating(kind):
        known = pc.if_else(pc.is_nan(values), None, values)
        # Whole numbers with gaps, as pandas has them.
        if pc.all(pc.equal(known, pc.floor(known))).as_py() is not False:
            values, kind = known.cast(pa.int64()), pa.int64()
    if raw.class_names and pa.types.is_integer(kind):
        return _declared(values, raw), raw.class_names
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.int64()), pa.int64()
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        value = values[0].as_py() if len(values) else None
        raise raw.refused(
            0, f"holds {kind}, no classes", "name a column of names or whole numbers", value
        )
    encoded = values.combine_chunks().dictionary_encode()
    texts = [str(v) for v in encoded.dictionary.to_pylist()]
    if not texts:
        raise raw.refused(0, "has no class in any row", "name a column of labels", None)
    order = sorted(range(len(texts)), key=_sort_key(texts))
    rank = np.empty(len(texts), np.int64)
    rank[order] = np.arange(len(texts))
    codes = pc.fill_null(encoded.indices, MISSING).to_numpy(zero_copy_only=False)
    return np.where(codes < 0, MISSING, rank[codes]), tuple(texts[k] for k in order)


def _sort_key(texts: Sequence[str]) -> Callable[[int], Any]:
    """The order of names: of numbers where all are whole ones."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return lambda k: texts[k]
    return lambda k: (numbers[k], texts[k])


def _declared(values: Any, raw: Raw) -> NDArray[np.int64]:
    """Whole numbers that are places in declared names; -1 is none."""
    codes: NDArray[np.int64] = pc.fill_null(values, MISSING).to_numpy().astype(np.int64)
    wrong = (codes < MISSING) | (codes >= len(raw.class_names))
    if wrong.any():
        row = int(wrong.argmax())
        raise raw.refused(
            row if len(codes) == len(raw) else 0,
            f"declares {len(raw.class_names)} classes, and has others",
            "number them from 0; -1 is none",
            int(codes[row]),
        )
    return codes


def target_column(
    raw: Raw, kind: HeadKind, names: Sequence[str] = ()
) -> tuple[Column, tuple[str, ...]]:
    """A target as a head of a kind takes it, and the names of its classes or labels, if it has any.

    Args:
        raw: CATEGORICAL: a class; lists of them make a ragged column, one for each position.
            BERNOULLI: 0 or 1, an array of these, or lists of the labels that are true. REGRESSION:
            numbers. POINTER: whole numbers.
        kind: of the head.
        names: known classes or labels, as those of the labelled source.

    Raises:
        InputError: a value is none that the kind has.
    """
    kinds = {
        HeadKind.CATEGORICAL: _classes,
        HeadKind.BERNOULLI: _labels,
        HeadKind.REGRESSION: _regression,
        HeadKind.POINTER: _pointers,
    }
    return kinds[kind](raw, names)


def _classes(raw: Raw, names: Sequence[str]) -> tuple[Column, tuple[str, ...]]:
    if not _is_list(raw.values.type):
        return class_column(raw, names)
    values = pc.fill_null(raw.values, [])
    offsets = np.cumsum(np.concatenate([[0], _lengths(values)]))
    own = np.repeat(raw.rows, np.diff(offsets))
    entries = Raw(pc.list_flatten(values), raw.name, raw.path, raw.origin, own, raw.class_names)
    column, found = class_column(entries, names)
    return Column(column.values, torch.from_numpy(offsets), MISSING), found


def _labels(raw: Raw, names: Sequence[str]) -> tuple[Column, tuple[str, ...]]:
    """(N, K) of 0 and 1, ``MISSING`` where a row has no list or no number."""
    kind = raw.values.type
    listed = _is_list(kind) and not pa.types.is_fixed_size_list(kind)
    named = listed and (raw.class_names or _is_text(kind.value_type))
    if not named:
        numbers = _numbers(raw)
        known = ~numbers.isnan()
        wrong = known & (numbers != 0) & (numbers != 1) & (numbers != MISSING)
        if wrong.any():
            row = int(wrong.view(len(raw), -1).any(1).int().argmax())
            raise raw.refused(
                row,
                "must hold 0 or 1",
                "write 1 where the label is true, 0 where it is not, nothing where it is not known",
                raw.values[row].as_py(),
            )
        labels = torch.where(known, numbers, MISSING).long()
        return Column(labels.view(len(raw), -1)), tuple(names)
    column, found = _classes(raw, names)
    assert column.offsets is not None
    rows = torch.repeat_interleave(torch.arange(len(raw)), column.lengths())
    labels = torch.zeros(len(raw), len(found), dtype=torch.int64)
    known = column.values >= 0
    labels[rows[known], column.values[known]] = 1
    labels[torch.from_numpy(raw.missing())] = MISSING
    return Column(labels), found


def _regression(raw: Raw, names: Sequence[str]) -> tuple[Column, tuple[str, ...]]:
    numbers = _numbers(raw).float()
    return Column(numbers.view(len(raw), -1) if numbers.dim() == 1 else numbers), ()


def _pointers(raw: Raw, names: Sequence[str]) -> tuple[Column, tuple[str, ...]]:
    numbers = _numbers(raw)
    if numbers.is_floating_point():
        wrong = ~numbers.isnan() & (numbers != numbers.floor())
        if wrong.any():
            row = int(wrong.view(len(raw), -1).any(1).int().argmax())
            value = raw.values[row].as_py()
            raise raw.refused(row, "must hold whole numbers", "write positions from 0", value)
        numbers = numbers.nan_to_num(MISSING)
    return Column(numbers.long().view(len(raw), -1)), ()


def unknown_column(like: Column, count: int) -> Column:
    """A target of so many rows none of which is known, as of a source without labels."""
    values = like.values
    if like.offsets is not None:
        return Column(values[:0], torch.zeros(count + 1, dtype=torch.int64), like.pad)
    fill = torch.nan if values.is_floating_point() else MISSING
    return Column(torch.full((count, *values.shape[1:]), fill, dtype=values.dtype))


def group_values(raw: Raw) -> NDArray[Any]:
    """What each row belongs to, (N,) texts.

    Raises:
        InputError: the column holds lists or arrays.
    """
    try:
        texts = raw.values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise raw.refused(
            0, f"holds {raw.values.type}, no groups", "name a column of names or numbers", None
        ) from None
    return np.array(texts.to_pylist(), dtype=str)


def time_values(raw: Raw) -> NDArray[Any]:
    """When each row was, (N,) numbers: of dates and of texts such as 2024-05-31T12:00 nanoseconds,
    numbers as they are.

    Raises:
        InputError: a row has none, or no time can be made of it.
    """
    missing = raw.missing()
    if missing.any():
        row = int(missing.argmax())
        raise raw.refused(row, "has no time", "fill it in, or leave the row out", None)
    values = raw.values
    try:
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = _times_of_texts(values)
        elif not pa.types.is_integer(values.type) and not pa.types.is_floating(values.type):
            values = values.cast(pa.timestamp("ns"), safe=False).cast(pa.int64())
        return np.asarray(values.to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise raw.refused(
            0,
            f"holds {raw.values.type}, and no times can be made of them"
            f" ({' '.join(str(error).split())})",
            "name a column of numbers, or of dates such as 2024-05-31 or 2024-05-31T12:00:00",
            None,
        ) from None


def _times_of_texts(values: Any) -> Any:
    """Texts of numbers as numbers, others as nanoseconds."""
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return values.cast(pa.timestamp("ns")).cast(pa.int64())
