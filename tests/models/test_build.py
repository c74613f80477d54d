"""Models by name and factory, their stems, heads and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig, TeacherConfig
from pdo_search.config.training import TrainConfig
from pdo_search.models.build import set_dropout

from ..pictures import build_model

SHAPE = (1, 28, 28)


def build(arch: str, shape: tuple[int, int, int] = SHAPE, classes: int = 7, **more: Any) -> Any:
    keywords = {k: more.pop(k) for k in ("base_dir", "seed") if k in more}
    config = ModelConfig(arch=arch, **more)
    return build_model(config, shape, classes, **{"seed": 0, **keywords})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize(
    "arch",
    ["resnet18", pytest.param("vgg11_bn", marks=pytest.mark.slow), "mobilenet_v2",
     "mobilenet_v3_small", "shufflenet_v2_x0_5", "small_resnet", "small_convnet"],
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


def given_or_trained(trained: bool, **config: Any) -> TeacherConfig:
    return TeacherConfig(**config, train=TrainConfig() if trained else None)


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
    """Named weights of ResNet-18, as if they had been fetched before."""
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state: dict[str, Tensor] = resnet18().state_dict()
    torch.save(state, tmp_path / "hub/checkpoints" / file)
    return state


def test_named_weights_leave_nothing_at_random_that_nobody_trains(
    downloaded: dict[str, Tensor],
) -> None:
    named = {"arch": "resnet18", "weights": "IMAGENET1K_V1"}

    def built(trained: bool, shape: tuple[int, int, int], classes: int) -> tuple[Any, list[str]]:
        said: list[str] = []
        config = given_or_trained(trained, **named)
        model = build_model(config, shape, classes, seed=0, path="teacher", say=said.append)
        return model, said

    for shape, classes, new in (((3, 64, 64), 7, "fc"), ((3, 32, 32), 1000, "conv1"),
                                ((1, 32, 32), 7, "conv1, fc")):  # fmt: skip
        with pytest.raises(InputError, match=rf"have nothing for {new}, ") as caught:
            built(False, shape, classes)
        for part in ("teacher.weights", "IMAGENET1K_V1", "`teacher.train`"):
            assert part in str(caught.value)
        _, said = built(True, shape, classes)
        assert [f"({new})" in line for line in said] == [True]
    # A grey stem is the sum of the colours' filters: made of the weights, not of noise.
    grey, said = built(False, (1, 64, 64), 1000)
    assert said == []
    expected = downloaded["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.conv1.weight, expected)


FACTORY = """
from torch import nn

def linear(num_outputs, input_shape, bias=True):
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_outputs, bias=bias))

def wrong(num_outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_outputs + 1))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Linear(32, 1000))

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


def test_a_factory_of_fixed_classes_gets_a_new_head_where_one_is_trained(tmp_path: Path) -> None:
    (tmp_path / "fixed_models_for_test.py").write_text(FACTORY)
    said: list[str] = []
    trained = given_or_trained(True, arch="fixed_models_for_test:fixed")
    model: Any = build_model(trained, SHAPE, 7, seed=0, base_dir=tmp_path, say=said.append)
    assert model(torch.zeros(4, *SHAPE)).shape == (4, 7)
    assert "new head for 7 classes" in said[0]
    given = given_or_trained(False, arch="fixed_models_for_test:fixed")
    with pytest.raises(InputError, match=r"to \(2, 1000\), not to \(2, 7\)"):
        build_model(given, SHAPE, 7, seed=0, base_dir=tmp_path)


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InputError, match=r"did you mean.*resnet"):
        build("resnt18")
