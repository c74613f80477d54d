"""Outputs of a model on examples, batch after batch, and what they say: metrics, answers.

Outputs of a whole split are never held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.tasks.base import Batch, Examples, Outputs, Task

__all__ = ["TaughtOf", "evaluation_batches", "metrics_of", "outputs_of", "usual_numbers"]

CPU_BATCH = 128
"""Of 512 examples activations leave the caches and are memory mapped anew each time: the small
models took two to three times the CPU time."""
GPU_BATCH = 512
POSITIONS = 1 << 15
"""Most padded positions of a batch without gradients."""

TaughtOf = Callable[[Tensor], Mapping[str, Taught]]
"""What a teacher says about rows (B,) of a split, by head."""


def evaluation_batches(
    examples: Examples, device: torch.device, rows: Tensor | None = None
) -> list[Tensor]:
    """Rows of examples for forward passes without gradients, by default of all, in order.

    Bounded by examples, and by positions where examples have them: a long one is in a small batch.
    """
    index = torch.arange(len(examples)) if rows is None else rows
    size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    lengths = examples.lengths()
    if lengths is None:
        return list(torch.split(index, size))
    own = lengths.cpu()[index.cpu()].tolist()
    batches, first, longest = [], 0, 0
    for place, length in enumerate(own):
        longest = max(longest, length)
        full = (place + 1 - first) * longest > POSITIONS or place - first == size
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
        for rows in evaluation_batches(examples, device):
            model.eval()
            batch = {name: tensor.to(device) for name, tensor in examples.batch(rows).items()}
            with torch.inference_mode():
                batch |= task.prepare(batch)
                outputs = usual_numbers(task.forward(model, batch))
            yield rows, batch, outputs
    finally:
        model.train(was_training)


def metrics_of(
    task: Task,
    model: nn.Module,
    examples: Examples,
    device: torch.device,
    taught_of: TaughtOf | None = None,
) -> dict[str, float]:
    """Metrics of a model on examples, by name.

    Args:
        task: whose meter measures.
        model: on ``device``; left as it is.
        examples: with labels.
        device: where to run.
        taught_of: what the full teacher says about them, for ``agreement`` and ``kl``.
    """
    meter = task.meter()
    with torch.inference_mode():
        for rows, batch, outputs in outputs_of(task, model, examples, device):
            meter.update(outputs, batch, None if taught_of is None else taught_of(rows))
        return meter.compute()
