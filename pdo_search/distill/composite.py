"""The composite of light teacher and student: which numbers its modes get, which mode is taken.

Pure functions of logits. Training is in ``combine``, the model itself in ``models.composite``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.schema import CompositeConfig
from pdo_search.models.composite import TINY, Fit, composite_log_probs, deferred
from pdo_search.models.cost import Cost
from pdo_search.tasks.base import Split
from pdo_search.tasks.metrics import classification_metrics

__all__ = ["choose", "fit_calibration", "fit_modes", "fit_threshold", "fit_weight"]

GRID = 101
CALIBRATIONS = torch.logspace(-1.5, 1.5, 121)


def fit_calibration(logits_NC: Tensor, targets_N: Tensor) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2)."""
    losses = torch.stack([F.cross_entropy(logits_NC / t, targets_N) for t in CALIBRATIONS])
    return CALIBRATIONS[losses.argmin()].item()


def fit_weight(student_NC: Tensor, teacher_NC: Tensor, targets_N: Tensor) -> float:
    """Teacher's weight of an ensemble that minimises the negative log-likelihood."""
    student = F.softmax(student_NC, dim=1).gather(1, targets_N[:, None])
    teacher = F.softmax(teacher_NC, dim=1).gather(1, targets_N[:, None])
    weights = torch.linspace(0, 1, GRID)
    losses = -(weights * teacher + (1 - weights) * student + TINY).log().mean(dim=0)
    return weights[losses.argmin()].item()


def fit_threshold(
    student_NC: Tensor,
    teacher_NC: Tensor,
    targets_N: Tensor,
    calibration: float,
    max_deferred: float = 1.0,
) -> float:
    """Threshold of a cascade with the highest accuracy; of equal ones the one that defers least.

    Args:
        student_NC: (N, C) logits.
        teacher_NC: (N, C) logits.
        targets_N: (N,) labels.
        calibration: temperature of the student's confidence.
        max_deferred: largest share that may be deferred.
    """
    confidence = F.softmax(student_NC / calibration, dim=1).amax(dim=1)
    order = confidence.argsort(stable=True)
    student_right = (student_NC.argmax(dim=1) == targets_N)[order].long()
    teacher_right = (teacher_NC.argmax(dim=1) == targets_N)[order].long()
    zero = torch.zeros(1, dtype=torch.long)
    # With the k least confident deferred: the teacher's hits on those, the student's on the rest.
    hits = torch.cat([zero, teacher_right.cumsum(0)]) + student_right.sum()
    hits = hits - torch.cat([zero, student_right.cumsum(0)])
    hits = hits[: int(max_deferred * len(confidence)) + 1]
    count = int(hits.argmax())
    ranked = confidence[order]
    return ranked[count].item() if count < len(ranked) else 1.0 + TINY


def fit_modes(
    student: Mapping[Split, Tensor],
    teacher: Mapping[Split, Tensor],
    targets: Mapping[Split, Tensor],
    *,
    student_cost: Cost,
    teacher_cost: Cost,
    full_flops: float,
    config: CompositeConfig,
) -> list[dict[str, Any]]:
    """One row per mode: fitted on the transfer split, measured on validation.

    Where transfer examples have no label, the teacher's top class stands in.

    Args:
        student: logits (N, C) of ``TRANSFER`` and ``VALIDATION``, on the CPU.
        teacher: the light teacher's.
        targets: labels (N,).
        student_cost: of the student.
        teacher_cost: of the light teacher.
        full_flops: FLOPs of the full teacher, the unit of the budget.
        config: modes and budget.

    Returns:
        Rows of the ``composites`` table but for ``finetuned``, ``chosen`` and ``within_budget``.
    """
    on_s, on_t = student[Split.TRANSFER], teacher[Split.TRANSFER]
    labels = targets[Split.TRANSFER]
    labels = torch.where(labels < 0, on_t.argmax(dim=1), labels)
    rows = []
    for mode in config.modes:
        fit = Fit(mode)
        if mode == "ensemble":
            fit = Fit(mode, weight=fit_weight(on_s, on_t, labels))
        elif mode == "cascade":
            calibration = fit_calibration(on_s, labels)
            allowed = 1.0
            if config.max_flops is not None:
                spare = config.max_flops * full_flops - student_cost.flops
                allowed = min(max(spare / teacher_cost.flops, 0.0), 1.0)
            threshold = fit_threshold(on_s, on_t, labels, calibration, allowed)
            fit = Fit(mode, threshold=threshold, calibration=calibration)
        own, other = student[Split.VALIDATION], teacher[Split.VALIDATION]
        metrics = classification_metrics(
            composite_log_probs(fit, own, other), targets[Split.VALIDATION]
        )
        share = deferred(fit, own).float().mean().item()
        runs_student = 0 if mode == "teacher" else 1
        rows.append(
            {
                **asdict(fit),
                "val_accuracy": metrics["accuracy"],
                "val_loss": metrics["loss"],
                "val_ece": metrics["ece"],
                "flops": runs_student * student_cost.flops + share * teacher_cost.flops,
                "latency_ms": runs_student * student_cost.latency_ms
                + share * teacher_cost.latency_ms,
                "deferred": share,
            }
        )
    return rows


def choose(
    rows: Sequence[Mapping[str, Any]], max_flops: float | None, full_flops: float
) -> list[dict[str, Any]]:
    """The rows with ``within_budget`` and ``chosen``: the most accurate mode within the budget.

    Of equally accurate modes the cheapest is chosen; where none fits the budget, the cheapest.
    """
    limit = float("inf") if max_flops is None else max_flops * full_flops
    fitting = [row for row in rows if row["flops"] <= limit]
    if fitting:
        best = max(fitting, key=lambda row: (row["val_accuracy"], -row["flops"]))
    else:
        best = min(rows, key=lambda row: row["flops"])
    return [
        {**row, "within_budget": row["flops"] <= limit, "chosen": row["mode"] == best["mode"]}
        for row in rows
    ]
