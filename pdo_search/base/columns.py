"""Columns: one field of many examples, dense or ragged, and what a teacher says about them.

Legend: M rows, B in a batch, L positions (padded), S positions of all rows, K size of a head, k
classes kept of it. Knows no task and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Column", "Taught"]

_EVERYTHING = slice(None)


@dataclass(frozen=True, eq=False)
class Column:
    """One field of M rows.

    Attributes:
        values: (M, …) one entry per row; or (S, …) all positions, row after row. In memory, on a
            device, or a mapped file that is larger than memory.
        offsets: (M + 1,) int64, where each row's positions begin; None where there is one entry per
            row.
        pad: what a batch of rows of different lengths is filled up with.
    """

    values: Tensor
    offsets: Tensor | None = None
    pad: float = 0

    @classmethod
    def ragged(cls, rows: Sequence[Tensor], pad: float = 0) -> Column:
        """A column of rows (L_i, …) of different lengths."""
        lengths = torch.tensor([0] + [len(row) for row in rows])
        return cls(torch.cat(list(rows)), lengths.cumsum(0), pad)

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def is_ragged(self) -> bool:
        """Whether rows have positions, and each a number of its own."""
        return self.offsets is not None

    def lengths(self, rows: Tensor | slice = _EVERYTHING) -> Tensor:
        """(B,) int64, positions of rows of a ragged column."""
        assert self.offsets is not None
        if not isinstance(rows, slice):
            rows = rows.to(self.offsets.device)
        return self.offsets[1:][rows] - self.offsets[:-1][rows]

    def take(self, rows: Tensor | slice) -> Tensor:
        """Entries (B, …), or (B, L, …) with the shorter rows padded at their ends.

        Args:
            rows: (B,) int64, on any device, or a range.
        """
        if self.offsets is None:
            if isinstance(rows, slice):
                return self.values[rows]
            return self.values.index_select(0, rows.to(self.values.device))
        at, mask = self._places(rows)
        taken = self.values[at.clamp(max=len(self.values) - 1)]
        taken[~mask] = self.pad
        return taken

    def _places(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(B, L) positions of rows, and which of them are the rows' own."""
        assert self.offsets is not None
        mask = _within(self.lengths(rows))
        if not isinstance(rows, slice):
            rows = rows.to(self.offsets.device)
        return self.offsets[:-1][rows][:, None] + torch.arange(
            mask.shape[1], device=mask.device
        ), mask

    def mask(self, rows: Tensor | slice) -> Tensor:
        """(B, L) bool: which positions of ``take`` are the rows' own."""
        return _within(self.lengths(rows))

    def nbytes(self, rows: Tensor | None = None) -> int:
        """Size of the values of rows, by default of all."""
        if len(self.values) == 0:
            return 0
        count = len(self.values) if rows is None else len(rows)
        if rows is not None and self.offsets is not None:
            count = int(self.lengths(rows).sum())
        return count * self.values[0].nbytes

    def select(self, rows: Tensor) -> Column:
        """A column of rows (B,) alone: copies their values."""
        if self.offsets is None:
            return Column(self.values[rows], None, self.pad)
        at, mask = self._places(rows)
        begins = torch.cat([self.offsets[:1] * 0, self.lengths(rows).cumsum(0)])
        return Column(self.values[at[mask]], begins, self.pad)

    def followed_by(self, other: Column) -> Column:
        """These rows, then another column's."""
        values = torch.cat([self.values, other.values])
        if self.offsets is None or other.offsets is None:
            assert self.offsets is other.offsets
            return Column(values, None, self.pad)
        after = other.offsets[1:] + self.offsets[-1]
        return Column(values, torch.cat([self.offsets, after]), self.pad)

    def to(self, device: torch.device) -> Column:
        """The same column on a device."""
        offsets = None if self.offsets is None else self.offsets.to(device)
        return Column(self.values.to(device), offsets, self.pad)


def _within(lengths: Tensor) -> Tensor:
    """(B, L) bool: the first of L positions, as many as each row has."""
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, eq=False)
class Taught:
    """What a teacher says about a batch with one head.

    Attributes:
        values: (B, K) or (B, L, K), outputs as the model gives them; of a head that is stored
            sparsely, (B, k) or (B, L, k) of the classes in ``index`` alone.
        index: int64 of the shape of ``values``, the classes that are kept; None for all of them.
        rest: (B, 1) or (B, L, 1), the level at which all other classes stand, so that the mean of
            their exponentials at the temperature asked for is right; None where all are kept, or
            where none of the others counts (``sampled``).
        sampled: whether ``index`` was drawn by the teacher's probabilities, so that ``values`` are
            log-probabilities and every draw counts alike.
    """

    values: Tensor
    index: Tensor | None = None
    rest: Tensor | None = None
    sampled: bool = False

    def dense(self, size: int) -> Tensor:
        """Outputs (B, …, K): every class that is not kept at the level of the rest."""
        if self.index is None:
            return self.values
        assert self.rest is not None, "of sampled classes no dense outputs are known"
        shape = (*self.values.shape[:-1], size)
        return self.rest.expand(shape).scatter(-1, self.index, self.values)

    def to(self, device: torch.device) -> Taught:
        """The same on a device."""
        parts = (self.values, self.index, self.rest)
        values, index, rest = (None if p is None else p.to(device) for p in parts)
        assert values is not None
        return Taught(values, index, rest, self.sampled)
