"""The composite of light teacher and student: a mode with its numbers, and the model.

Modes: ``student`` alone, ``teacher`` alone, ``ensemble`` (weighted probabilities), ``cascade`` (the
student answers, and defers to the teacher where its calibrated confidence is below a threshold).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor, nn

from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.safefile import odd_entry, read_regular
from pdo_search.models.modelfile import (
    InferenceModel,
    ModelSpec,
    load_inference,
    load_model_file,
    save_model,
)
from pdo_search.models.predict import RawInputs, predicted, raw_batch, single
from pdo_search.tasks.base import Batch, Head, HeadKind, Outputs
from pdo_search.tasks.kinds import KINDS, confidence_of, mask_of_head

__all__ = [
    "CompositeModel",
    "Fit",
    "calibrated",
    "can_calibrate",
    "composite_outputs",
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


def composite_outputs(
    heads: Sequence[Head], fit: Fit, student: Outputs, teacher: Outputs, batch: Batch
) -> Outputs:
    """Outputs of a composite by head, of classes log-probabilities; a gradient reaches the student.

    A cascade's answer is the teacher's where it defers: there the student has no gradient, so that
    fine-tuning spends it on the examples that it keeps.
    """
    asked = deferred(heads, fit, student, batch) if fit.mode == "cascade" else None
    found = {}
    for head in heads:
        kind, mask = KINDS[head.kind], mask_of_head(head, batch)
        own, other = student[head.name], teacher[head.name]
        if fit.mode == "ensemble":
            assert fit.weight is not None
            found[head.name] = kind.mixture(own, other, fit.weight, mask)
        elif fit.mode == "teacher":
            found[head.name] = kind.normal(other, mask)
        elif asked is None:
            found[head.name] = kind.normal(own, mask)
        else:
            own = calibrated(heads, fit, student)[head.name]
            chosen = asked.view(-1, *[1] * (own.dim() - 1))
            found[head.name] = torch.where(chosen, kind.normal(other, mask), kind.normal(own, mask))
    return found


def calibrated(heads: Sequence[Head], fit: Fit, student: Outputs) -> Outputs:
    """The student's outputs over the temperature of its confidence, where one was fitted."""
    assert fit.calibration is not None
    return {
        h.name: student[h.name] / fit.calibration for h in heads if can_calibrate(heads)
    } or student


def can_calibrate(heads: Sequence[Head]) -> bool:
    """Whether a temperature makes confidence right: of one categorical head per example."""
    kind = (heads[0].kind, heads[0].positions)
    return len(heads) == 1 and kind == (HeadKind.CATEGORICAL, None)


def deferred(heads: Sequence[Head], fit: Fit, student: Outputs, batch: Batch) -> Tensor:
    """Which examples (B,) a mode passes on to the teacher."""
    first = student[heads[0].name]
    if fit.mode != "cascade":
        return torch.full(first.shape[:1], fit.mode != "student", device=first.device)
    assert fit.threshold is not None
    free = {name: found.detach() for name, found in calibrated(heads, fit, student).items()}
    return confidence_of(heads, free, batch) < fit.threshold


class CompositeModel(nn.Module):
    """A stored composite that takes raw inputs.

    Attributes:
        fit: mode and fitted numbers.
        student: takes raw inputs; None in mode ``teacher``.
        teacher: takes raw inputs; None in mode ``student``.
    """

    def __init__(
        self, fit: Fit, student: InferenceModel | None, teacher: InferenceModel | None
    ) -> None:
        super().__init__()
        self.fit = fit
        self.student = student
        self.teacher = teacher

    @property
    def spec(self) -> ModelSpec:
        """Of what it takes and gives: both models' own."""
        model = self.student if self.student is not None else self.teacher
        assert model is not None
        return model.spec

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    def outputs(self, raw: RawInputs) -> Outputs:
        """Outputs by head of raw inputs by name; of pictures (N, C, H, W) or a list of texts
        alone, too.

        A cascade runs the teacher on the examples that it defers, and on no others.
        """
        return self.said(raw_batch(self.spec.inputs, raw, self.device))[0]

    def said(self, batch: Batch) -> tuple[Outputs, Tensor]:
        """Outputs by head of raw inputs, and which examples (N,) the teacher was asked about."""
        heads = self.spec.heads
        if self.student is None or self.teacher is None:
            model = self.student if self.student is not None else self.teacher
            assert model is not None
            own = model.outputs(batch)
            found = composite_outputs(heads, Fit("student"), own, own, batch)
            return found, deferred(heads, self.fit, own, batch)
        student = self.student.outputs(batch)
        asked = deferred(heads, self.fit, student, batch)
        teacher = {name: torch.zeros_like(found) for name, found in student.items()}
        if asked.any():
            hard = {name: part[asked] for name, part in batch.items()}
            for name, theirs in self.teacher.outputs(hard).items():
                teacher[name][asked] = theirs
        return composite_outputs(heads, self.fit, student, teacher, batch), asked

    def forward(self, raw: RawInputs) -> Any:
        """Log-probabilities (N, C) of raw pictures (N, C, H, W), in the values that the source has,
        or of a list of texts; of a model of several heads outputs by head."""
        return single(self.outputs(raw))

    @torch.inference_mode()
    def predict(self, raw: RawInputs, **options: Any) -> Any:
        """The names of the classes of raw pictures; of texts those of all classes with their
        probabilities, the most probable first; of other models answers by head."""
        return predicted(
            self.spec.inputs, self.spec.heads, self.outputs, raw, self.device, **options
        )


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
