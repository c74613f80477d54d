"""The test split, read by a confirmation alone: its student, its composite and the full teacher.

A run reads the split once, at its end, when there is nothing left to choose. The full teacher is
the same for all runs of a sweep: what it reaches is measured once and kept in the store.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from pdo_search.distill.context import Context
from pdo_search.distill.evaluate import evaluation_batches, metrics_of
from pdo_search.distill.ladder import Level
from pdo_search.models.build import placed
from pdo_search.models.composite import load_composite
from pdo_search.models.cost import Cost
from pdo_search.models.modelfile import load_for
from pdo_search.records import ConfirmationRow
from pdo_search.tasks.base import Examples, Task

__all__ = ["tested_composite", "tested_student", "tested_teacher"]

KIND = "tested"
VERSION = 1
FILE = "tested.json"


def tested_student(
    task: Task, student: nn.Module, examples: Examples, device: torch.device
) -> ConfirmationRow:
    """What a student reaches, and the number of test examples.

    Args:
        task: whose meter measures.
        student: on ``device``; left as it is.
        examples: the test split.
        device: where to run.
    """
    metrics = metrics_of(task, student, examples, device)
    return ConfirmationRow(test=metrics, test_examples=len(examples))


def tested_teacher(task: Task, full: Level, examples: Examples, on: Context) -> ConfirmationRow:
    """What the full teacher reaches, measured by whoever comes first.

    Args:
        task: the task.
        full: level 0 of the ladder.
        examples: the test split.
        on: where it runs, and where the measured numbers lie.
    """

    def build(folder: Path) -> None:
        model, _ = load_for(task, full.path, on.base_dir)
        metrics = metrics_of(task, placed(model, on.device), examples, on.device)
        (folder / FILE).write_text(json.dumps(metrics), encoding="utf-8")

    key = {
        "version": VERSION,
        "teacher": full.key,
        "task": task.fingerprint,
        "device": on.device.type,
    }
    found = on.store.get_or_build(KIND, key, build)
    metrics = json.loads((found.path / FILE).read_text(encoding="utf-8"))
    return ConfirmationRow(teacher_test=metrics)


def tested_composite(
    task: Task,
    directory: Path,
    examples: Examples,
    on: Context,
    *,
    student_cost: Cost,
    teacher_cost: Cost,
) -> ConfirmationRow:
    """What a run's composite reaches, on raw inputs as a user gives them.

    Args:
        task: whose meter measures.
        directory: of the composite that the run has just saved.
        examples: the test split.
        on: where it runs.
        student_cost: of the student.
        teacher_cost: of the light teacher.
    """
    composite = load_composite(directory, on.base_dir, trusted=True)
    placed(composite, on.device)
    meter, asked = task.meter(), 0
    heads = task.heads
    for rows in evaluation_batches(task, examples, on.device):
        batch = {name: tensor.to(on.device) for name, tensor in examples.batch(rows).items()}
        with torch.inference_mode():
            outputs, deferred = composite.said(batch)
        meter.update({h.name: outputs[h.name] for h in heads}, {**batch, **task.prepare(batch)})
        asked += int(deferred.sum())
    share = asked / len(examples)
    flops = share * teacher_cost.flops
    if composite.student is not None:
        flops += student_cost.flops
    return ConfirmationRow(
        composite_mode=composite.fit.mode,
        composite_deferred=share,
        composite_flops=flops,
        composite_test=meter.compute(),
    )
