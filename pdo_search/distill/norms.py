"""Statistics of normalisation layers that belong to a model's weights.

Running statistics follow the weights with a momentum: after few updates they lag behind, and the
model in evaluation mode is another one than was trained. So they are measured anew, on plain train
examples, before a model is evaluated, kept or taught by (Wu and Johnson 2021, section 3,
"PreciseBN").
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pdo_search.base.seeds import seed_for
from pdo_search.distill.feed import resident
from pdo_search.tasks.base import Batch, Task

__all__ = ["Calibration", "refresh_statistics", "running_norms"]

EXAMPLES = 4096
"""Examples by which statistics are measured; all of a smaller train split."""
BATCH = 256


class Calibration:
    """Plain train examples, in random order, by which statistics are measured.

    They are the same for every model of a task, labelled or not: statistics need no labels.

    Args:
        task: whose examples.
        device: where they are prepared.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        examples = task.train_inputs
        generator = torch.Generator().manual_seed(seed_for(task.seed, "calibration"))
        picked = torch.randperm(len(examples), generator=generator)[:EXAMPLES]
        self._task = task
        self._device = device
        self._examples = resident(examples.select(picked), device)

    def batches(self) -> Iterator[Batch]:
        """Prepared inputs, in batches of nearly equal size."""
        count = len(self._examples)
        for rows in torch.arange(count).tensor_split(math.ceil(count / BATCH)):
            raw = self._examples.raw_inputs(slice(int(rows[0]), int(rows[-1]) + 1))
            yield self._task.prepare({k: v.to(self._device) for k, v in raw.items()})

    def forward(self, model: nn.Module, batch: Batch) -> None:
        """Run a model on a batch."""
        self._task.forward(model, batch)


def running_norms(model: nn.Module) -> list[nn.Module]:
    """The layers whose running statistics are measured in training mode.

    They are known by what they have, so that instance norms and layers of other packages are among
    them. One that a model's own ``train`` leaves in evaluation mode is frozen, and not among them;
    nor is one without a momentum, such as torchvision's ``FrozenBatchNorm2d``.
    """
    was_training = model.training
    model.train()
    found = [
        m
        for m in model.modules()
        if m.training
        and hasattr(m, "momentum")
        and any(
            isinstance(getattr(m, name, None), Tensor) for name in ("running_mean", "running_var")
        )
    ]
    model.train(was_training)
    return found


def refresh_statistics(model: nn.Module, calibration: Calibration) -> None:
    """Measure running statistics anew, as plain means over batches.

    Nothing else of the model changes, its mode included; dropout is off meanwhile, as it is in
    evaluation.

    Args:
        model: on the calibration's device; changed in place.
        calibration: the examples.
    """
    norms = running_norms(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for count, batch in enumerate(calibration.batches(), start=1):
            for norm in norms:
                # A mean over batches, written as a moving one: layers that know no other allow it.
                norm.momentum = 1 / count  # type: ignore[assignment]
            calibration.forward(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
