"""What a model costs: attention counts, and nothing is measured twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.config.model import ModelConfig
from pdo_search.models import cost
from pdo_search.models.cost import Cost

from ..pictures import cost_of, measure_cost

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


class Attention(nn.Module):
    """Attention of every pixel to every pixel, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


def test_attentions_two_products_are_counted() -> None:
    tokens, width = 64, 3
    assert measure_cost(Attention(), SHAPE, CPU).flops == 2 * 2 * tokens * tokens * width


def test_every_product_of_a_vision_transformer_is_counted() -> None:
    from torchvision.models import VisionTransformer

    layers, width, hidden, classes = 2, 32, 64, 10
    model = VisionTransformer(16, 4, layers, 2, width, hidden, num_classes=classes)
    tokens = (16 // 4) ** 2 + 1
    projections = tokens * width * (4 * width + 2 * hidden)
    attention = 2 * tokens * tokens * width
    patches, head = (tokens - 1) * width * 3 * 4 * 4, width * classes
    expected = 2 * (layers * (projections + attention) + patches + head)
    assert measure_cost(model, (3, 16, 16), CPU).flops == expected


def test_an_architecture_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[nn.Module] = []
    real = cost.cost_of_run

    def noted(model: nn.Module, *more: Any) -> Cost:
        measured.append(model)
        return real(model, *more)

    monkeypatch.setattr(cost, "_COSTS", {})
    monkeypatch.setattr(cost, "cost_of_run", noted)
    arch = ModelConfig(arch="small_convnet", width=4)

    def model(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(width * 36, 2))

    first = cost_of(model(4), arch, SHAPE, CPU)
    assert cost_of(model(4), arch.model_copy(update={"dropout": 0.3}), SHAPE, CPU) == first
    assert len(measured) == 1
    pruned = cost_of(model(3), arch, SHAPE, CPU)
    assert pruned.params < first.params
    assert len(measured) == 2
    cost_of(model(4), arch.model_copy(update={"args": {"norm": "none"}}), SHAPE, CPU)
    assert len(measured) == 3
