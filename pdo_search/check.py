"""The `check` command, and the pre-flight checks of `run`: all that can be known without training.

Builds the task and the models at the ends of every dimension; starts neither Ray nor a trial.
Decoded pictures of a folder are kept in the store, where the sweep finds them.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from pdo_search.config.load import Loaded
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import ExecutionConfig, OptimizerConfig, StudentConfig, TrialConfig
from pdo_search.distill.chance import (
    Standing,
    measured_standing,
    refuse_guessing,
    warning_of,
)
from pdo_search.distill.cost import Cost, measure_cost
from pdo_search.distill.execution import threads
from pdo_search.distill.losses import hard_label_loss
from pdo_search.distill.step import Updates
from pdo_search.errors import Infeasible, InputError
from pdo_search.screen import screen
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.models import build_for

__all__ = ["check_experiment", "preflight", "print_check"]

SEARCHED = tuple(split for split in Split if split is not Split.TEST)
TIMED_STEPS = 5
TIMED_BATCH = 64
FEW_VALIDATION = 50
"""Below, one example is more than two points of accuracy."""


@dataclass(frozen=True)
class _Parts:
    """What an experiment names, built: trials at the ends of the student's dimensions, each with
    its student, None where that is to be cut from the teacher; lines about layers that are new."""

    task: Task
    teacher: nn.Module
    trials: list[tuple[TrialConfig, nn.Module | None]]
    notes: list[str]


def preflight(loaded: Loaded) -> str:
    """Build what an experiment names, so that what cannot be built is refused before all else.

    Prints what was left out of the splits, and which layers are new on given weights, if any.

    Returns:
        The fingerprint of its task.

    Raises:
        InputError: data, models or weights cannot be used, or the teacher is given and no better
            than guessing.
    """
    parts = _parts(loaded)
    _standing(loaded, parts)
    _print_dropped(_dropped(parts.task))
    _print_notes(parts.notes)
    return parts.task.fingerprint


def check_experiment(loaded: Loaded) -> dict[str, Any]:
    """Build what an experiment names, and measure it.

    Returns:
        What was found, JSON-able.

    Raises:
        InputError: data, models or weights cannot be used, or the teacher is given and no better
            than guessing.
    """
    # What a user's model prints must not come between the lines of JSON.
    with contextlib.redirect_stdout(sys.stderr):
        return _measured(loaded)


def _measured(loaded: Loaded) -> dict[str, Any]:
    experiment, parts = loaded.experiment, _parts(loaded)
    task = parts.task
    teacher = measure_cost(parts.teacher, task.input_shape, torch.device("cpu"))
    # Before its speed is measured, which trains it for a few steps.
    known = _standing(loaded, parts)
    warning = None if known is None else warning_of(experiment.teacher, known)
    return {
        "name": experiment.name,
        "task": {
            "source": experiment.task.data.source,
            "input_shape": list(task.input_shape),
            "classes": len(task.class_names),
            "splits": {split.value: len(task.examples(split)) for split in SEARCHED},
            "labelled": {
                split.value: int((task.examples(split).targets >= 0).sum()) for split in SEARCHED
            },
            "epoch_examples": task.epoch_examples,
            "dropped": _dropped(task),
        },
        "teacher": {
            "arch": experiment.teacher.arch,
            **_numbers(teacher),
            **({} if known is None else {"validation": asdict(known)}),
        },
        "students": [
            _student(trial.student, model, task, teacher) for trial, model in parts.trials
        ],
        "dimensions": {d.path: d.kind for d in loaded.space},
        "num_trials": experiment.search.num_trials,
        "baseline_trials": dict.fromkeys(
            experiment.search.baselines, experiment.search.trials_per_baseline
        ),
        "estimate": _estimate(loaded, parts),
        "notes": [*parts.notes, *([] if warning is None else [warning])],
    }


def _standing(loaded: Loaded, parts: _Parts) -> Standing | None:
    """What a given teacher knows of some validation examples; None of one that is trained here.

    Raises:
        InputError: it knows nothing, and is not forced.
    """
    if not loaded.experiment.teacher.is_given:
        return None
    found = measured_standing(parts.task, parts.teacher, torch.device("cpu"))
    try:
        refuse_guessing(loaded.experiment.teacher, found)
    except InputError as error:
        raise error.at(file=loaded.file) from None
    return found


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        screen().print(note, soft_wrap=True)


def _few_said(task: Task) -> list[str]:
    """A line where validation is too small to tell one trial from another."""
    count = len(task.examples(Split.VALIDATION))
    if count >= FEW_VALIDATION:
        return []
    return [
        f"Validation has only {count} examples, and one of them is {100 / count:.1f} points of"
        " accuracy: trials that differ by less are not told apart. More data helps, or a larger"
        " task.splits.validation."
    ]


def _dropped(task: Task) -> dict[str, dict[str, int]]:
    """How many examples each split lost, by the split that holds the same contents."""
    lost: dict[str, Counter[str]] = {}
    for dropped in task.dropped:
        lost.setdefault(dropped.split.value, Counter())[dropped.held_by.value] += dropped.count
    return {split: dict(by_holder) for split, by_holder in lost.items()}


def _print_dropped(dropped: dict[str, dict[str, int]]) -> None:
    """One line, if anything was left out of a split."""
    said = [
        f"{count:,} of {split} that {'is' if count == 1 else 'are'} in {holder}"
        for split, by_holder in dropped.items()
        for holder, count in by_holder.items()
    ]
    if said:
        screen().print(f"Left out, as copies: {', '.join(said)}", soft_wrap=True)


def _labels_said(labelled: int, count: int) -> str:
    """Such as ``100 labelled``, ``1,105 unlabelled`` or both."""
    parts = ((labelled, "labelled"), (count - labelled, "unlabelled"))
    return " and ".join(f"{number:,} {word}" for number, word in parts if number)


def _parts(loaded: Loaded) -> _Parts:
    experiment, base_dir = loaded.experiment, loaded.base_dir
    notes: list[str] = []
    try:
        task = cached_task(experiment.task, base_dir, experiment.output.store_root)
        notes += _few_said(task)
        build = partial(build_for, task, seed=0, base_dir=base_dir, say=notes.append)
        teacher = build(experiment.teacher, path="teacher")
        trials = [
            (t, None if t.student.shrink is not None else build(t.student, path="student"))
            for t in _trials(loaded)
        ]
        return _Parts(task, teacher, trials, list(dict.fromkeys(notes)))
    except InputError as error:
        hint = f"correct it, then `pdo-search check {loaded.file}`"
        raise error.at(file=loaded.file, remedy=hint) from None


def _trials(loaded: Loaded) -> list[TrialConfig]:
    """Trials at the ends of the student's dimensions, the other dimensions at their first."""
    first = {d.path: d.ends()[0] for d in loaded.space}
    points = [first]
    for dimension in loaded.space:
        if dimension.path.startswith("student."):
            points += [{**first, dimension.path: end} for end in dimension.ends()[1:]]
    trials = []
    for point in points:
        try:
            trials.append(resolve(loaded.experiment, point))
        except Infeasible:
            continue
    return trials


