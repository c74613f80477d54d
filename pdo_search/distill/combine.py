"""The end of a trial: student saved, composite of light teacher and student fitted, tuned, saved.

The fits are pure functions in ``composite``; this module gives them outputs and keeps the outcome.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pdo_search.base.seeds import seed_for
from pdo_search.config.recipe import CompositeConfig
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.composite import Said, choose, fit_modes
from pdo_search.distill.evaluate import outputs_of
from pdo_search.distill.feed import Feed
from pdo_search.distill.fit import fit
from pdo_search.distill.losses import label_mean
from pdo_search.distill.teaching import Teaching
from pdo_search.models.composite import Fit, composite_outputs, save_composite
from pdo_search.models.cost import Cost
from pdo_search.models.modelfile import ModelSpec, save_model
from pdo_search.records import CompositeRow, Row, TrialRow
from pdo_search.tasks.base import Batch, Outputs, Split, Task

__all__ = ["combine"]

FITTING_SPLITS = (Split.TRANSFER, Split.VALIDATION)
FINETUNE_LR_SHARE = 0.1
COMBINING = ("ensemble", "cascade")


@dataclass(frozen=True)
class Parts:
    """What a composite is made of."""

    config: TrialConfig
    task: Task
    teaching: Teaching
    student_cost: Cost
    device: torch.device

    @property
    def composite(self) -> CompositeConfig:
        """The composite's configuration."""
        assert self.config.recipe.composite is not None
        return self.config.recipe.composite

    @property
    def light(self) -> int:
        """The ladder's last level: the light teacher."""
        return self.config.recipe.num_stages


def combine(
    config: TrialConfig,
    task: Task,
    teaching: Teaching,
    student: nn.Module,
    spec: ModelSpec,
    cost: Cost,
    directory: Path,
) -> list[Row]:
    """Save the student; fit, fine-tune, choose and save the composite.

    Weight, threshold and calibration are fitted on the transfer split; the mode is chosen on
    validation, under the cost budget. Fine-tuning trains a copy of the student inside the better of
    the combining modes and is kept where it helps; the student saved alone stays as distilled.

    Args:
        config: the trial.
        task: its task.
        teaching: its pool and teacher outputs.
        student: the trained student.
        spec: how to build it again.
        cost: its cost.
        directory: receives ``student/`` and, if configured, ``composite/``.

    Returns:
        Rows of the modes, and what is known of the trial now.
    """
    directory.mkdir(parents=True)
    save_model(directory / "student", student, spec)
    if config.recipe.composite is None:
        return [TrialRow(model="student")]
    parts = Parts(config, task, teaching, cost, next(student.parameters()).device)
    rows = _fit(parts, student)
    tuned, tuned_rows = _finetuned(parts, student, rows)
    plain = {row.mode: row for row in rows}
    better = {
        row.mode: replace(row, finetuned=True)
        for row in tuned_rows
        if row.val_score > plain[row.mode].val_score
    }
    full_flops = teaching.ladder.level(0).cost.flops
    merged = choose([*(plain | better).values()], parts.composite.max_flops, full_flops)
    chosen = next(row for row in merged if row.chosen)
    save_composite(
        directory / "composite",
        _fit_of(chosen),
        tuned if chosen.finetuned else student,
        spec,
        teaching.ladder.level(parts.light).path,
    )
    known = TrialRow(
        model="student",
        composite="composite",
        composite_mode=chosen.mode,
        composite_score=chosen.val_score,
        composite_flops=chosen.flops,
    )
    return [*merged, known]


def _fit_of(row: CompositeRow) -> Fit:
    return Fit(row.mode, row.weight, row.threshold, row.calibration)


def _fit(parts: Parts, student: nn.Module) -> list[CompositeRow]:
    """One row per mode, fitted on transfer and measured on validation."""
    ladder = parts.teaching.ladder
    return fit_modes(
        parts.task,
        {split: partial(_said, parts, student, split) for split in FITTING_SPLITS},
        student_cost=parts.student_cost,
        teacher_cost=ladder.level(parts.light).cost,
        full_flops=ladder.level(0).cost.flops,
        config=parts.composite,
    )


def _said(parts: Parts, student: nn.Module, split: Split) -> Iterator[Said]:
    """What student and light teacher say about a split's plain examples, batch after batch."""
    examples = parts.task.examples(split)
    bank = parts.teaching.split_bank(parts.light, split)
    for rows, batch, outputs in outputs_of(parts.task, student, examples, parts.device):
        yield Said(outputs, parts.teaching.dense(bank, rows, batch), batch)


def _finetuned(
    parts: Parts, student: nn.Module, rows: list[CompositeRow]
) -> tuple[nn.Module, list[CompositeRow]]:
    """A copy of the student tuned inside the better combining mode, and that mode's new row."""
    combining = [row for row in rows if row.mode in COMBINING]
    if not combining or parts.composite.finetune_epochs == 0:
        return student, []
    best = max(combining, key=lambda row: row.val_score)
    tuned = copy.deepcopy(student)
    _finetune(parts, tuned, best)
    return tuned, [row for row in _fit(parts, tuned) if row.mode == best.mode]


def _finetune(parts: Parts, student: nn.Module, row: CompositeRow) -> None:
    """Train the student inside a composite on the plain train split, at a low learning rate."""
    config, task = parts.config, parts.task
    feed = Feed(task.examples(Split.TRAIN), parts.device)
    bank = parts.teaching.split_bank(parts.light, Split.TRAIN)
    settings = config.recipe.optimizer

    def loss_of(outputs: Outputs, batch: Batch, rows: Tensor) -> Tensor:
        taught = parts.teaching.dense(bank, rows, batch)
        combined = composite_outputs(task.heads, _fit_of(row), outputs, taught, batch)
        return label_mean(task, combined, batch, settings.label_smoothing)

    fit(
        parts.task,
        student,
        feed,
        loss_of,
        settings.model_copy(update={"lr": settings.lr * FINETUNE_LR_SHARE}),
        epochs=parts.composite.finetune_epochs,
        seed=seed_for(config.seed, "composite"),
        execution=config.execution,
        augments=False,
    )
