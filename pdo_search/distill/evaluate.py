"""Outputs of a model on a split, and the metrics of a student on validation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdo_search.tasks.base import Examples, Outputs, Task
from pdo_search.tasks.metrics import classification_metrics

__all__ = ["evaluate", "evaluation_batch", "metrics_of", "outputs_of"]

CPU_BATCH = 128
"""Of 512 examples activations leave the caches and are memory mapped anew each time: the small
models took two to three times the CPU time."""
GPU_BATCH = 512


def evaluation_batch(device: torch.device) -> int:
    """Examples per forward pass without gradients."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


def outputs_of(task: Task, model: nn.Module, examples: Examples, device: torch.device) -> Outputs:
    """Outputs of a model on plain (not augmented) examples, in evaluation mode.

    Args:
        task: knows how examples become inputs and inputs become outputs.
        model: left in the mode it was in.
        examples: N examples, on any device.
        device: where the model is.

    Returns:
        Per head, (N, size) in torch's default type, on ``device``.
    """
    was_training = model.training
    model.eval()
    size = evaluation_batch(device)
    batches: list[Outputs] = []
    with torch.inference_mode():
        for first in range(0, len(examples), size):
            rows = torch.arange(first, min(first + size, len(examples)))
            inputs = task.prepare(examples.inputs(rows).to(device))
            found = task.forward(model, inputs)
            batches.append({k: v.to(torch.get_default_dtype()) for k, v in found.items()})
    model.train(was_training)
    return {head: torch.cat([b[head] for b in batches]) for head in batches[0]}


def metrics_of(
    task: Task,
    model: nn.Module,
    examples: Examples,
    device: torch.device,
    teacher_NC: Tensor | None = None,
) -> dict[str, float]:
    """Metrics of a model's first head on examples, by name: see ``classification_metrics``."""
    logits = outputs_of(task, model, examples, device)[task.heads[0].name]
    teacher = None if teacher_NC is None else teacher_NC.to(device)
    return classification_metrics(logits, examples.targets.to(device), teacher_logits=teacher)


def evaluate(
    task: Task, model: nn.Module, examples: Examples, teacher_NC: Tensor, device: torch.device
) -> dict[str, float]:
    """The ``val_*`` metrics of a student.

    Args:
        task: the task; its first head is evaluated.
        model: the student.
        examples: N validation examples with labels.
        teacher_NC: the full teacher's logits on them (N, C), for agreement and KL gap.
        device: where the model is.

    Returns:
        ``val_accuracy``, ``val_precision``, ``val_recall``, ``val_f1``, ``val_loss``, ``val_ece``,
        ``val_agreement`` (share with the same top class) and ``val_kl`` (nats, τ = 1).
    """
    metrics = metrics_of(task, model, examples, device, teacher_NC)
    return {f"val_{name}": value for name, value in metrics.items()}
