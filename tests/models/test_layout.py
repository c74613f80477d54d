"""The order of numbers in memory: what cannot take it, or breaks on it, is run in another way."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pdo_search.config.model import ModelConfig
from pdo_search.models.layout import picture_shape, placed

from ..pictures import build_model

CPU = torch.device("cpu")

UPDATES = """
import torch
from pdo_search.config.model import ModelConfig
from pdo_search.models.prune import prune_channels
from pdo_search.models.layout import placed
from tests.pictures import build_model

for case in ((1, 4, 48, 0, 16), (1, 8, 64, 0, 4), (1, 16, 64, 0.5, 4), (8, 8, 16, 0, 2)):
    threads, width, edge, ratio, batch = case
    print(case, flush=True)
    torch.set_num_threads(threads)
    config, shape = ModelConfig(arch="small_resnet", width=width, depth=1), (3, edge, edge)
    model = build_model(config, shape, 3, seed=0)
    prune_channels(model, torch.zeros(1, *shape), ratio, 1, timeout_s=60)
    model = placed(model, torch.device("cpu")).train()
    pictures = torch.randn(batch, edge, edge, 3).permute(0, 3, 1, 2)
    for _ in range(3):
        model(pictures).square().sum().backward()
"""


@pytest.mark.slow
def test_small_strided_convolutions_do_not_end_the_process() -> None:
    found = subprocess.run(
        [sys.executable, "-c", UPDATES], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("kind", ["outputs", "gradients"])
def test_a_placed_model_computes_the_same(kind: str) -> None:
    model = build_model(ModelConfig(arch="small_resnet", width=8), (3, 16, 16), 3, seed=0)
    same = copy.deepcopy(model)
    changed = placed(copy.deepcopy(model), CPU)
    assert changed.get_submodule("blocks.2.shortcut.0").stride == (1, 1)
    pictures = torch.randn(4, 3, 16, 16)
    if kind == "outputs":
        torch.testing.assert_close(changed(pictures), same(pictures))
        return
    for one in (changed, same):
        one(pictures).square().sum().backward()
    for (name, found), expected in zip(changed.named_parameters(), same.parameters(), strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=name)
    # Placing is for every place that runs a model: a second time changes nothing.
    again = placed(copy.deepcopy(changed), CPU)
    torch.testing.assert_close(again(pictures), changed(pictures))


VIEWS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, edge, outputs):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4 * edge**2, outputs)

    def forward(self, x):
        return self.head(self.conv(x).view(x.size(0), -1))

def net(num_outputs, input_shape):
    return Net(input_shape[0], input_shape[1], num_outputs)
"""


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_that_views_its_features_keeps_the_contiguous_order(
    channels: int, tmp_path: Path
) -> None:
    (tmp_path / "viewing_models_for_test.py").write_text(VIEWS)
    config, shape = ModelConfig(arch="viewing_models_for_test:net"), (channels, 8, 8)
    model = build_model(config, shape, 3, seed=0, base_dir=tmp_path)
    assert picture_shape(model) == shape
    expected = model(pictures := torch.randn(2, *shape))
    as_prepared = pictures.permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2)
    wrapped = nn.Sequential(placed(copy.deepcopy(model), CPU))
    for one in (model, placed(copy.deepcopy(model), CPU), placed(wrapped, CPU)):
        found: Tensor = one(as_prepared)
        torch.testing.assert_close(found, expected)
        found.sum().backward()  # type: ignore[no-untyped-call]


def test_other_models_are_channels_last() -> None:
    model = build_model(ModelConfig(arch="resnet18"), (3, 32, 32), 3, seed=0)
    weight = placed(model, CPU).get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
