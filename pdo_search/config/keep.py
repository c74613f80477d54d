"""What stays of a model: the ``keep`` and ``shrink`` of a student as exact amounts by unit."""

from __future__ import annotations

from fractions import Fraction

from pdo_search.config.model import StudentConfig

__all__ = ["ALL", "Amount", "keep_of"]

Amount = Fraction | int
"""A share below 1, or a count: of what stays."""
ALL = "all"
"""The unit of a bare share: channels, or a transformer's attention heads and neurons."""


def keep_of(student: StudentConfig) -> dict[str, Amount]:
    """What a student keeps, by unit; nothing where it is whole.

    ``shrink`` is the share of channels that goes. Shares are those of the decimals as written, so
    that 0.3 of which 0.7 are kept is 0.3 again.
    """
    if student.shrink is not None:
        return {"channels": 1 - Fraction(repr(student.shrink))}
    if student.keep is None:
        return {}
    if isinstance(student.keep, float):
        return {ALL: Fraction(repr(student.keep))}
    given = student.keep.model_dump(exclude_none=True)
    return {unit: Fraction(repr(v)) if isinstance(v, float) else v for unit, v in given.items()}