def _student(
    config: StudentConfig, model: nn.Module | None, task: Task, teacher: Cost
) -> dict[str, Any]:
    if model is None:
        return {"arch": f"teacher, {config.shrink:g} of its channels removed"}
    cost = measure_cost(model, task.input_shape, torch.device("cpu"))
    return {
        "arch": config.arch,
        "width": config.width,
        "depth": config.depth,
        **_numbers(cost),
        "flops_share": cost.flops / teacher.flops,
    }


def _numbers(cost: Cost) -> dict[str, float]:
    return {"params": cost.params, "flops": cost.flops, "latency_ms": cost.latency_ms}


def _estimate(loaded: Loaded, parts: _Parts) -> dict[str, float]:
    """Seconds that the sweep would take if no trial were stopped, from a few timed steps."""
    experiment = loaded.experiment
    trial, student = parts.trials[0]
    train, epoch = len(parts.task.examples(Split.TRAIN)), parts.task.epoch_examples
    execution = experiment.execution.model_copy(update={"compile": False})
    teacher_rate = _rate(parts.task, parts.teacher, execution)
    student_rate = teacher_rate if student is None else _rate(parts.task, student, execution)
    epochs = experiment.teacher.train.epochs if experiment.teacher.train else 0
    return {
        "student_images_per_s": student_rate,
        "teacher_images_per_s": teacher_rate,
        "teacher_training_s": epochs * train / teacher_rate,
        "trial_s": trial.recipe.epochs * epoch / student_rate,
        "all_trials_one_slot_s": sum(experiment.num_trials.values())
        * trial.recipe.epochs
        * epoch
        / student_rate,
    }


