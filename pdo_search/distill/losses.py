"""Losses of distillation: pure functions of logits, one signature per family.

Legend: N examples, C classes. Every function returns one value per example, so that the caller can
mask and weigh before reducing. Knows nothing of stages, weights or optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "DIVERGENCES",
    "Mixed",
    "batch_mean",
    "bernoulli_kl",
    "categorical_kl",
    "hard_label_loss",
    "mixed_label_loss",
]


def standardized(logits_NC: Tensor) -> Tensor:
    """Logits with zero mean and unit variance per example (Sun et al. 2024, equation 8)."""
    centred = logits_NC - logits_NC.mean(dim=1, keepdim=True)
    return centred / (centred.std(dim=1, keepdim=True, unbiased=False) + 1e-7)


def categorical_kl(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/τ) ‖ softmax(student/τ)) · τ² (Hinton et al. 2015, section 2).

    Args:
        student_NC: student logits (N, C).
        teacher_NC: teacher logits (N, C); no gradient is taken through them.
        temperature: τ > 0, dividing both logits.

    Returns:
        (N,), nats times τ².
    """
    log_s = F.log_softmax(student_NC / temperature, dim=1)
    log_t = F.log_softmax(teacher_NC / temperature, dim=1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=1) * temperature**2


def bernoulli_kl(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """Sum over classes of the KL between Bernoulli variables, times τ².

    Each class's softmax probability at τ is read as the probability of a yes/no question:
    ``Σ_j T_j log(T_j/S_j) + (1-T_j) log((1-T_j)/(1-S_j))``. Against the categorical form it also
    rewards agreement on which classes are absent.

    Args:
        student_NC: student logits (N, C).
        teacher_NC: teacher logits (N, C); no gradient is taken through them.
        temperature: τ > 0, dividing both logits.

    Returns:
        (N,), nats times τ².
    """
    tiny = torch.finfo(torch.float32).eps
    s = F.softmax(student_NC / temperature, dim=1).clamp(tiny, 1 - tiny)
    t = F.softmax(teacher_NC / temperature, dim=1).clamp(tiny, 1 - tiny)
    terms = t * (t.log() - s.log()) + (1 - t) * (torch.log1p(-t) - torch.log1p(-s))
    return terms.sum(dim=1) * temperature**2


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "categorical": categorical_kl,
    "bernoulli": bernoulli_kl,
}


def hard_label_loss(logits_NC: Tensor, targets_N: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy on labels, nats.

    Args:
        logits_NC: (N, C).
        targets_N: (N,) class indices; -1 marks an example without a label, whose loss is 0.
        label_smoothing: share of the target mass spread over all classes (Szegedy et al. 2016).

    Returns:
        (N,).
    """
    return F.cross_entropy(
        logits_NC, targets_N, reduction="none", ignore_index=-1, label_smoothing=label_smoothing
    )


@dataclass(frozen=True)
class Mixed:
    """What mixup mixed into the examples of a batch.

    Attributes:
        targets: (N,) int64 labels of the partners, -1 for none.
        shares: (N,) float32 share of the example's own picture, 0.5 to 1.
    """

    targets: Tensor
    shares: Tensor


def mixed_label_loss(
    logits_NC: Tensor, targets_N: Tensor, mixed: Mixed | None, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the labels of mixed pictures: λ·CE(y_i) + (1-λ)·CE(y_j) (Zhang et al. 2018).

    Args:
        logits_NC: (N, C).
        targets_N: (N,) the examples' own labels, -1 for none.
        mixed: the partners; None for pictures that are not mixed.
        label_smoothing: as in ``hard_label_loss``.

    Returns:
        (N,) nats, and (N,) bool: whether all labels of an example are known.
    """
    own = hard_label_loss(logits_NC, targets_N, label_smoothing)
    if mixed is None:
        return own, targets_N >= 0
    others = hard_label_loss(logits_NC, mixed.targets, label_smoothing)
    loss = mixed.shares * own + (1 - mixed.shares) * others
    return loss, (targets_N >= 0) & (mixed.targets >= 0)


def batch_mean(values_N: Tensor, mask_N: Tensor) -> Tensor:
    """Sum of the values under a boolean mask, divided by the size of the batch.

    So every example weighs alike, whoever else is in its batch, and the mean over the equal shares
    of several workers is that of the whole batch.
    """
    return (values_N * mask_N).sum() / len(values_N)
