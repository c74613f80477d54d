"""Seeds: every random draw of a trial is a function of the trial's seed and of where it happens, so
that a resumed trial draws what an undisturbed one would have drawn."""

from __future__ import annotations

import hashlib

__all__ = ["seed_for"]


def seed_for(seed: int, *what: object) -> int:
    """A 63-bit seed for one purpose, such as ``seed_for(config.seed, "order", epoch)``."""
    text = "/".join(str(part) for part in (seed, *what))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
