"""Metrics of a classifier from its logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["classification_metrics"]

ECE_BINS = 15


def classification_metrics(
    logits: Tensor, targets: Tensor, *, teacher_logits: Tensor | None = None
) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, loss, calibration; agreement with a teacher.

    Args:
        logits: (N, C), or log-probabilities.
        targets: (N,) class indices; examples with -1 are left out of all but the teacher's figures.
        teacher_logits: (N, C) for ``agreement`` (share with the same top class) and ``kl``
            (KL(teacher ‖ student) in nats).

    Returns:
        Values by name. Precision, recall and F1 are means over classes, 0 where undefined, as
        scikit-learn has them; ``ece`` is the expected calibration error over 15 equal bins of
        confidence (Guo et al. 2017, equation 3).
    """
    known = targets >= 0
    log_probs = F.log_softmax(logits, dim=1)
    kept, labels = log_probs[known], targets[known]
    predicted = kept.argmax(dim=1)
    metrics = {
        "accuracy": (predicted == labels).float().mean().item(),
        **_macro(predicted, labels, logits.shape[1]),
        "loss": F.nll_loss(kept, labels).item(),
        "ece": _calibration_error(kept, predicted == labels),
    }
    if teacher_logits is not None:
        log_teacher = F.log_softmax(teacher_logits, dim=1)
        same = log_probs.argmax(dim=1) == log_teacher.argmax(dim=1)
        gap = (log_teacher.exp() * (log_teacher - log_probs)).sum(dim=1)
        metrics |= {"agreement": same.float().mean().item(), "kl": gap.mean().item()}
    return metrics


def _macro(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2)
    confusion = confusion.view(classes, classes).double()
    hits = confusion.diagonal()
    actual, claimed = confusion.sum(dim=1), confusion.sum(dim=0)
    seen = (actual + claimed) > 0
    precision = (hits / claimed.clamp(min=1))[seen]
    recall = (hits / actual.clamp(min=1))[seen]
    f1 = (2 * hits / (actual + claimed).clamp(min=1))[seen]
    return {
        "precision": precision.mean().item(),
        "recall": recall.mean().item(),
        "f1": f1.mean().item(),
    }


def _calibration_error(log_probs: Tensor, correct: Tensor) -> float:
    confidence = log_probs.amax(dim=1).exp()
    bins = (confidence * ECE_BINS).ceil().long().sub(1).clamp(0, ECE_BINS - 1)
    gaps = torch.zeros(ECE_BINS, device=bins.device).index_add(
        0, bins, correct.float() - confidence
    )
    return (gaps.abs().sum() / len(bins)).item()
