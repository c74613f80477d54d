"""Models by name and factory, their stems, heads and checkpoints."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig
from pdo_search.errors import InputError
from pdo_search.tasks.models import build_model, load_weights, set_dropout

SHAPE = (1, 28, 28)


def build(arch: str, shape: tuple[int, int, int] = SHAPE, classes: int = 7, **more: Any) -> Any:
    keywords = {k: more.pop(k) for k in ("base_dir", "seed") if k in more}
    config = ModelConfig(arch=arch, **more)
    return build_model(config, shape, classes, **{"seed": 0, **keywords})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize(
    "arch",
    ["resnet18", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
     "small_resnet", "small_convnet"],
)  # fmt: skip
def test_every_family_takes_small_pictures(arch: str, shape: tuple[int, int, int]) -> None:
    model = build(arch, shape).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_a_stem_for_small_pictures_keeps_resolution() -> None:
    small, large = build("resnet18", (3, 32, 32)), build("resnet18", (3, 224, 224))
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.stride == (2, 2)


def test_weights_repeat_by_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (build("small_resnet", seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_width_depth_and_dropout() -> None:
    narrow, wide = build("small_resnet", width=8), build("small_resnet", width=16, depth=3)
    params = [sum(p.numel() for p in m.parameters()) for m in (narrow, wide)]
    assert params[1] > 4 * params[0]
    assert set_dropout(wide, 0.25)
    assert wide.dropout.p == 0.25
    assert not set_dropout(nn.Linear(2, 2), 0.5)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_is_loaded(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    source = build("small_convnet", seed=3)
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        state = {f"module.{k}": v for k, v in source.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        save_file(source.state_dict(), file)
    model = build("small_convnet", weights=file.name, base_dir=tmp_path)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path: Path) -> None:
    model = build("small_convnet")
    state = model.state_dict()
    state["head.weight"] = torch.zeros(3, 64)
    state["tail.weight"] = state.pop("head.bias")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_weights(model, tmp_path / "w.pt", path="student.weights")
    message = str(caught.value)
    for part in ("missing: head.bias", "unexpected: tail.weight", "head.weight (3, 64) for (7, 64)",
                 "student.weights"):  # fmt: skip
        assert part in message


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path, writer: str) -> None:
    file, target = tmp_path / "w.pt", tmp_path / "owned"
    if writer == "torch":
        torch.save({"head": Hostile(target)}, file)
    else:
        file.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(build("small_convnet"), file, path="student.weights")
    assert not target.exists()


FACTORY = """
from torch import nn

def linear(num_outputs, input_shape, bias=True):
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_outputs, bias=bias))

def wrong(num_outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_outputs + 1))

def nothing():
    return None
"""


def test_a_factory_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "my_models_for_test.py").write_text(FACTORY)
    model = build("my_models_for_test:linear", args={"bias": False}, base_dir=tmp_path)
    output: Tensor = model(torch.zeros(4, *SHAPE))
    assert output.shape == (4, 7)
    assert model[1].bias is None
    with pytest.raises(InputError, match=r"to \(2, 8\), not to \(2, 7\)"):
        build("my_models_for_test:wrong", base_dir=tmp_path)
    with pytest.raises(InputError, match="returned NoneType"):
        build("my_models_for_test:nothing", base_dir=tmp_path)
    with pytest.raises(InputError, match="no function 'absent'"):
        build("my_models_for_test:absent", base_dir=tmp_path)


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InputError, match=r"did you mean.*resnet"):
        build("resnt18")
