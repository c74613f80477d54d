"""Running statistics belong to the weights: every kind of layer that has some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pdo_search.config.task import TaskConfig
from pdo_search.distill.norms import BATCH, Calibration, refresh_statistics, running_norms
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split, Task

from ..pictures import as_input, build_model, pixels

CPU = torch.device("cpu")


class Evolving(nn.Module):
    """A layer of its own kind with a running variance and a momentum, as timm's EvoNorm is."""

    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        var = self.running_var
        if self.training:
            var = x.var(dim=(0, 2, 3))
            self.running_var.lerp_(var.detach(), self.momentum)
        return x / (var + 1e-5).sqrt().view(1, -1, 1, 1)


class Flat(nn.Module):
    """A norm over flat features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(1))  # type: ignore[no-any-return]


class Deep(nn.Module):
    """A norm over volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[:, :, None])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(TaskConfig.model_validate({"data": {"source": "digits"}}))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(1),
    "BatchNorm2d, momentum 0.0003": lambda: nn.BatchNorm2d(1, momentum=0.0003),
    "BatchNorm2d, cumulative": lambda: nn.BatchNorm2d(1, momentum=None),
    "BatchNorm1d": Flat,
    "BatchNorm3d": Deep,
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(1),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(1, track_running_stats=True),
    "another package's": lambda: Evolving(1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_train_split(kind: str, task: Task) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[kind]())
    (norm,) = running_norms(model)
    momentum = norm.momentum
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(7)  # What lags behind, of other weights.
    refresh_statistics(model, Calibration(task, CPU))
    plain = as_input(task, pixels(task.examples(Split.TRAIN)))
    if kind == "BatchNorm1d":
        mean, var = plain.flatten(1).mean(0), plain.flatten(1).var(0)
    elif kind == "InstanceNorm2d":
        mean, var = plain.mean(), plain.flatten(1).var(1).mean()
    else:
        mean, var = plain.mean(), plain.var()
    found = dict(model.named_buffers())
    for name, tensor in found.items():
        if name.endswith("running_mean"):
            torch.testing.assert_close(tensor, mean.expand_as(tensor), atol=1e-3, rtol=1e-3)
        if name.endswith("running_var"):
            torch.testing.assert_close(tensor, var.expand_as(tensor), atol=0.01, rtol=0.01)
    assert norm.momentum == momentum
    assert model.training


def test_frozen_norms_stay_as_they_are(task: Task) -> None:
    class Tuned(nn.Module):
        """Keeps a norm in evaluation mode whatever mode it is in itself."""

        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.BatchNorm2d(1)
            self.fixed = FrozenBatchNorm2d(1)
            self.plain = nn.BatchNorm2d(1, track_running_stats=False)

        def train(self, mode: bool = True) -> Tuned:
            super().train(mode)
            self.kept.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(self.fixed(self.kept(x)))  # type: ignore[no-any-return]

    model = Tuned()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refresh_statistics(model, Calibration(task, CPU))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_nothing_but_statistics_changes_and_dropout_has_no_say(task: Task) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1, affine=True), nn.Dropout(0.9)).eval()
    calibration = Calibration(task, CPU)
    refresh_statistics(model, calibration)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refresh_statistics(model, calibration)
    for name in ("1.running_mean", "1.running_var", "1.weight", "1.bias"):
        torch.testing.assert_close(model.state_dict()[name], first[name], rtol=0, atol=0)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mnasnet0_5", "resnet18", "googlenet"])
def test_torchvisions_norms_are_all_found(arch: str, task: Task) -> None:
    from pdo_search.config.model import ModelConfig

    args = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    model = build_model(ModelConfig(arch=arch, args=args), (3, 32, 32), 10, seed=0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert running_norms(model) == norms


@pytest.mark.parametrize("count", [2, 255, 257, 600])
def test_no_batch_is_too_small_to_measure(count: int) -> None:
    """One example alone has no variance: a batch of the rest would be that."""
    task = build_task(TaskConfig.model_validate({"data": {"source": "digits"}}))
    calibration = Calibration(task, CPU)
    calibration._examples = calibration._examples.select(torch.arange(count))
    sizes = [len(batch["pixels"]) for batch in calibration.batches()]
    assert sum(sizes) == count
    assert max(sizes) <= BATCH
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_few_labels_leave_as_many_examples_to_measure_by(elsewhere: bool, tmp_path: Path) -> None:
    tree: dict[str, Any] = {"data": {"source": "digits"}, "splits": {"labels": 20}}
    if elsewhere:
        text = "import numpy as np\ndef load():\n    r = np.random.default_rng(0)\n"
        text += "    return r.integers(0, 255, (50, 1, 8, 8)).astype(np.uint8), np.zeros(50, int)\n"
        (tmp_path / "other_digits.py").write_text(text)
        tree["transfer_data"] = {"source": "other_digits:load"}
    task = build_task(TaskConfig.model_validate(tree), tmp_path)
    assert len(task.examples(Split.TRAIN)) == 20
    sizes = [len(batch["pixels"]) for batch in Calibration(task, CPU).batches()]
    assert sum(sizes) == task.epoch_examples > 800
