"""The order of examples: whole passes, like lengths together, the same for the same seed."""

from __future__ import annotations

import torch

from pdo_search.distill.order import epoch_batches

ADMITTED = torch.arange(5, 505)


def test_every_admitted_example_comes_once_in_a_pass() -> None:
    batches = epoch_batches(ADMITTED, 75, 10, lengths=None, seed=1, epoch=0)
    assert [len(batch) for batch in batches] == [10] * 75
    seen = torch.cat(batches)
    assert torch.equal(seen[:500].sort().values, ADMITTED)
    assert len(set(seen[500:].tolist())) == 250


def test_like_lengths_come_together_and_batches_in_no_order_of_length() -> None:
    lengths = torch.randint(1, 100, (505,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(ADMITTED, 50, 10, lengths=lengths, seed=1, epoch=0)
    assert torch.equal(torch.cat(batches).sort().values, ADMITTED)
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    assert padded < 1.05 * int(lengths[ADMITTED].sum())
    longest = [int(lengths[b].max()) for b in batches]
    assert longest != sorted(longest)
    again = epoch_batches(ADMITTED, 50, 10, lengths=lengths, seed=1, epoch=0)
    other = epoch_batches(ADMITTED, 50, 10, lengths=lengths, seed=1, epoch=1)
    assert torch.equal(torch.cat(batches), torch.cat(again))
    assert not torch.equal(torch.cat(batches), torch.cat(other))
