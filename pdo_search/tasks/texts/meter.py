"""What a classifier of texts is measured by, beside what every classifier is.

Legend: K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pdo_search.tasks.base import Head
from pdo_search.tasks.metrics import CategoricalMeter, confusion_of

__all__ = ["TextMeter", "rare_half"]


class TextMeter(CategoricalMeter):
    """Also the correlation of predicted and true classes (Gorodkin 2004, equation 8), and the mean
    recall over the rare half of the classes, of those that are among the examples.

    Args:
        head: categorical, of K classes.
        rare: (K,) bool, which classes are rare.
    """

    names: ClassVar = (
        "accuracy", "f1", "mcc", "rare_recall", "precision", "recall", "loss", "ece", "agreement",
        "kl",
    )  # fmt: skip

    def __init__(self, head: Head, rare: Tensor) -> None:
        super().__init__(head)
        self._rare = rare

    def compute(self) -> dict[str, float]:
        """Values by name."""
        confusion = confusion_of(self.rows["predicted"], self.rows["labels"], self.head.size).cpu()
        return {
            **super().compute(),
            "mcc": _correlation(confusion),
            "rare_recall": _mean_recall(confusion, self._rare),
        }


def rare_half(counts: Tensor) -> Tensor:
    """(K,) bool: the half of the classes with the fewest examples; of equal ones the first."""
    rare = torch.zeros(len(counts), dtype=torch.bool)
    rare[counts.argsort(stable=True)[: len(counts) // 2]] = True
    return rare


def _correlation(confusion: Tensor) -> float:
    """The Matthews correlation of a confusion matrix (K, K), 0 where one side is constant."""
    actual, claimed, total = confusion.sum(dim=1), confusion.sum(dim=0), confusion.sum()
    covariance = confusion.trace() * total - (actual * claimed).sum()
    spread = (total**2 - (claimed**2).sum()) * (total**2 - (actual**2).sum())
    return (covariance / spread.sqrt()).item() if spread > 0 else 0.0


def _mean_recall(confusion: Tensor, chosen: Tensor) -> float:
    """Mean recall over the chosen classes that have examples, 0 where none has."""
    actual = confusion.sum(dim=1)
    counted = chosen & (actual > 0)
    if not counted.any():
        return 0.0
    return (confusion.diagonal()[counted] / actual[counted]).mean().item()
