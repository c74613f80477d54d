"""Hashes of pictures' contents, by which copies are found. Knows nothing of splits and sources.

A picture's hash is that of its shape, its type and its numbers: equal hashes are equal pictures, as
a model gets them. A copy that differs in one bit, as one of another compression does, is another
picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HASH", "Hashes", "content_hashes", "hasher"]

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
        if part.dtype.kind == "f":
            part = part + np.zeros((), part.dtype)  # -0 and 0 differ in a bit, and nowhere else.
        found += map(hash_of, part.reshape(len(part), -1).view(np.uint8))
    return np.frombuffer(b"".join(found), HASH)
