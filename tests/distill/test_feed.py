"""Where inputs lie does not change what a loop gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pdo_search.base.columns import Column
from pdo_search.distill import feed
from pdo_search.distill.feed import AHEAD, Feed, load_ahead
from pdo_search.tasks.base import Examples

CPU = torch.device("cpu")


def examples() -> Examples:
    source = torch.arange(40 * 3 * 4 * 4, dtype=torch.int64).to(torch.uint8).view(40, 3, 4, 4)
    columns = {"pixels": Column(source)}, {"class": Column(torch.arange(40) % 4)}
    everything = Examples(*columns, None, torch.arange(40), torch.ones(40, dtype=torch.bool))
    return everything.select(torch.arange(1, 40, 2))


def batches() -> list[torch.Tensor]:
    return list(torch.split(torch.randperm(20, generator=torch.Generator().manual_seed(0)), 6))


def test_inputs_that_do_not_fit_are_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Feed(examples(), CPU)
    monkeypatch.setattr(feed, "LARGEST_ON_CPU", 0)
    far = Feed(examples(), CPU)
    assert near.is_resident
    assert not far.is_resident
    for rows, one, other in zip(batches(), near.batches(batches()), far.batches(batches()),
                                strict=True):  # fmt: skip
        assert torch.equal(one["pixels"], examples().raw_inputs(rows)["pixels"])
        assert torch.equal(other["pixels"], one["pixels"])


def test_loading_runs_ahead_of_the_caller_but_not_away_from_it() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    loaded = load_ahead(lambda item: (item, threading.get_ident()), items())
    first, thread = next(loaded)
    assert first == 0
    assert thread != threading.get_ident()
    assert len(taken) == AHEAD + 1
    loaded.close()  # type: ignore[attr-defined]
    assert [item for item, _ in load_ahead(lambda item: (item, 0), range(10))] == list(range(10))


def test_an_error_of_the_loader_comes_at_its_place() -> None:
    def load(item: int) -> int:
        time.sleep(0.001)
        return 1 // (3 - item)

    loaded = load_ahead(load, range(6))
    assert [next(loaded) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(loaded)
