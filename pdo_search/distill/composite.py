"""The composite of light teacher and student: which numbers its modes get, which mode is taken.

Fits stream what both models say, batch after batch. Training is in ``combine``, the model itself in
``models.composite``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from pdo_search.config.metrics import score_of
from pdo_search.config.recipe import CompositeConfig
from pdo_search.distill.curriculum import losses_with_answers
from pdo_search.models.composite import (
    Fit,
    calibrated,
    can_calibrate,
    composite_outputs,
    deferred,
)
from pdo_search.models.cost import Cost
from pdo_search.records import CompositeRow
from pdo_search.tasks.base import Batch, Outputs, Split, Task
from pdo_search.tasks.kinds import with_answers

__all__ = ["Said", "choose", "fit_calibration", "fit_modes", "fit_threshold", "fit_weight"]

GRID = 101
ABOVE_ALL = 1.0 + 1e-8
"""A threshold that no confidence reaches."""
CALIBRATIONS = torch.logspace(-1.5, 1.5, 121)


@dataclass(frozen=True)
class Said:
    """What student and light teacher say about a batch.

    Attributes:
        student: outputs by head.
        teacher: outputs by head.
        batch: with labels.
    """

    student: Outputs
    teacher: Outputs
    batch: Batch


def fit_calibration(task: Task, said: Iterable[Said]) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2); 1
    where no temperature makes confidence right."""
    if not can_calibrate(task.heads):
        return 1.0
    totals = torch.zeros(len(CALIBRATIONS), dtype=torch.float64)
    for part in said:
        for place, temperature in enumerate(CALIBRATIONS):
            scaled = {name: found / temperature for name, found in part.student.items()}
            totals[place] += _summed_loss(task, scaled, part)
    return CALIBRATIONS[totals.argmin()].item()


def fit_weight(task: Task, said: Iterable[Said]) -> float:
    """Teacher's weight of an ensemble that minimises the label loss."""
    weights = torch.linspace(0, 1, GRID)
    totals = torch.zeros(GRID, dtype=torch.float64)
    for part in said:
        for place, weight in enumerate(weights.tolist()):
            fit = Fit("ensemble", weight=weight)
            mixed = composite_outputs(task.heads, fit, part.student, part.teacher, part.batch)
            totals[place] += _summed_loss(task, mixed, part)
    return weights[totals.argmin()].item()


def _summed_loss(task: Task, outputs: Outputs, said: Said) -> float:
    """Label loss of a batch, summed; on the teacher's answer where there is no label."""
    return losses_with_answers(task, outputs, said.batch, said.teacher).double().sum().item()


def fit_threshold(
    confidence: Tensor, student: Tensor, teacher: Tensor, max_deferred: float = 1.0
) -> float:
    """Threshold of a cascade with the highest quality; of equal ones the one that defers least.

    Args:
        confidence: (N,) the student's.
        student: (N,) what its answers are worth.
        teacher: (N,) what the teacher's are worth.
        max_deferred: largest share that may be deferred.
    """
    order = confidence.argsort(stable=True)
    own, other = student[order].double(), teacher[order].double()
    zero = torch.zeros(1, dtype=torch.float64)
    # With the k least confident deferred: the teacher's worth on those, the student's on the rest.
    worth = torch.cat([zero, other.cumsum(0)]) + own.sum()
    worth = worth - torch.cat([zero, own.cumsum(0)])
    worth = worth[: int(max_deferred * len(confidence)) + 1]
    count = int(worth.argmax())
    ranked = confidence[order]
    return ranked[count].item() if count < len(ranked) else ABOVE_ALL


def _cascade(task: Task, said: Callable[[], Iterable[Said]], allowed: float) -> Fit:
    """A cascade's calibration and threshold."""
    fit = Fit("cascade", threshold=0.0, calibration=fit_calibration(task, said()))
    confidence, own, other = [], [], []
    for part in said():
        labels = with_answers(task.heads, part.batch, part.teacher)
        scaled = calibrated(task.heads, fit, part.student)
        confidence.append(task.confidence(scaled, part.batch))
        own.append(task.quality(part.student, labels))
        other.append(task.quality(part.teacher, labels))
    found, student, teacher = (torch.cat(part).cpu() for part in (confidence, own, other))
    return replace(fit, threshold=fit_threshold(found, student, teacher, allowed))


def fit_modes(
    task: Task,
    said: Mapping[Split, Callable[[], Iterable[Said]]],
    *,
    student_cost: Cost,
    teacher_cost: Cost,
    full_flops: float,
    config: CompositeConfig,
) -> list[CompositeRow]:
    """One row per mode: fitted on the transfer split, measured on validation.

    Where transfer examples have no label, the teacher's answer stands in.

    Args:
        task: what outputs are worth.
        said: what both say about ``TRANSFER`` and ``VALIDATION``, batch after batch, at each call.
        student_cost: of the student.
        teacher_cost: of the light teacher.
        full_flops: FLOPs of the full teacher, the unit of the budget.
        config: modes and budget.
    """
    rows = []
    for mode in config.modes:
        fit = Fit(mode)
        if mode == "ensemble":
            fit = Fit(mode, weight=fit_weight(task, said[Split.TRANSFER]()))
        elif mode == "cascade":
            allowed = 1.0
            if config.max_flops is not None:
                spare = config.max_flops * full_flops - student_cost.flops
                allowed = min(max(spare / teacher_cost.flops, 0.0), 1.0)
            fit = _cascade(task, said[Split.TRANSFER], allowed)
        meter, asked = task.meter(), []
        for part in said[Split.VALIDATION]():
            outputs = composite_outputs(task.heads, fit, part.student, part.teacher, part.batch)
            meter.update(outputs, part.batch)
            asked.append(deferred(task.heads, fit, part.student, part.batch))
        share = torch.cat(asked).float().mean().item()
        metrics = meter.compute()
        runs_student = 0 if mode == "teacher" else 1
        rows.append(
            CompositeRow(
                **asdict(fit),
                val=metrics,
                val_score=score_of(task.metrics[0], metrics[task.metrics[0]]),
                flops=runs_student * student_cost.flops + share * teacher_cost.flops,
                latency_ms=runs_student * student_cost.latency_ms + share * teacher_cost.latency_ms,
                deferred=share,
            )
        )
    return rows


def choose(
    rows: Sequence[CompositeRow], max_flops: float | None, full_flops: float
) -> list[CompositeRow]:
    """The rows with ``within_budget`` and ``chosen``: the best mode within the budget.

    Of equally good modes the cheapest is chosen; where none fits the budget, the cheapest.
    """
    limit = float("inf") if max_flops is None else max_flops * full_flops
    fitting = [row for row in rows if row.flops <= limit]
    if fitting:
        best = max(fitting, key=lambda row: (row.val_score, -row.flops))
    else:
        best = min(rows, key=lambda row: row.flops)
    return [
        replace(row, within_budget=row.flops <= limit, chosen=row.mode == best.mode) for row in rows
    ]
