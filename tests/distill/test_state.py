"""The state is the checkpoint: it comes back whole, or not at all."""

from __future__ import annotations

import pytest
import torch

from pdo_search.base.errors import StoreError
from pdo_search.config.recipe import Recipe
from pdo_search.distill.adapt import Hyperparameters
from pdo_search.distill.stage import plan_stages
from pdo_search.distill.state import TrialState, pack, unpack


def make_state() -> TrialState:
    return TrialState(
        plan=plan_stages(Recipe(num_stages=3)),
        tuning=Hyperparameters(0.7, 1e-3, 0.02, 0.1),
        epoch=5,
        position=1,
        values=[0.5, 0.6],
        entered_at=0.4,
        scores=torch.arange(3.0),
        model={"w": torch.ones(2, 2)},
        reports=[{"metrics": {"epoch": 1, "done": False}, "rows": {"epochs": [{"epoch": 1}]}}],
    )


def test_comes_back_whole() -> None:
    state = make_state()
    again = unpack(pack(state, "key"), "key")
    assert torch.equal(again.scores, state.scores)  # type: ignore[arg-type]
    assert torch.equal(again.model["w"], state.model["w"])
    for name in ("plan", "tuning", "epoch", "position", "values", "entered_at", "reports"):
        assert getattr(again, name) == getattr(state, name)


@pytest.mark.parametrize("at", [3, 40, -10])
def test_a_flipped_byte_is_noticed(at: int) -> None:
    sealed = bytearray(pack(make_state(), "key"))
    sealed[at] ^= 1
    with pytest.raises(StoreError, match="damaged"):
        unpack(bytes(sealed), "key")


def test_a_truncated_checkpoint_is_noticed() -> None:
    with pytest.raises(StoreError, match="damaged"):
        unpack(pack(make_state(), "key")[:-100], "key")


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    with pytest.raises(StoreError, match="another configuration"):
        unpack(pack(make_state(), "key"), "other")
