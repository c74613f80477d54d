"""Columns gather the same rows as a loop does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pdo_search.base.columns import Column, Taught

ROWS = [torch.arange(n * 2.0).view(n, 2) + 10 * n for n in (3, 1, 0, 5)]
PAD = -7.0


def padded(rows: list[Tensor]) -> Tensor:
    out = torch.full((len(rows), max(len(r) for r in rows), 2), PAD)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 1], [2], [1, 1, 0]])
def test_a_ragged_column_pads_to_the_longest_row_taken(index: list[int]) -> None:
    column, rows = Column.ragged(ROWS, PAD), torch.tensor(index)
    wanted = padded([ROWS[i] for i in index])
    assert torch.equal(column.take(rows), wanted)
    assert torch.equal(column.mask(rows), (wanted != PAD).all(-1))
    assert column.lengths(rows).tolist() == [len(ROWS[i]) for i in index]
    assert column.nbytes(rows) == 8 * sum(len(ROWS[i]) for i in index)
    chosen = column.select(rows)
    assert torch.equal(chosen.take(slice(None)), wanted)
    both = column.followed_by(chosen)
    assert torch.equal(both.take(torch.arange(4, 4 + len(index))), wanted)


def test_a_dense_column_is_its_values() -> None:
    column = Column(torch.arange(12.0).view(4, 3))
    rows = torch.tensor([2, 0])
    assert torch.equal(column.take(rows), column.values[rows])
    assert torch.equal(column.select(rows).values, column.values[rows])
    assert not column.is_ragged
    assert len(column.followed_by(column)) == 8


def test_what_is_not_kept_of_a_head_stands_at_the_rest() -> None:
    taught = Taught(torch.tensor([[5.0, 4.0]]), torch.tensor([[3, 0]]), torch.tensor([[-1.0]]))
    assert taught.dense(5).tolist() == [[4.0, -1.0, -1.0, 5.0, -1.0]]


def test_positions_go_where_a_mask_has_them() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    taught = Taught(values, values.long(), values[..., :1])
    mask = torch.tensor([[False, True, False, True, False], [True, True, False, False, True]])
    placed = taught.placed(mask)
    assert placed.index is not None
    assert placed.rest is not None
    assert placed.values[mask].tolist() == [*values[0, :2].tolist(), *values[1].tolist()]
    assert torch.equal(placed.index[mask], placed.values[mask].long())
    assert torch.equal(placed.rest[mask], placed.values[mask][:, :1])
    assert torch.equal(taught.placed(torch.ones(2, 3, dtype=torch.bool)).values, values)
