"""Meters: metrics of a model on many examples, batch after batch. Outputs are never kept.

Legend: B examples in a batch, L positions, K size of a head, N rows counted: examples, or the
positions of a head that has them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught
from pdo_search.tasks.base import Batch, Head, HeadKind, Meter, Outputs
from pdo_search.tasks.kinds import KINDS, mask_of_head, shown_target

__all__ = [
    "METERS",
    "CategoricalMeter",
    "HeadsMeter",
    "confusion_of",
    "meter_of",
    "metrics_of_heads",
]

ECE_BINS = 15


class _Rows:
    """Numbers of the rows counted so far, by name: (N,) each when asked for."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor) -> None:
        for name, part in values.items():
            self._parts.setdefault(name, []).append(part)

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(self._parts[name])

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def mean(self, name: str) -> float:
        """Mean over rows; NaN without any."""
        return self[name].mean().item()


class _ByHead(ABC):
    """What meters of one head share: its rows, and how it compares with a teacher."""

    share: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __init__(self, head: Head) -> None:
        self.head = head
        self.rows = _Rows()

    @abstractmethod
    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Values by name."""

    def compare(self, outputs: Tensor, batch: Batch, taught: Mapping[str, Taught] | None) -> None:
        """Count agreement with the full teacher, and the divergence from it, per example."""
        if taught is None:
            return
        mask, kind = mask_of_head(self.head, batch), KINDS[self.head.kind]
        teacher = taught[self.head.name].dense(self.head.size).to(outputs.device)
        same = kind.quality(outputs, kind.answer(teacher, mask), mask).float()
        self.rows.add(agreement=same, kl=kind.divergence(outputs, teacher, 1.0, mask))

    def compared(self) -> dict[str, float]:
        """``agreement`` and ``kl`` where there was a teacher."""
        return {n: self.rows.mean(n) for n in ("agreement", "kl") if n in self.rows}


class CategoricalMeter(_ByHead):
    """Accuracy, macro precision, recall and F1, loss, calibration of one categorical head.

    Of a head with positions every position counts alike. Precision, recall and F1 are means over
    classes, 0 where undefined, as scikit-learn has them; ``ece`` is the expected calibration error
    over 15 equal bins of confidence (Guo et al. 2017, equation 3).
    """

    share: ClassVar = "accuracy"
    names: ClassVar[tuple[str, ...]] = (
        "accuracy", "precision", "recall", "f1", "loss", "ece", "agreement", "kl",
    )  # fmt: skip

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        own, target = outputs[self.head.name], shown_target(self.head, batch)
        self.compare(own, batch, taught)
        known = target >= 0
        if (mask := mask_of_head(self.head, batch)) is not None:
            known = known & mask
        log_probs, labels = F.log_softmax(own[known], dim=-1), target[known]
        self.rows.add(
            predicted=log_probs.argmax(dim=1),
            labels=labels,
            loss=F.nll_loss(log_probs, labels, reduction="none"),
            confidence=log_probs.amax(dim=1).exp(),
        )

    def compute(self) -> dict[str, float]:
        """Values by name."""
        rows = self.rows
        predicted, labels = rows["predicted"], rows["labels"]
        right = predicted == labels
        return {
            "accuracy": right.float().mean().item(),
            **_macro(confusion_of(predicted, labels, self.head.size)),
            "loss": rows.mean("loss"),
            "ece": _calibration_error(rows["confidence"], right),
            **self.compared(),
        }


class BernoulliMeter(_ByHead):
    """Share of right labels, macro F1 over labels, loss per label of one bernoulli head."""

    share: ClassVar = "accuracy"
    names: ClassVar = ("accuracy", "f1", "loss", "agreement", "kl")

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        own, target = outputs[self.head.name], shown_target(self.head, batch)
        self.compare(own, batch, taught)
        if (mask := mask_of_head(self.head, batch)) is not None:
            own, target = own[mask], target[mask]
        loss = F.binary_cross_entropy_with_logits(
            own, target.clamp(min=0).to(own.dtype), reduction="none"
        )
        self.rows.add(predicted=own > 0, target=target, loss=loss)

    def compute(self) -> dict[str, float]:
        """Values by name."""
        predicted, target = self.rows["predicted"], self.rows["target"]
        known, true = target >= 0, target == 1
        hits = (predicted & true & known).sum(dim=0)
        claimed, actual = (predicted & known).sum(dim=0), true.sum(dim=0)
        seen = (claimed + actual) > 0
        f1 = (2 * hits / (claimed + actual).clamp(min=1))[seen]
        return {
            "accuracy": (predicted == true)[known].float().mean().item(),
            "f1": f1.mean().item(),
            "loss": self.rows["loss"][known].mean().item(),
            **self.compared(),
        }


class RegressionMeter(_ByHead):
    """Absolute and squared error and explained variance of one regression head."""

    share: ClassVar = "r2"
    names: ClassVar = ("mae", "rmse", "r2", "loss", "agreement", "kl")

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        own, target, mask = (
            outputs[self.head.name],
            shown_target(self.head, batch),
            mask_of_head(self.head, batch),
        )
        self.compare(own, batch, taught)
        loss, known = KINDS[self.head.kind].label_loss(own, target, mask, 0.0)
        self.rows.add(loss=loss[known])
        cells = ~target.isnan() if mask is None else ~target.isnan() & mask[..., None]
        self.rows.add(error=(own - target)[cells].double(), target=target[cells].double())

    def compute(self) -> dict[str, float]:
        """Values by name."""
        error, target = self.rows["error"], self.rows["target"]
        squared = error.square().mean()
        return {
            "mae": error.abs().mean().item(),
            "rmse": squared.sqrt().item(),
            "r2": (1 - squared / target.var(unbiased=False)).item(),
            "loss": self.rows.mean("loss"),
            **self.compared(),
        }


class PointerMeter(_ByHead):
    """Whole answers that are right, and their loss, of one pointer head."""

    share: ClassVar = "em"
    names: ClassVar = ("em", "loss", "agreement", "kl")

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        own, target, mask = (
            outputs[self.head.name],
            shown_target(self.head, batch),
            mask_of_head(self.head, batch),
        )
        self.compare(own, batch, taught)
        kind = KINDS[self.head.kind]
        loss, known = kind.label_loss(own, target, mask, 0.0)
        right = (kind.answer(own, mask) == target).all(dim=1)
        self.rows.add(loss=loss[known], right=right[known].float())

    def compute(self) -> dict[str, float]:
        """Values by name."""
        return {"em": self.rows.mean("right"), "loss": self.rows.mean("loss"), **self.compared()}


METERS: Mapping[HeadKind, type[_ByHead]] = {
    HeadKind.CATEGORICAL: CategoricalMeter,
    HeadKind.BERNOULLI: BernoulliMeter,
    HeadKind.REGRESSION: RegressionMeter,
    HeadKind.POINTER: PointerMeter,
}
"""What measures a head of a kind; its ``names`` begin with the primary metric."""


class HeadsMeter:
    """Meters of several heads: ``HEAD.NAME`` of each, and what they have in common.

    ``mean`` is the mean over heads of the metric that is a share: accuracy, whole answers, the
    share of explained variance. ``loss`` is the heads' sum; ``agreement`` and ``kl`` are means.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self._meters = {head.name: METERS[head.kind](head) for head in heads}

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        for meter in self._meters.values():
            meter.update(outputs, batch, taught)

    def compute(self) -> dict[str, float]:
        """Values by name."""
        found = {name: meter.compute() for name, meter in self._meters.items()}
        count = len(found)
        values = {
            "mean": sum(found[n][m.share] for n, m in self._meters.items()) / count,
            "loss": sum(own["loss"] for own in found.values()),
        }
        for name in ("agreement", "kl"):
            if all(name in own for own in found.values()):
                values[name] = sum(own[name] for own in found.values()) / count
        own_of_heads = {f"{h}.{n}": v for h, own in found.items() for n, v in own.items()}
        return values | own_of_heads


def meter_of(heads: Sequence[Head]) -> Meter:
    """A meter of heads, by their kinds."""
    return METERS[heads[0].kind](heads[0]) if len(heads) == 1 else HeadsMeter(heads)


def metrics_of_heads(heads: Sequence[Head]) -> tuple[str, ...]:
    """The names that ``meter_of`` measures; the first is the primary one."""
    if len(heads) == 1:
        return METERS[heads[0].kind].names
    own = tuple(f"{head.name}.{name}" for head in heads for name in METERS[head.kind].names)
    return ("mean", "loss", "agreement", "kl", *own)


def confusion_of(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, K) float64, how many examples of each class (rows) were given which (columns)."""
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2)
    return confusion.view(classes, classes).double()


def _macro(confusion: Tensor) -> dict[str, float]:
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


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    bins = (confidence * ECE_BINS).ceil().long().sub(1).clamp(0, ECE_BINS - 1)
    gaps = torch.zeros(ECE_BINS, device=bins.device).index_add(
        0, bins, correct.float() - confidence
    )
    return (gaps.abs().sum() / len(bins)).item()
