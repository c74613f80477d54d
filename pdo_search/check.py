"""The `check` command, and the pre-flight checks of `run`: all that can be known without training.

Builds the task and the models at the ends of every dimension; starts neither Ray nor a trial.
Decoded pictures of a folder are kept in the store, where the sweep finds them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from pdo_search.config.load import Loaded
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import ModelConfig, OptimizerConfig, StudentConfig, TrialConfig
from pdo_search.distill.cost import Cost, measure_cost
from pdo_search.distill.optim import make_optimizer
from pdo_search.errors import Infeasible, InputError
from pdo_search.screen import screen
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.models import build_model

__all__ = ["check_experiment", "preflight", "print_check"]

TIMED_STEPS = 5
TIMED_BATCH = 64


@dataclass(frozen=True)
class _Parts:
    """What an experiment names, built: trials at the ends of the student's dimensions, each with
    its student, None where that is to be cut from the teacher."""

    task: Task
    teacher: nn.Module
    trials: list[tuple[TrialConfig, nn.Module | None]]


def preflight(loaded: Loaded) -> None:
    """Build what an experiment names, so that what cannot be built is refused before all else.

    Raises:
        InputError: data, models or weights cannot be used.
    """
    _parts(loaded)


def check_experiment(loaded: Loaded) -> dict[str, Any]:
    """Build what an experiment names, and measure it.

    Returns:
        What was found, JSON-able.

    Raises:
        InputError: data, models or weights cannot be used.
    """
    experiment, parts = loaded.experiment, _parts(loaded)
    task = parts.task
    teacher = measure_cost(parts.teacher, task.input_shape, torch.device("cpu"))
    return {
        "name": experiment.name,
        "task": {
            "source": experiment.task.data.source,
            "input_shape": list(task.input_shape),
            "classes": len(task.class_names),
            "splits": {
                split.value: len(task.examples(split)) for split in Split if split is not Split.TEST
            },
        },
        "teacher": {"arch": experiment.teacher.arch, **_numbers(teacher)},
        "students": [
            _student(trial.student, model, task, teacher) for trial, model in parts.trials
        ],
        "dimensions": {d.path: d.kind for d in loaded.space},
        "num_trials": experiment.search.num_trials,
        "baseline_trials": dict.fromkeys(
            experiment.search.baselines, experiment.search.trials_per_baseline
        ),
        "estimate": _estimate(loaded, parts),
    }


def _parts(loaded: Loaded) -> _Parts:
    experiment, base_dir = loaded.experiment, loaded.base_dir
    try:
        task = cached_task(experiment.task, base_dir, experiment.output.store_root)
        teacher = _built(experiment.teacher, task, base_dir, "teacher")
        trials = [(t, _student_built(t.student, task, base_dir)) for t in _trials(loaded)]
        return _Parts(task, teacher, trials)
    except InputError as error:
        hint = f"correct it, then `pdo-search check {loaded.file}`"
        raise error.at(file=loaded.file, remedy=hint) from None


def _student_built(config: StudentConfig, task: Task, base_dir: Path) -> nn.Module | None:
    return None if config.shrink is not None else _built(config, task, base_dir, "student")


def _built(config: ModelConfig, task: Task, base_dir: Path, path: str) -> nn.Module:
    size = task.heads[0].size
    return build_model(config, task.input_shape, size, seed=0, base_dir=base_dir, path=path)


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
    train = len(parts.task.examples(Split.TRAIN))
    teacher_rate = _rate(parts.task, parts.teacher)
    student_rate = teacher_rate if student is None else _rate(parts.task, student)
    epochs = experiment.teacher.train.epochs if experiment.teacher.train else 0
    return {
        "student_images_per_s": student_rate,
        "teacher_images_per_s": teacher_rate,
        "teacher_training_s": epochs * train / teacher_rate,
        "trial_s": trial.recipe.epochs * train / student_rate,
        "all_trials_one_slot_s": sum(experiment.num_trials.values())
        * trial.recipe.epochs
        * train
        / student_rate,
    }


def _rate(task: Task, model: nn.Module) -> float:
    """Training examples per second on the CPU, from a few steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = model.to(memory_format=torch.channels_last).train()
    trial = task.examples(Split.TRAIN).select(torch.arange(TIMED_BATCH))
    inputs = task.view(trial.inputs(), trial.ids, 0)
    optimizer = make_optimizer(model, OptimizerConfig())
    times = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        logits = next(iter(task.forward(model, inputs).values()))
        F.cross_entropy(logits, trial.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return TIMED_BATCH / sorted(times)[TIMED_STEPS // 2]


def print_check(found: dict[str, Any]) -> None:
    """Print what ``check_experiment`` found."""
    console = screen()
    task = found["task"]
    splits = ", ".join(f"{name} {count:,}" for name, count in task["splits"].items())
    shape = "x".join(map(str, task["input_shape"]))
    console.print(
        f"{found['name']}: {task['source']}, {task['classes']} classes, {shape}; {splits}"
    )
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
