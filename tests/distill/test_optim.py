"""Clipping gradients does what torch's own function does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdo_search.distill.optim import clip_gradients


def _model_with_gradients(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    for parameter in list(model.parameters())[:-1]:
        parameter.grad = scale * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("scale", [1e-3, 10.0, float("nan")])
def test_same_as_torch(scale: float) -> None:
    ours, theirs = _model_with_gradients(scale), _model_with_gradients(scale)
    clip_gradients(list(ours.parameters()), 1.0)
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None and other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0, equal_nan=True)
