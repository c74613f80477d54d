"""Hashes of examples' contents, by which copies are found. Knows nothing of splits and sources.

A picture's hash is that of its shape, its type and its numbers: equal hashes are equal pictures, as
a model gets them. A copy that differs in one bit, as one of another compression does, is another
picture. The same holds for examples of any columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.columns import Column

__all__ = ["HASH", "Hashes", "column_hashes", "content_hashes", "hasher"]

Hashes = NDArray[np.bytes_]
"""(N,) of ``HASH``. Python drops the zero bytes at an element's end, comparisons in NumPy do not
care: all have one length."""
HASH = np.dtype("S16")
CHUNK = 1_024


def hasher(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[Any], bytes]:
    """A function from the bytes of a picture (any contiguous buffer) to its hash.

    Args:
        shape: of every picture, (C, H, W).
        dtype: of its numbers.
    """
    head = hashlib.blake2b(f"{shape} {dtype.str} ".encode(), digest_size=HASH.itemsize)

    def hash_of(picture: Any) -> bytes:
        digest = head.copy()
        digest.update(picture)
        return digest.digest()

    return hash_of


def content_hashes(inputs: NDArray[Any]) -> Hashes:
    """The hashes (N,) of pictures (N, C, H, W): 0.1 s for 70,000 of 28 x 28 bytes."""
    hash_of = hasher(inputs.shape[1:], inputs.dtype)
    found: list[bytes] = []
    for first in range(0, len(inputs), CHUNK):
        part = np.ascontiguousarray(inputs[first : first + CHUNK])
        found += map(hash_of, _bits(part).reshape(len(part), -1).view(np.uint8))
    return np.frombuffer(b"".join(found), HASH)


def _bits(part: NDArray[Any]) -> NDArray[Any]:
    """Numbers that are equal in every bit where they are equal: -0 and 0 are not."""
    return part + np.zeros((), part.dtype) if part.dtype.kind == "f" else part


def column_hashes(columns: Mapping[str, Column]) -> Hashes:
    """The hashes (M,) of the rows of columns, of all of them together; names count, order does not.

    About two seconds for a million rows of one column.
    """
    heads = [
        f"{name} {tuple(columns[name].values.shape[1:])} {columns[name].values.dtype} ".encode()
        for name in sorted(columns)
    ]
    rows = zip(*(_row_bytes(columns[name]) for name in sorted(columns)), strict=True)
    found = []
    for row in rows:
        digest = hashlib.blake2b(digest_size=HASH.itemsize)
        for head, part in zip(heads, row, strict=True):
            digest.update(head)
            digest.update(len(part).to_bytes(8, "little"))  # Where one column ends, and the next
            digest.update(part)  # begins, is part of what they say.
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), HASH)


def _row_bytes(column: Column) -> Iterator[bytes]:
    """The bytes of each row's numbers."""
    for first in range(0, len(column), CHUNK):
        last = min(first + CHUNK, len(column))
        bounds = np.arange(first, last + 1)
        if column.offsets is not None:
            bounds = column.offsets[first : last + 1].numpy()
        start = int(bounds[0])
        part = _bits(np.ascontiguousarray(column.values[start : int(bounds[-1])].numpy()))
        size = part.itemsize * int(np.prod(part.shape[1:]))
        content = part.tobytes()
        for begin, end in zip(bounds[:-1] - start, bounds[1:] - start, strict=True):
            yield content[begin * size : end * size]
