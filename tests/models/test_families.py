"""Families of architectures: built for small pictures, pruned, stored, and the same when loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.layout import placed
from pdo_search.models.modelfile import load_model_file, save_model
from pdo_search.models.prune import prune_channels

from ..pictures import build_model, picture_spec

CLASSES = tuple("abcde")


def come_back(arch: str, edge: int, ratio: float, folder: Path, args: dict[str, Any]) -> float:
    """Prune a model, store it, compare what is loaded; the share of its parameters that is left."""
    shape = (3, edge, edge)
    config = ModelConfig(arch=arch, args=args)
    model = build_model(config, shape, len(CLASSES), seed=0)
    whole = sum(p.numel() for p in model.parameters())
    prune_channels(model, torch.zeros(1, *shape), ratio, 4, timeout_s=60)
    save_model(folder, model, picture_spec(config, shape, CLASSES))
    loaded, _ = load_model_file(folder)
    pictures = torch.randn(2, *shape)
    with torch.inference_mode():
        expected, found = model.eval()(pictures), loaded.eval()(pictures)
        assert expected.shape == (2, len(CLASSES))
        assert torch.equal(expected, found)
        other = placed(loaded, torch.device("cpu"))(pictures)
    torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-3)
    return sum(p.numel() for p in model.parameters()) / whole


SLOWLY = (pytest.mark.slow, pytest.mark.timeout(240))
Case = tuple[str, int, float, dict[str, Any]]
FAST: list[Case] = [
    ("mnasnet0_5", 32, 0.2, {}),
    ("shufflenet_v2_x0_5", 32, 0.5, {}),
    ("squeezenet1_1", 32, 0.2, {}),
]
SLOW: list[Case] = [
    ("mobilenet_v3_small", 32, 0.2, {}),
    ("googlenet", 32, 0.2, {}),
    ("inception_v3", 96, 0.2, {}),
    ("efficientnet_b0", 32, 0.2, {}),
    ("regnet_x_400mf", 32, 0.2, {}),
    ("regnet_y_400mf", 32, 0.5, {}),
    ("resnext50_32x4d", 32, 0.2, {}),
    ("convnext_tiny", 32, 0.2, {}),
    ("densenet121", 32, 0.2, {}),
    ("vit_b_16", 32, 0.6, {"image_size": 32}),
]


@pytest.mark.parametrize(
    ("arch", "edge", "most", "args"),
    [*FAST, *(pytest.param(*case, marks=SLOWLY) for case in SLOW)],
)
def test_what_is_stored_can_be_loaded(
    arch: str, edge: int, most: float, args: dict[str, Any], tmp_path: Path
) -> None:
    assert come_back(arch, edge, 0.0, tmp_path / "whole", args) == 1
    assert come_back(arch, edge, 0.7, tmp_path / "pruned", args) < most


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_windows_of_attention_cannot_be_pruned(tmp_path: Path) -> None:
    assert come_back("swin_t", 32, 0.0, tmp_path, {}) == 1
    with pytest.raises(Infeasible, match="attention in shifted windows cannot be pruned"):
        come_back("swin_t", 32, 0.5, tmp_path, {})


def test_auxiliary_outputs_are_off_unless_asked_for() -> None:
    model = build_model(ModelConfig(arch="googlenet"), (3, 32, 32), 5, seed=0)
    assert isinstance(model.train()(torch.zeros(2, 3, 32, 32)), torch.Tensor)


def test_a_picture_too_small_for_an_architecture_is_told() -> None:
    with pytest.raises(InputError, match="cannot take pictures") as caught:
        build_model(ModelConfig(arch="inception_v3"), (3, 32, 32), 5, seed=0)
    assert "larger task.data.size" in str(caught.value)
