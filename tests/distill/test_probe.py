"""What is found out about a model, and what is done to it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.config.recipe import SimplifyConfig
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.distill.probe import probe
from pdo_search.distill.rehearsal import Removal, rehearse
from pdo_search.models.build import build_for
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(TaskConfig(data=DataConfig(source="digits", limit=200)), None)


class Net(nn.Module):
    """A network that misbehaves in one way."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way = way
        self.body, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)
        self.late = nn.BatchNorm1d(8)
        if way == "spectral":
            nn.utils.parametrizations.spectral_norm(self.body)
        if way == "part frozen":
            self.body.requires_grad_(False)
        if way == "frozen":
            self.requires_grad_(False)
        if way == "not finite":
            nn.init.constant_(self.head.bias, torch.nan)

    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.norm(self.body(x))).mean((2, 3))
        if self.way == "norm of one" and self.training:
            features = self.late(features)
        logits = self.head(features)
        if self.way == "grad":
            torch.set_grad_enabled(False)
        if self.way == "auxiliary" and self.training:
            return logits, features
        return {
            "squeeze": lambda: logits.squeeze(),
            "softmax": lambda: logits.softmax(1),
            "log softmax": lambda: logits.log_softmax(1),
            "detached": lambda: logits.detach(),
            "labels": lambda: logits.argmax(1, keepdim=True).expand(-1, 10),
            "constant": lambda: 0 * logits,
        }.get(self.way, lambda: logits)()


def probed(task: Task, way: str, batch: int | None = 16) -> list[str]:
    torch.manual_seed(0)
    return probe(task, Net(way), ModelConfig(arch="m:net"), "student", batch=batch)


@pytest.mark.parametrize("way", ["", "spectral", "part frozen"])
def test_a_sound_model_passes_and_is_as_it_was(task: Task, way: str) -> None:
    torch.manual_seed(0)
    model = Net(way)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert probe(task, model, ModelConfig(arch="m:net"), "student", batch=16) == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("frozen", "nothing to train"),
        ("not finite", "not finite"),
        ("squeeze", r"maps a batch of 1 to \(10,\), not to \(1, 10\)"),
        ("auxiliary", "in training mode it returns a tuple"),
        ("detached", "no parameter has an effect on its outputs"),
        ("labels", "of torch.int64, not logits"),
        ("grad", "changes torch's default type or whether gradients"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_words(
    task: Task, way: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        probed(task, way)
    assert "student.arch" in str(caught.value)
    assert caught.value.remedy
    assert torch.is_grad_enabled()


def test_a_batch_of_one_is_tried_where_updates_have_one(task: Task) -> None:
    assert probed(task, "norm of one", batch=2) == []
    with pytest.raises(InputError, match="Expected more than 1 value") as caught:
        probed(task, "norm of one", batch=1)
    assert "two examples for each worker" in str(caught.value.remedy)


def test_a_model_that_nothing_trains_needs_no_gradient(task: Task) -> None:
    assert probed(task, "frozen", batch=None) == []


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("softmax", "are probabilities"),
        ("log softmax", "are log-probabilities"),
        ("constant", "the same outputs for all examples"),
    ],
)
def test_what_may_not_be_meant_is_told(task: Task, way: str, line: str) -> None:
    said = probed(task, way)
    assert len(said) == 1
    assert line in said[0]


MODELS = """
import torch
from torch import nn
from torch.nn import functional as F

class Base(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, n)
    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))

class Scaled(Base):
    def __init__(self, n):
        super().__init__(n)
        self.gamma = nn.Parameter(torch.rand(8))
    def forward(self, x):
        x = F.relu(self.a(x)) * self.gamma[:, None, None]
        return self.head(F.relu(self.b(x)).mean((2, 3)))

class Pixels(Base):
    def __init__(self, n):
        super().__init__(n)
        self.head = nn.Conv2d(8, n, 1)
    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x))))).mean((2, 3))

class Instances(Base):
    def __init__(self, n):
        super().__init__(n)
        self.norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    def forward(self, x):
        return self.head(F.relu(self.b(self.norm(self.a(x)))).mean((2, 3)))

class Attention(nn.Module):
    def __init__(self, n, hidden=0):
        super().__init__()
        self.cut, self.norm, self.head = nn.Conv2d(1, 16, 2, 2), nn.LayerNorm(16), nn.Linear(16, n)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential()
        if hidden:
            self.mlp = nn.Sequential(nn.Linear(16, hidden), nn.GELU(), nn.Linear(hidden, 16))
    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.mlp(x).mean(1))

class Hidden(Base):
    count = 0
    def __init__(self, n):
        super().__init__(n)
        Hidden.count += 1
        self.hidden = Hidden.count
    def forward(self, x):
        return super().forward(x) + self.hidden

def net(num_outputs, kind, **more):
    return globals()[kind](num_outputs, **more)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rehearsed_for_test.py").write_text(MODELS)
    return tmp_path


def rehearsed(
    task: Task, folder: Path, kind: str, ratios: tuple[float, ...] = (0.5,), **more: Any
) -> list[str]:
    config = ModelConfig(arch="rehearsed_for_test:net", args={"kind": kind, **more})
    model = build_for(task, config, seed=0, base_dir=folder, path="teacher")
    removals = [
        Removal(
            "trial.prune_ratio", ratio, SimplifyConfig(round_to=4, drop_blocks=0, timeout=60.0), 2
        )
        for ratio in ratios
    ]
    return rehearse(task, model, config, "teacher", folder, removals)


@pytest.mark.parametrize("kind", ["Base", "Scaled", "Pixels"])
def test_a_teacher_that_can_be_pruned_passes(task: Task, folder: Path, kind: str) -> None:
    assert rehearsed(task, folder, kind, (0.1, 0.5)) == []


def test_the_hidden_layers_beside_attention_are_pruned(task: Task, folder: Path) -> None:
    assert rehearsed(task, folder, "Attention", hidden=32) == []


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("Instances", "running_mean"), ("Attention", "no layer of it can lose channels")],
)
def test_a_teacher_that_cannot_be_pruned_is_refused(
    task: Task, folder: Path, kind: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        rehearsed(task, folder, kind)
    assert "trial.prune_ratio" in str(caught.value)
    assert "`trial.prune_ratio: 0`" in str(caught.value.remedy)
    assert isinstance(caught.value.value, float)
    # So it is: without pruning nothing stands in its way.
    assert rehearsed(task, folder, kind, ()) == []


def test_a_ratio_that_removes_nothing_is_told(task: Task, folder: Path) -> None:
    said = rehearsed(task, folder, "Base", (0.05,))
    assert len(said) == 1
    assert "wide enough to lose channels" in said[0]


def test_a_model_that_does_not_come_back_is_refused(task: Task, folder: Path) -> None:
    with pytest.raises(InputError, match="does not come back: its outputs differ"):
        rehearsed(task, folder, "Hidden", ())
