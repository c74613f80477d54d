"""Stored models: what comes back is what was stored, pruned ones included."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.modelfile import ModelSpec, load_inference, load_model_file, save_model
from pdo_search.models.prune import drop_blocks, prune_channels

from ..pictures import build_model, picture_spec

SHAPE = (3, 32, 32)


def spec(arch: str, dropped: tuple[str, ...] = ()) -> ModelSpec:
    statistics = (120.0,) * 3, (60.0,) * 3
    return picture_spec(
        ModelConfig(arch=arch), SHAPE, "abcd", statistics=statistics, dropped=dropped
    )


@pytest.mark.parametrize(
    "arch",
    ["resnet18", pytest.param("vgg11_bn", marks=pytest.mark.slow), "mobilenet_v2", "small_resnet"],
)
def test_a_pruned_model_comes_back_with_its_shapes_and_outputs(arch: str, tmp_path: Path) -> None:
    model = build_model(ModelConfig(arch=arch), SHAPE, 4, seed=0)
    whole = sum(p.numel() for p in model.parameters())
    prune_channels(model, torch.zeros(1, *SHAPE), 0.3, 4, timeout_s=60)
    dropped = drop_blocks(model, torch.randn(4, *SHAPE), 1)
    assert sum(p.numel() for p in model.parameters()) < 0.8 * whole
    save_model(tmp_path, model, spec(arch, dropped))
    loaded, found = load_model_file(tmp_path)
    assert found.dropped_blocks == dropped
    pictures = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        assert torch.equal(model.eval()(pictures), loaded.eval()(pictures))


def test_inference_takes_pictures_as_the_source_has_them(tmp_path: Path) -> None:
    model = build_model(ModelConfig(arch="small_resnet"), SHAPE, 4, seed=0)
    save_model(tmp_path, model, spec("small_resnet"))
    pictures = torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8)
    with torch.inference_mode():
        expected = copy.deepcopy(model).eval()((pictures.float() - 120) / 60)
        assert torch.allclose(load_inference(tmp_path)(pictures), expected)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    model = build_model(ModelConfig(arch="small_resnet"), SHAPE, 4, seed=0)
    save_model(tmp_path, model, spec("small_resnet"))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="holds no model that can be read"):
        load_model_file(tmp_path)


def test_a_model_of_the_first_format_is_read(tmp_path: Path) -> None:
    model = build_model(ModelConfig(arch="small_resnet"), SHAPE, 4, seed=0)
    save_model(tmp_path, model, spec("small_resnet"))
    file = tmp_path / "model.json"
    now = json.loads(file.read_text())
    inputs, heads = now.pop("inputs"), now.pop("heads")
    inputs.pop("kind")
    first = {**now, **inputs, "num_outputs": heads[0]["size"], "format": 1}
    pictures = torch.rand(2, *SHAPE) * 255
    expected = load_inference(tmp_path)(pictures)
    file.write_text(json.dumps(first))
    found = load_inference(tmp_path)
    assert torch.equal(found(pictures), expected)
    assert found.spec.class_names == tuple("abcd")
    assert set(found.predict(pictures)) <= set("abcd")
