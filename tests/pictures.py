"""Pictures as tests talk about them: tensors, where the package has batches by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column, Taught
from pdo_search.config.model import ModelConfig
from pdo_search.models import build, cost
from pdo_search.models.cost import Cost
from pdo_search.models.modelfile import ModelSpec
from pdo_search.tasks.base import (
    IDS,
    LABELLED,
    Batch,
    Examples,
    Head,
    HeadKind,
    Outputs,
    Split,
    Task,
    target_of,
)
from pdo_search.tasks.images.task import ImageClassification, class_labels
from pdo_search.tasks.inputs import PIXELS, PictureInputs
from pdo_search.tasks.task import BaseTask

__all__ = [
    "build_model",
    "class_task",
    "cost_of",
    "inputs_of",
    "labels_of",
    "measure_cost",
    "metrics_of_logits",
    "picture_spec",
    "pixels",
    "as_input",
    "classes",
    "of_pictures",
]

Shape = tuple[int, int, int]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def pixels(examples: Examples, index: Tensor | slice = slice(None)) -> Tensor:
    """Raw pictures (N, C, H, W)."""
    return examples.raw_inputs(index)[PIXELS]


def classes(examples: Examples) -> Tensor:
    """Classes (N,), -1 for none."""
    return class_labels(examples)


def of_pictures(task: Task) -> ImageClassification:
    """A task as what it is."""
    assert isinstance(task, ImageClassification)
    return task


def as_input(task: Task, pictures: Tensor) -> Tensor:
    """Pictures as the task's models take them."""
    return task.prepare({PIXELS: pictures})[PIXELS]


def inputs_of(shape: Shape, names: Sequence[str] = (), unit: float = 1.0) -> PictureInputs:
    """Pictures of a shape, normalised by nothing."""
    return PictureInputs(shape, tuple(names), (0.0,) * shape[0], (1.0,) * shape[0], unit)


def build_model(
    config: ModelConfig, shape: Shape, num_outputs: int, *, seed: int = 0, **given: Any
) -> nn.Module:
    """A model of pictures of a shape."""
    inputs = inputs_of(shape)
    if (normalization := given.pop("normalization", None)) is not None:
        inputs = PictureInputs(shape, (), *normalization)
    return build.build_model(config, _heads(num_outputs), inputs, seed=seed, **given)


def _heads(size: int) -> tuple[Head, ...]:
    return (Head("class", HeadKind.CATEGORICAL, size),)


def picture_spec(
    arch: ModelConfig, shape: Shape, names: Sequence[str], num_outputs: int | None = None, *,
    statistics: Statistics | None = None, dropped: tuple[str, ...] = (), unit: float = 1.0,
) -> ModelSpec:  # fmt: skip
    """The spec of a classifier of pictures."""
    mean, std = statistics or ((0.0,) * shape[0], (1.0,) * shape[0])
    inputs = PictureInputs(shape, tuple(names), mean, std, unit)
    return ModelSpec(
        arch, _heads(len(names) if num_outputs is None else num_outputs), inputs, dropped
    )


def measure_cost(model: nn.Module, shape: Shape, device: torch.device) -> Cost:
    """What a model of pictures costs."""
    zeros = torch.zeros(1, *shape).contiguous(memory_format=torch.channels_last)
    return cost.cost_of_run(model, partial(model, zeros), device)


class _Shown:
    """A task of which a picture of zeros is known, and nothing else."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def example(self) -> Batch:
        return {PIXELS: torch.zeros(1, *self.shape)}

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        return {"class": model(batch[PIXELS])}


def cost_of(model: nn.Module, arch: ModelConfig, shape: Shape, device: torch.device) -> Cost:
    """What a model of pictures costs, measured once."""
    return cost.cost_of(cast(Task, _Shown(shape)), model, arch, device)


def class_task(num_classes: int) -> BaseTask:
    """A task of one categorical head, of which outputs and labels are given by tests."""
    examples = Examples(
        {PIXELS: Column(torch.zeros(1, 1))},
        {"class": Column(torch.zeros(1, dtype=torch.int64))},
        None,
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.bool),
    )
    splits = dict.fromkeys(Split, examples)
    return BaseTask(splits, _heads(num_classes), seed=0, fingerprint="class")


def labels_of(classes: Tensor) -> Batch:
    """A batch of labels (N,), -1 for none, and nothing else."""
    return {target_of("class"): classes, LABELLED: classes >= 0, IDS: torch.arange(len(classes))}


def metrics_of_logits(
    logits: Tensor, classes: Tensor, teacher: Tensor | None = None
) -> dict[str, float]:
    """What a meter says of logits (N, C)."""
    meter = class_task(logits.shape[1]).meter()
    taught = None if teacher is None else {"class": Taught(teacher)}
    meter.update({"class": logits}, labels_of(classes), taught)
    return meter.compute()
