"""Networks of pictures serve tasks of several heads: each gets a linear layer on what was before
the network's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pdo_search
from pdo_search.base.errors import InputError
from pdo_search.config import TrialConfig, parse_experiment, resolve
from pdo_search.config.model import ModelConfig, TeacherConfig
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.build import build_for, build_model
from pdo_search.models.modelfile import InferenceModel, ModelSpec, load_for, save_model
from pdo_search.models.pictured import PictureModel
from pdo_search.models.prune import drop_blocks, droppable_blocks, prune_channels
from pdo_search.tasks.base import Head, HeadKind, Split, Task
from pdo_search.tasks.inputs import Inputs, PictureInputs
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from ..toys import glyphs

NETWORK = "tests.toys.glyphs:network"
ARCHS = {
    "small_convnet": {"width": 4},
    "small_resnet": {"width": 4, "depth": 2},
    "mobilenet_v3_small": {},
    "vgg11": {},
    NETWORK: {"width": 4},
}


def made(arch: str, task: Task, seed: int = 0) -> PictureModel:
    config = ModelConfig(arch=arch, **ARCHS.get(arch, {}))
    model = build_for(task, config, seed=seed, base_dir=Path.cwd())
    assert isinstance(model, PictureModel)
    return model


def scans(task: Task, count: int = 4) -> dict[str, Tensor]:
    return task.prepare(task.examples(Split.TRAIN).raw_inputs(torch.arange(count)))


@pytest.mark.parametrize("arch", [name for name in ARCHS if name != "vgg11"])
def test_each_head_has_a_linear_layer_on_the_networks_states(arch: str) -> None:
    task = glyphs.build()
    model = made(arch, task).eval()
    batch = scans(task)
    found = task.forward(model, batch)
    states = model.network(batch["scan"])
    weights = [[*layer.parameters()] for layer in model.out]
    assert [weight.shape[0] for weight, _ in weights] == [10, 3]
    for (weight, bias), head in zip(weights, task.heads, strict=True):
        torch.testing.assert_close(found[head.name], states @ weight.T + bias)
    torch.testing.assert_close(model(batch["scan"]), torch.cat([*found.values()], dim=1))
    same, other = ([*made(arch, task, seed).out.parameters()] for seed in (0, 1))
    assert all(torch.equal(a, b[0]) for a, b in zip(same[::2], weights, strict=True))
    assert not torch.equal(same[0], other[0])


@pytest.mark.parametrize("arch", ["small_convnet", NETWORK])
def test_one_head_is_the_networks_own(arch: str) -> None:
    task = glyphs.build(heads=1)
    model, batch = made(arch, task).eval(), scans(task)
    assert len(model.out) == 0
    found = task.forward(model, batch)
    assert [*found] == ["digit"]
    plain = PictureInputs((1, 8, 8), tuple("0123456789"), mean=(0.0,), std=(1.0,))
    config = ModelConfig(arch=arch, **ARCHS[arch])
    network = build_model(config, task.heads, plain, seed=0, base_dir=Path.cwd()).eval()
    assert torch.equal(found["digit"], network(batch["scan"]))


def test_channels_and_blocks_are_removed_and_what_is_left_is_loaded(tmp_path: Path) -> None:
    task = glyphs.build()
    config = ModelConfig(arch="small_resnet", width=8, depth=2)
    model = build_for(task, config, seed=0)
    example = scans(task, 1)["scan"]
    before = sum(p.numel() for p in model.parameters())
    prune_channels(model, example, 0.5, 1, timeout_s=60)
    assert droppable_blocks(model, example)
    dropped = drop_blocks(model, scans(task, 8)["scan"], 1)
    assert sum(p.numel() for p in model.parameters()) < 0.5 * before
    found = task.forward(model.eval(), scans(task))
    assert {name: tensor.shape[1] for name, tensor in found.items()} == {"digit": 10, "ink": 3}
    save_model(tmp_path / "model", model, ModelSpec.of(task, config, model, dropped))
    again, _ = load_for(task, tmp_path / "model")
    for name, tensor in task.forward(again.eval(), scans(task)).items():
        torch.testing.assert_close(tensor, found[name])


class TwoLayers(nn.Module):
    """Adds the outputs of two layers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, count), nn.Linear(64, count)

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        found: Tensor = self.a(flat) + self.b(flat)
        return found


