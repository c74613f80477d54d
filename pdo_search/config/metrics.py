"""What is measured: every metric of every domain, and which of them a task has.

The metric columns of a sweep's tables are those of its task. Knows no model and no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "METRICS",
    "TASK_METRICS",
    "Metric",
    "gain_of",
    "is_metric",
    "metric_of",
    "reaches",
    "score_of",
    "share_of",
]


@dataclass(frozen=True)
class Metric:
    """A number that a model is judged by.

    Attributes:
        unit: of the value.
        mode: whether higher (``max``) or lower (``min``) values are better; None for neither.
        meaning: in a sentence.
    """

    unit: str
    mode: Literal["max", "min"] | None
    meaning: str

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.unit == "share"


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("share", "max", "top-1 accuracy"),
    "precision": Metric("share", "max", "mean precision over classes"),
    "recall": Metric("share", "max", "mean recall over classes"),
    "f1": Metric("share", "max", "mean F1 over classes"),
    "mcc": Metric("correlation", "max", "Matthews correlation of predicted and true classes"),
    "rare_recall": Metric("share", "max", "mean recall over the rare half of the classes"),
    "auc": Metric("share", "max", "area under the ROC curve, mean over labels"),
    "mae": Metric("in the target's unit", "min", "mean absolute error"),
    "rmse": Metric("in the target's unit", "min", "root of the mean squared error"),
    "r2": Metric("share of variance", "max", "share of the target's variance that is explained"),
    "em": Metric("share", "max", "answers that equal the true span"),
    "span_f1": Metric("share", "max", "mean F1 of the positions of answer and true span"),
    "bits_per_byte": Metric("bits", "min", "cross-entropy per byte of text"),
    "perplexity": Metric("1", "min", "exponential of the cross-entropy per token"),
    "map": Metric("share", "max", "mean average precision over overlaps from 0.5 to 0.95"),
    "map50": Metric("share", "max", "mean average precision at an overlap of 0.5"),
    "ndcg10": Metric("share", "max", "discounted gain of the held-out item in the first ten"),
    "recall10": Metric("share", "max", "held-out items among the first ten"),
    "cer": Metric("share of characters", "min", "edits per character of the transcript"),
    "wer": Metric("share of words", "min", "edits per word of the transcript"),
    "mean": Metric("share", "max", "mean of the heads' own primary metrics"),
    "loss": Metric("nats", "min", "mean loss on labels"),
    "ece": Metric("share", "min", "expected calibration error, 15 bins (Guo et al. 2017)"),
    "agreement": Metric("share", "max", "answers that are the full teacher's"),
    "kl": Metric("nats", "min", "KL divergence from the full teacher's outputs, at temperature 1"),
}
"""By name. A head's own metric in a task of several is called ``HEAD.NAME``."""

TASK_METRICS: Mapping[str, tuple[str, ...]] = {
    "image_classification": (
        "accuracy", "precision", "recall", "f1", "loss", "ece", "agreement", "kl",
    ),
    "text_classification": (
        "accuracy", "f1", "mcc", "rare_recall", "precision", "recall", "loss", "ece", "agreement",
        "kl",
    ),
    "language_model": ("bits_per_byte", "perplexity", "accuracy", "loss", "agreement", "kl"),
}  # fmt: skip
"""By kind of task; the first is its primary one."""


def metric_of(name: str) -> Metric:
    """What a metric is, also one of a head (``HEAD.NAME``)."""
    return METRICS[name.rpartition(".")[2]]


def is_metric(name: str) -> bool:
    """Whether there is such a metric, also one of a head."""
    return name.rpartition(".")[2] in METRICS


def gain_of(metric: str, before: float, after: float) -> float:
    """By how much a metric has become better; negative where it has become worse.

    Of a share the difference, of anything else the difference relative to what it was.
    """
    gain = score_of(metric, after) - score_of(metric, before)
    return gain if metric_of(metric).is_share else gain / max(abs(before), 1e-12)


def reaches(metric: str, value: float, goal: float) -> bool:
    """Whether a value is as good as a goal, in the metric's own unit and direction."""
    return score_of(metric, value) >= score_of(metric, goal)


def share_of(metric: str, whole: float, share: float) -> float:
    """The value that is worth a share of another: of a metric where less is better, more."""
    return whole / share if score_of(metric, 1.0) < 0 else whole * share


def score_of(metric: str, value: float) -> float:
    """A metric's value as a score, higher being better."""
    return -value if metric_of(metric).mode == "min" else value
