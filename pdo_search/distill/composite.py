"""The composite of light teacher and student: fitting, choosing, and the model itself.

Modes: ``student`` alone, ``teacher`` alone, ``ensemble`` (weighted probabilities), ``cascade`` (the
student answers, and defers to the teacher where its calibrated confidence is below a threshold).
Fits are pure functions of logits. Training is in ``combine``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.config.schema import CompositeConfig
from pdo_search.distill.cost import Cost
from pdo_search.errors import InputError, StoreError
from pdo_search.safefile import odd_entry, read_regular
from pdo_search.tasks.base import Split
from pdo_search.tasks.metrics import classification_metrics
from pdo_search.tasks.modelfile import (
    InferenceModel,
    ModelSpec,
    load_inference,
    load_model_file,
    save_model,
)

__all__ = [
    "CompositeModel",
    "Fit",
    "choose",
    "composite_log_probs",
    "deferred",
    "fit_calibration",
    "fit_modes",
    "fit_threshold",
    "fit_weight",
    "load_composite",
    "save_composite",
]

FILE = "composite.json"
NUMBERS = {
    "student": (),
    "teacher": (),
    "ensemble": ("weight",),
    "cascade": ("threshold", "calibration"),
}
"""What each mode needs."""
MAX_FIT_BYTES = 1 << 16
GRID = 101
TINY = 1e-8
CALIBRATIONS = torch.logspace(-1.5, 1.5, 121)


@dataclass(frozen=True)
class Fit:
    """A mode with its fitted numbers; those that the mode does not use are None.

    Attributes:
        mode: one of the four.
        weight: of the teacher in an ensemble, 0 to 1.
        threshold: confidence below which a cascade defers, 0 to 1.
        calibration: temperature of the student's confidence in a cascade.
    """

    mode: str
    weight: FiniteFloat | None = None
    threshold: FiniteFloat | None = None
    calibration: FiniteFloat | None = None


_FIT = TypeAdapter(Fit)


def composite_log_probs(fit: Fit, student_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Log-probabilities (N, C) of a composite, differentiable in the student's logits.

    A cascade's answer is the teacher's where it defers: there the student has no gradient, so that
    fine-tuning spends it on the examples that it keeps.
    """
    if fit.mode == "student":
        return F.log_softmax(student_NC, dim=1)
    if fit.mode == "teacher":
        return F.log_softmax(teacher_NC, dim=1)
    if fit.mode == "ensemble":
        assert fit.weight is not None
        mixed = fit.weight * F.softmax(teacher_NC, 1) + (1 - fit.weight) * F.softmax(student_NC, 1)
        return (mixed + TINY).log()
    assert fit.calibration is not None
    asked = deferred(fit, student_NC)[:, None]
    own = F.log_softmax(student_NC / fit.calibration, dim=1)
    return torch.where(asked, F.log_softmax(teacher_NC, dim=1), own)


def deferred(fit: Fit, student_NC: Tensor) -> Tensor:
    """Which examples (N,) a mode passes on to the teacher."""
    if fit.mode != "cascade":
        answer = fit.mode != "student"
        return torch.full(student_NC.shape[:1], answer, device=student_NC.device)
    assert fit.threshold is not None
    assert fit.calibration is not None
    confidence = F.softmax(student_NC.detach() / fit.calibration, dim=1).amax(dim=1)
    return confidence < fit.threshold


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


class CompositeModel(nn.Module):
    """A stored composite that takes raw pictures.

    Attributes:
        fit: mode and fitted numbers.
        student: takes raw pictures; None in mode ``teacher``.
        teacher: takes raw pictures; None in mode ``student``.
    """

    def __init__(
        self, fit: Fit, student: InferenceModel | None, teacher: InferenceModel | None
    ) -> None:
        super().__init__()
        self.fit = fit
        self.student = student
        self.teacher = teacher

    def forward(self, pictures: Tensor) -> Tensor:
        """Log-probabilities (N, C) of pictures (N, C, H, W), in the values that the source has.

        A cascade runs the teacher on the examples that it defers, and on no others.
        """
        if self.student is None or self.teacher is None:
            model = self.student if self.student is not None else self.teacher
            assert model is not None
            return F.log_softmax(model(pictures), dim=1)
        student = self.student(pictures)
        asked = deferred(self.fit, student)
        teacher = torch.zeros_like(student)
        if asked.any():
            teacher[asked] = self.teacher(pictures[asked])
        return composite_log_probs(self.fit, student, teacher)


def save_composite(
    directory: Path, fit: Fit, student: nn.Module, student_spec: ModelSpec, teacher: Path
) -> None:
    """Write a composite: its numbers, and the models that its mode runs.

    Args:
        directory: made.
        fit: mode and numbers.
        student: the student as the composite has it.
        student_spec: how to build it.
        teacher: directory of the light teacher's model, which is copied.

    Raises:
        StoreError: the teacher's directory holds a link, whose target must not be copied.
    """
    directory.mkdir(parents=True)
    if odd := odd_entry(teacher):
        raise StoreError(f"{odd} is neither a file nor a folder: {teacher} is not copied")
    if fit.mode != "teacher":
        save_model(directory / "student", student, student_spec)
    if fit.mode != "student":
        shutil.copytree(teacher, directory / "teacher")
    (directory / FILE).write_text(json.dumps(asdict(fit), indent=1), encoding="utf-8")


def load_composite(
    directory: Path, base_dir: Path | None = None, *, trusted: bool = False
) -> CompositeModel:
    """A stored composite in evaluation mode; no code in the files is run.

    Args:
        directory: of the composite.
        base_dir: folder whose code may be run, where a function made a model; None for none.
        trusted: this process stored it, so that its models' functions may be any that can be
            imported: the experiment named them.

    Raises:
        InputError: the directory holds no composite, or a damaged one.
    """
    try:
        fit = _FIT.validate_json(read_regular(directory / FILE, MAX_FIT_BYTES))
        if fit.mode not in NUMBERS or None in [getattr(fit, name) for name in NUMBERS[fit.mode]]:
            raise ValueError(f"{fit} is no mode with its numbers")
    except (OSError, ValueError) as error:
        raise InputError(f"holds no composite that can be read: {error}", file=directory) from None

    def part(name: str, without: str) -> InferenceModel | None:
        if fit.mode == without:
            return None
        if trusted:
            return InferenceModel(*load_model_file(directory / name, base_dir))
        return load_inference(directory / name, base_dir)

    return CompositeModel(fit, part("student", "teacher"), part("teacher", "student")).eval()
