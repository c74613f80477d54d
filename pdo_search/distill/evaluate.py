"""Outputs of a model on examples, batch after batch, and what they say: metrics, answers.

Outputs of a whole split are never held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.tasks.base import Batch, Examples, Outputs, Task

__all__ = [
    "Evaluated",
    "TaughtOf",
    "evaluated",
    "evaluation_batches",
    "metrics_of",
    "outputs_of",
    "usual_numbers",
]

CPU_BATCH = 128
"""Of 512 examples activations leave the caches and are memory mapped anew each time: the small
models took two to three times the CPU time."""
GPU_BATCH = 512
POSITIONS = 1 << 15
"""Most padded positions of a batch without gradients."""
OUTPUTS = 1 << 27
"""Most outputs at padded positions: half a gigabyte."""

TaughtOf = Callable[[Tensor, Batch], Mapping[str, Taught]]
"""What a teacher says about rows (B,) of a split and what they hold, by head."""


def evaluation_batches(
    task: Task, examples: Examples, device: torch.device, rows: Tensor | None = None
) -> list[Tensor]:
    """Rows of examples for forward passes without gradients, by default of all, in order.

    Bounded by examples and, where these have positions, by positions and outputs: a long example is
    in a small batch, as are those of large heads.
    """
    index = torch.arange(len(examples)) if rows is None else rows
    size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    lengths = examples.lengths()
    if lengths is None:
        return list(torch.split(index, size))
    own = lengths.cpu()[index.cpu()].tolist()
    width = sum(head.size for head in task.heads if head.positions is not None)
    most = min(POSITIONS, OUTPUTS // max(width, 1))
    batches, first, longest = [], 0, 0
    for place, length in enumerate(own):
        longest = max(longest, length)
        full = (place + 1 - first) * longest > most or place - first == size
        if full and place > first:
            batches.append(index[first:place])
            first, longest = place, length
    return [*batches, index[first:]]


def usual_numbers(outputs: Outputs) -> Outputs:
    """Outputs in torch's default type, whatever precision they were computed in."""
    return {head: found.to(torch.get_default_dtype()) for head, found in outputs.items()}


def outputs_of(
    task: Task, model: nn.Module, examples: Examples, device: torch.device
) -> Iterator[tuple[Tensor, Batch, Outputs]]:
    """Outputs of a model on plain (not augmented) examples, in evaluation mode, batch by batch.

    Args:
        task: knows how examples become inputs and inputs become outputs.
        model: left in the mode it was in.
        examples: N examples, on any device.
        device: where the model is.

    Yields:
        Rows (B,); the prepared batch with its labels; outputs in torch's default type.
    """
    was_training = model.training
    try:
        for rows in evaluation_batches(task, examples, device):
            model.eval()
            batch = {name: tensor.to(device) for name, tensor in examples.batch(rows).items()}
            with torch.inference_mode():
                batch |= task.prepare(batch)
                outputs = usual_numbers(task.forward(model, batch))
            yield rows, batch, outputs
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Evaluated:
    """A model on examples.

    Attributes:
        metrics: values by name.
        quality: mean of what its answers are worth, over the examples with a label.
    """

    metrics: dict[str, float]
    quality: float


def metrics_of(
    task: Task, model: nn.Module, examples: Examples, device: torch.device
) -> dict[str, float]:
    """Metrics of a model on examples, by name: see ``evaluated``."""
    return evaluated(task, model, examples, device).metrics


def evaluated(
    task: Task,
    model: nn.Module,
    examples: Examples,
    device: torch.device,
    taught_of: TaughtOf | None = None,
) -> Evaluated:
    """A model on examples.

    Args:
        task: whose meter measures.
        model: on ``device``; left as it is.
        examples: with labels.
        device: where to run.
        taught_of: what the full teacher says about them, for ``agreement`` and ``kl``.
    """
    meter, quality = task.meter(), []
    with torch.inference_mode():
        for rows, batch, outputs in outputs_of(task, model, examples, device):
            meter.update(outputs, batch, None if taught_of is None else taught_of(rows, batch))
            quality.append(task.quality(outputs, batch))
        return Evaluated(meter.compute(), torch.cat(quality).nanmean().item())
