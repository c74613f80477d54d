"""The composite of light teacher and student: a mode with its numbers, and the model.

Modes: ``student`` alone, ``teacher`` alone, ``ensemble`` (weighted probabilities), ``cascade`` (the
student answers, and defers to the teacher where its calibrated confidence is below a threshold).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.safefile import odd_entry, read_regular
from pdo_search.models.modelfile import (
    InferenceModel,
    ModelSpec,
    load_inference,
    load_model_file,
    save_model,
)

__all__ = [
    "CompositeModel",
    "Fit",
    "composite_log_probs",
    "deferred",
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
TINY = 1e-8


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
