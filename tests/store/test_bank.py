"""The bank: what it gives back, how exactly, and that it is built once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.errors import PdoError
from pdo_search.store import Store
from pdo_search.store.bank import Bank, bank

VIEWS, EXAMPLES, CLASSES = 3, 5000, 10


def logits(scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(VIEWS, EXAMPLES, CLASSES, generator=generator) * 2 - 1) * scale


def opened(root: Path, values: Tensor, calls: list[int] | None = None) -> Bank:
    def outputs(view: int, rows: slice) -> Mapping[str, Tensor]:
        if calls is not None:
            calls.append(view)
        return {"class": values[view, rows]}

    return bank(
        Store(root),
        teacher_key="t",
        task_fingerprint="f",
        split_name="train",
        num_views=VIEWS,
        num_examples=EXAMPLES,
        heads={"class": CLASSES},
        outputs=outputs,
    )


def test_rows_by_view_and_position(tmp_path: Path) -> None:
    values = logits(8.0)
    views, rows = torch.tensor([0, 2, 1, 2]), torch.tensor([4999, 0, 4096, 17])
    found = opened(tmp_path, values).rows("class", views, rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, values[views, rows].half().float())


def test_it_is_built_once(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(3):
        opened(tmp_path, logits(1.0), calls)
    assert sorted(set(calls)) == [0, 1, 2]
    assert len(calls) == VIEWS * 2


@pytest.mark.parametrize(("scale", "bound"), [(8.0, 3e-6), (32.0, 5e-5)])
def test_half_precision_costs_next_to_nothing(tmp_path: Path, scale: float, bound: float) -> None:
    values = logits(scale)
    everything = torch.arange(EXAMPLES)
    found = opened(tmp_path, values).rows("class", torch.zeros_like(everything), everything)
    exact, stored = F.log_softmax(values[0].double(), 1), F.log_softmax(found.double(), 1)
    gap = (exact.exp() * (exact - stored)).sum(1)
    assert gap.max() < bound


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = logits(1.0)
    values[1, 7, 3] = float("nan")
    with pytest.raises(PdoError, match="not finite"):
        opened(tmp_path, values)
    assert not list(tmp_path.rglob("*.npy"))


def test_outputs_beyond_half_precision_are_cut_not_infinite(tmp_path: Path) -> None:
    values = logits(1.0)
    values[0, 0, 0] = 1e6
    row = opened(tmp_path, values).rows("class", torch.tensor([0]), torch.tensor([0]))
    assert torch.isfinite(row).all()
    assert row.argmax() == 0
