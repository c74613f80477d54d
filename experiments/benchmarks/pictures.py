"""Pictures as plain torch code has them: tensors, and models without a task."""

from __future__ import annotations

from torch import Tensor, nn

from pdo_search.config.model import ModelConfig
from pdo_search.models.build import build_model
from pdo_search.tasks.base import Examples, Head, HeadKind, Task
from pdo_search.tasks.images.task import class_labels
from pdo_search.tasks.inputs import PIXELS, PictureInputs

__all__ = ["classes", "classifier", "pixels", "prepared"]


def classifier(
    config: ModelConfig, shape: tuple[int, int, int], num_classes: int, seed: int = 0
) -> nn.Module:
    """A classifier of pictures (C, H, W) that are normalised by nothing."""
    inputs = PictureInputs(shape, (), (0.0,) * shape[0], (1.0,) * shape[0])
    head = Head("class", HeadKind.CATEGORICAL, num_classes)
    return build_model(config, (head,), inputs, seed=seed)


def pixels(examples: Examples) -> Tensor:
    """Raw pictures (N, C, H, W)."""
    return examples.raw_inputs()[PIXELS]


def classes(examples: Examples) -> Tensor:
    """(N,) class indices, -1 for none."""
    return class_labels(examples)


def prepared(task: Task, examples: Examples) -> Tensor:
    """Pictures (N, C, H, W) as the task's models take them."""
    return task.prepare(examples.raw_inputs())[PIXELS]
