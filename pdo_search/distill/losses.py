"""The loss of a batch: terms by head, weighed. Pure functions of outputs and labels.

What a term is for a head of some kind is the task's business (``tasks.kinds``).

Legend: B examples in a batch, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pdo_search.base.columns import Taught
from pdo_search.config.recipe import LossConfig
from pdo_search.tasks.base import Batch, Head, HeadKind, Outputs, Task
from pdo_search.tasks.kinds import standardized

__all__ = ["IN_TRAIN", "Terms", "batch_mean", "head_weights", "label_mean", "terms"]

IN_TRAIN = "in_train"
"""The batch's key of (B,) bool, false for examples of the transfer split."""


@dataclass(frozen=True)
class Terms:
    """A batch's terms, each a mean over the batch to which an example without the label in question
    adds nothing, summed over the heads by their weights.

    Attributes:
        kl: divergence from the teacher; 0 without one.
        avg: label loss of transfer examples.
        init: label loss of train examples.
        by_head: (heads,) kl, avg and init of each head, weighed against each other but not yet by
            the heads' weights.
    """

    kl: Tensor
    avg: Tensor
    init: Tensor
    by_head: Tensor


def batch_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of values (B,) under a boolean mask (B,), divided by the size of the batch.

    So every example weighs alike, whoever else is in its batch, and the mean over the equal shares
    of several workers is that of the whole batch.
    """
    return (values * mask).sum() / len(values)


def label_mean(task: Task, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """The label loss of a batch, a mean over it, summed over the heads."""
    losses = task.label_loss(outputs, batch, smoothing).values()
    return torch.stack([batch_mean(loss, known) for loss, known in losses]).sum()


def terms(
    task: Task,
    config: LossConfig,
    outputs: Outputs,
    batch: Batch,
    *,
    taught: Mapping[str, Taught] | None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    weights: Mapping[str, float],
) -> Terms:
    """A batch's terms.

    Args:
        task: what losses and divergences are.
        config: form of the divergence, how positions are reduced.
        outputs: of the student.
        batch: prepared, with labels and ``IN_TRAIN``.
        taught: what the teacher says, by head; None without a teacher.
        temperature: of the divergence.
        smoothing: of labels.
        weights: by head; 1 where none is named.
    """
    in_train = batch[IN_TRAIN]
    labels = task.label_loss(outputs, batch, smoothing)
    rows = []
    for head in task.heads:
        loss, known = labels[head.name]
        lengths = _relative_lengths(head, batch) if config.reduce == "position" else None
        loss = loss if lengths is None else loss * lengths
        avg, init = batch_mean(loss, known & ~in_train), batch_mean(loss, known & in_train)
        kl = torch.zeros_like(init)
        if taught is not None:
            student, teacher = outputs[head.name], taught[head.name]
            if config.standardize and head.kind is HeadKind.CATEGORICAL:
                student = standardized(student)
                teacher = replace(teacher, values=standardized(teacher.values))
            apart = task.divergence(head, student, teacher, batch, temperature, config.kl_form)
            kl = (apart if lengths is None else apart * lengths).mean()
        rows.append((weights.get(head.name, 1.0), kl, avg, init))
    if len(rows) == 1 and rows[0][0] == 1:
        _, kl, avg, init = rows[0]
    else:
        kl, avg, init = (torch.stack([w * row[k] for w, *row in rows]).sum() for k in range(3))
    by_head = [config.kl * kl + config.avg * avg + config.init * init for _, kl, avg, init in rows]
    return Terms(kl, avg, init, torch.stack(by_head).detach())


def _relative_lengths(head: Head, batch: Batch) -> Tensor | None:
    """(B,) how many positions each example has, over their mean: so every position weighs alike."""
    if head.positions is None:
        return None
    lengths = batch[head.positions].sum(dim=1).to(torch.get_default_dtype())
    return lengths / lengths.mean().clamp(min=1)


def head_weights(losses: Mapping[str, float]) -> dict[str, float]:
    """Weights of heads from their mean losses: the inverse of each, with a mean of 1.

    That is where the weights of homoscedastic uncertainty come to rest (Kendall et al. 2018, whose
    optimum for given losses is their inverse), without parameters of their own to train.
    """
    inverse = {name: 1 / max(loss, 1e-6) for name, loss in losses.items()}
    mean = sum(inverse.values()) / len(inverse)
    return {name: value / mean for name, value in inverse.items()}
