"""Models by name and factory, their stems, heads and checkpoints."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig, TeacherConfig, TrainConfig
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


def given_or_trained(trained: bool, **config: Any) -> TeacherConfig:
    return TeacherConfig(**config, train=TrainConfig() if trained else None)


def test_a_checkpoint_of_other_classes_gets_a_new_head_where_one_is_trained(tmp_path: Path) -> None:
    source = build("small_resnet", classes=3, seed=3)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    said: list[str] = []
    for config in (
        given_or_trained(True, arch="small_resnet", weights="w.pt"),
        ModelConfig(arch="small_resnet", weights="w.pt"),  # As a student's.
    ):
        model = build_model(config, SHAPE, 7, seed=0, base_dir=tmp_path, say=said.append)
        state = model.state_dict()
        assert state["head.weight"].shape[0] == 7
        kept = [k for k in state if not k.startswith("head.")]
        assert all(torch.equal(state[k], source.state_dict()[k]) for k in kept)
    assert len(said) == 2
    assert "new head for 7 classes (head) on the weights of w.pt" in said[0]
    given = given_or_trained(False, arch="small_resnet", weights="w.pt")
    with pytest.raises(InputError, match="nothing trains a new head") as caught:
        build_model(given, SHAPE, 7, seed=0, base_dir=tmp_path, path="teacher")
    for part in ("w.pt", "teacher.weights", "head.bias (3,) for (7,)", "`teacher.train`"):
        assert part in str(caught.value)


def test_a_body_of_another_shape_gets_no_new_head(tmp_path: Path) -> None:
    torch.save(build("small_resnet", classes=3, width=8).state_dict(), tmp_path / "w.pt")
    config = given_or_trained(True, arch="small_resnet", width=12, weights="w.pt")
    with pytest.raises(InputError, match="does not fit the model; of another shape: stem"):
        build_model(config, SHAPE, 7, seed=0, base_dir=tmp_path)


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
