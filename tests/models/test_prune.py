"""Surgery on teachers: tensors really get smaller, or the reason is said."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pdo_search.base.errors import Infeasible
from pdo_search.config.model import ModelConfig
from pdo_search.models.prune import drop_blocks, droppable_blocks, prune_channels, time_limit

from ..pictures import build_model, measure_cost

SHAPE = (3, 32, 32)
CPU = torch.device("cpu")


def build(arch: str, **settings: int) -> nn.Module:
    return build_model(ModelConfig(arch=arch, **settings), SHAPE, 5, seed=0)


@pytest.mark.parametrize(
    "arch",
    [
        "resnet18",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("vgg16_bn", marks=pytest.mark.slow),
        "mobilenet_v2",
        "small_resnet",
        "small_convnet",
    ],
)
def test_params_and_flops_fall_by_measurement(arch: str) -> None:
    model = build(arch)
    before = measure_cost(model, SHAPE, CPU)
    prune_channels(model, torch.zeros(1, *SHAPE), 0.5, 4, timeout_s=60)
    after = measure_cost(model, SHAPE, CPU)
    # Half of the channels on both sides of a layer leave about a quarter of its weights.
    assert after.params < 0.45 * before.params
    assert after.flops < 0.45 * before.flops
    assert model(torch.zeros(2, *SHAPE)).shape == (2, 5)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 4 == 0 for width in widths)


@pytest.mark.parametrize(
    ("round_to", "ratio", "widths"), [(4, 0.1, [8, 16, 28]), (1, 0.5, [4, 8, 16])]
)
def test_channel_counts_are_rounded_to_the_nearest_multiple(
    round_to: int, ratio: float, widths: list[int]
) -> None:
    model = build("small_resnet", width=8, depth=1)
    prune_channels(model, torch.zeros(1, *SHAPE), ratio, round_to, timeout_s=60)
    found = [model.get_submodule(f"blocks.{i}.conv2").out_channels for i in range(3)]
    assert found == widths


def test_a_ratio_of_nothing_changes_nothing() -> None:
    model = build("small_resnet")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prune_channels(model, torch.zeros(1, *SHAPE), 0.0, 4, timeout_s=60)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_architecture_that_cannot_be_pruned_is_infeasible() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.norm(self.conv(x)).mean((2, 3))
            logits: torch.Tensor = self.head(features.view(-1, 8))
            return logits

    with pytest.raises(Infeasible, match=r"Fixed cannot be pruned by 0\.5"):
        prune_channels(Fixed(), torch.zeros(1, *SHAPE), 0.5, 1, timeout_s=60)


def test_a_time_limit_ends_a_busy_thread() -> None:
    def wait() -> None:
        with time_limit(0.1, "waiting"):
            while time.monotonic() - started < 10:
                sum(range(1000))

    started = time.monotonic()
    with pytest.raises(Infeasible, match=r"waiting took longer than 0\.1 s"):
        wait()
    assert time.monotonic() - started < 5


def test_the_blocks_dropped_are_those_that_matter_least() -> None:
    model = build("small_resnet", depth=3)
    batch = torch.randn(16, *SHAPE)
    candidates = droppable_blocks(model, batch[:1])
    # The first block of the later stages changes the shape, so it stays.
    assert candidates == [f"blocks.{i}" for i in (0, 1, 2, 4, 5, 7, 8)]
    with torch.no_grad():
        model.get_parameter("blocks.4.bn2.weight").zero_()
        model.get_parameter("blocks.4.bn2.bias").zero_()
    assert drop_blocks(model, batch, 1) == ("blocks.4",)
    assert isinstance(model.get_submodule("blocks.4"), nn.Identity)
    assert len(droppable_blocks(model, batch[:1])) == 6


def test_a_model_without_residual_blocks_keeps_its_layers() -> None:
    assert drop_blocks(build("vgg11_bn"), torch.randn(2, *SHAPE), 2) == ()