def two_layers(num_outputs: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return TwoLayers(num_outputs)


def convolved(num_outputs: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, num_outputs, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("factory", ["two_layers", "convolved"])
def test_a_network_without_one_last_linear_layer_is_refused(factory: str) -> None:
    with pytest.raises(InputError, match="one linear layer makes") as refused:
        made(f"tests.models.test_pictured:{factory}", glyphs.build())
    assert refused.value.path == "student.arch"


def test_what_cannot_be_made_is_refused_with_a_remedy() -> None:
    inputs = Inputs({"scan": (1, 8, 8)})
    config = TeacherConfig(arch=NETWORK)
    with pytest.raises(InputError, match="has new heads, and nothing trains them") as refused:
        build_model(config, glyphs.HEADS, inputs, seed=0, base_dir=Path.cwd(), path="teacher")
    assert refused.value.remedy == "add `teacher.train`"
    everywhere = (Head("box", HeadKind.REGRESSION, 4, positions="scan.mask"),)
    small = ModelConfig(arch="small_convnet")
    with pytest.raises(InputError, match="head box wants one per position"):
        build_model(small, everywhere, inputs, seed=0)
    pictures = PictureInputs((1, 8, 8), tuple("0123456789"), (0.0,), (1.0,))
    with pytest.raises(InputError, match="several heads gives its pictures as an input"):
        build_model(small, glyphs.HEADS, pictures, seed=0)
    for shapes in ({"facts": (12,)}, {"a": (1, 8, 8), "b": (1, 8, 8)}):
        with pytest.raises(InputError, match="is no architecture for these inputs"):
            build_model(small, glyphs.HEADS, Inputs(shapes), seed=0)


def config_with(**trial: Any) -> TrialConfig:
    tree = {
        "name": "glyphs",
        "task": {"kind": "tests.toys.glyphs:build", "metrics": list(glyphs.build().metrics)},
        "teacher": {
            "arch": "small_resnet", "width": 8,
            "train": {"kind": "adamw", "lr": 0.01, "epochs": 6, "batch_size": 32},
        },
        "student": {"arch": "small_convnet", "width": 8},
        "trial": {
            "epochs": 8, "prune_ratio": 0.3, "temperature": 2.0,
            "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 32},
            "simplify": {"recovery_epochs": 3, "max_drop": 1.0},
            **trial,
        },
    }  # fmt: skip
    return resolve(parse_experiment(tree, file=Path("g.yaml"), base_dir=Path.cwd()).experiment, {})


@pytest.mark.slow
def test_two_heads_over_a_network_of_pictures_are_distilled_tested_and_loaded(
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    hints = [{"kind": "pooled", "weight": 0.1}, {"kind": "relation", "teacher": 1, "student": 1}]
    config = config_with(loss={"hints": hints}).model_copy(update={"confirms": True})
    worker = LocalWorker()
    places = Places(str(tmp_path / "store"), str(tmp_path / "sweep"), None, "t0000", 0)
    run_trial(config, worker, places=places)
    last = worker.reports[-1].metrics
    assert last["val_digit.accuracy"] > 0.8  # Ten classes.
    assert last["val_ink.r2"] > 0.4  # A constant: 0.
    levels = [row for r in worker.reports for row in r.rows.get("teachers", [])]
    assert [row["level"] for row in levels] == [0, 1, 2]
    assert levels[0]["params"] > 1.5 * levels[1]["params"] > 2 * levels[2]["params"], levels
    (row,) = worker.reports[-1].rows["confirmations"]
    assert row["test_digit.accuracy"] > 0.8
    student = pdo_search.load_model(tmp_path / "sweep" / "models" / "t0000" / "student")
    assert isinstance(student, InferenceModel)
    task = glyphs.build()
    raw = task.examples(Split.VALIDATION).raw_inputs()
    answers = student.outputs(raw)
    right = answers["digit"].argmax(1) == task.examples(Split.VALIDATION).labels()["target.digit"]
    assert right.float().mean().item() == pytest.approx(last["val_digit.accuracy"], abs=1e-4)
