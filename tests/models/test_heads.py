"""The head is what makes the logits, wherever it stands in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.config.model import ModelConfig
from pdo_search.models.heads import heads_of

from ..pictures import build_model

PICTURES = torch.zeros(2, 3, 16, 16)


class Net(nn.Module):
    """Ways to make five logits of a convolution's features."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 5)
        self.at_pixels = nn.Conv2d(8, 5, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(5)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 5))
        self.body = nn.Conv2d(3, 8, 3)
        self.unused = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.body(x), inplace=True)
        pooled = features.mean((2, 3))
        ways: dict[str, Callable[[], Any]] = {
            "linear": lambda: self.a(pooled),
            "after the head": lambda: self.norm(self.scale * self.a(pooled)),
            "sum": lambda: self.a(pooled) + self.b(pooled),
            "pixels": lambda: F.relu(self.at_pixels(features), inplace=True).mean((2, 3)),
            "parametrized": lambda: self.normed(pooled).log_softmax(1),
            "function": lambda: F.linear(pooled, self.a.weight),
            "twice": lambda: self.a(pooled) + self.a(2 * pooled),
        }
        return ways[self.way]()


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("linear", {"a"}),
        ("after the head", {"a"}),
        ("sum", {"a", "b"}),
        ("pixels", {"at_pixels"}),
        ("parametrized", {"normed"}),
        ("function", set()),
        ("twice", {"a"}),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_head_is_found_by_following_the_logits_back(
    way: str, names: set[str], frozen: bool
) -> None:
    model = Net(way).requires_grad_(not frozen)
    assert set(heads_of(model, PICTURES)) == names
    assert model.training


@pytest.mark.parametrize(
    ("arch", "name"),
    [("squeezenet1_1", "classifier.1"), ("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3"),
     ("densenet121", "classifier"), ("small_resnet", "head")],
)  # fmt: skip
def test_heads_of_known_architectures_fit_the_classes(arch: str, name: str) -> None:
    model = build_model(ModelConfig(arch=arch), (3, 32, 32), 5, seed=0)
    assert set(heads_of(model, torch.zeros(1, 3, 32, 32))) == {name}
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
