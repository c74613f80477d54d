"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

__all__ = ["SIZE_REMEDY", "bytes_of", "shown_bytes"]

SIZE_REMEDY = "write 500MB or 10GB (kB, MB, GB, TB, GiB)"
BYTES = {"": 1} | {
    f"{prefix}{unit}": base**power
    for unit, base in (("b", 1000), ("ib", 1024))
    for power, prefix in enumerate(("k", "m", "g", "t"), 1)
}
BYTES["b"] = 1


def bytes_of(text: str) -> int:
    """``500MB``, ``10GB``, ``1.5TB``, ``8GiB`` as bytes.

    Raises:
        ValueError: it is none of them.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in BYTES:
        raise ValueError("is no size")
    return int(float(match[1]) * BYTES[match[2]])


def shown_bytes(count: float) -> str:
    """Such as ``412 KB``, ``3.1 GB``."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