def _rate(task: Task, model: nn.Module, execution: ExecutionConfig) -> float:
    """Training examples per second on the CPU, from a few steps."""
    model = model.to(memory_format=torch.channels_last).train()
    train = task.examples(Split.TRAIN)
    trial = train.select(torch.arange(TIMED_BATCH) % len(train))
    inputs = task.view(trial.inputs(), trial.ids, 0)
    updates = Updates(task, model, OptimizerConfig(), execution)

    def loss_of(logits: Tensor) -> tuple[Tensor]:
        return (hard_label_loss(logits, trial.targets).mean(),)

    times = []
    with threads(1):
        for _ in range(TIMED_STEPS):
            started = time.perf_counter()
            updates(inputs, loss_of, progress=0.5)
            times.append(time.perf_counter() - started)
    return TIMED_BATCH / sorted(times)[TIMED_STEPS // 2]


def print_check(found: dict[str, Any]) -> None:
    """Print what ``check_experiment`` found."""
    console = screen()
    task = found["task"]
    splits = ", ".join(
        f"{name} {_labels_said(task['labelled'][name], count)}"
        for name, count in task["splits"].items()
    )
    shape = "x".join(map(str, task["input_shape"]))
    console.print(
        f"{found['name']}: {task['source']}, {task['classes']} classes, {shape}; {splits}"
    )
    _print_dropped(task["dropped"])
    table = Table()
    for name in ("model", "params", "MFLOPs", "of the teacher's FLOPs"):
        table.add_column(name, justify="left" if name == "model" else "right")
    rows = [("teacher", found["teacher"]), *(("student", s) for s in found["students"])]
    for role, row in rows:
        sizes = " ".join(f"{k} {row[k]}" for k in ("width", "depth") if row.get(k))
        if "params" not in row:
            table.add_row(f"{role} {row['arch']}", "", "", "")
            continue
        share = f"{row['flops_share']:.1%}" if "flops_share" in row else ""
        label = f"{role} {row['arch']} {sizes}".strip()
        table.add_row(label, f"{row['params']:,}", f"{row['flops'] / 1e6:.2f}", share)
    console.print(table)
    if "validation" in found["teacher"]:
        known = Standing(**found["teacher"]["validation"])
        console.print(f"Teacher as given: {known}", soft_wrap=True)
    _print_notes(found["notes"])
    baselines = "".join(f" + {count} {name}" for name, count in found["baseline_trials"].items())
    console.print(
        f"{len(found['dimensions'])} dimensions, {found['num_trials']} trials{baselines}:"
        f" {', '.join(found['dimensions']) or 'no search'}"
    )
    estimate = found["estimate"]
    console.print(
        f"On one CPU: teacher {estimate['teacher_training_s']:.0f} s, a whole trial"
        f" {estimate['trial_s']:.0f} s, all trials {estimate['all_trials_one_slot_s']:.0f} s"
        " if none is stopped; ladder and teacher outputs not counted"
    )
