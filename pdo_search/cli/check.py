"""The `check` command, and the pre-flight checks of `run`: all that can be known without training.

Builds the task and the models at the ends of every dimension; starts neither Ray nor a trial.
Decoded pictures of a folder are kept in the store, where the sweep finds them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.cli.before import print_dropped, print_examples, print_left_out, print_notes
from pdo_search.cli.estimate import TIMED_BATCH, estimated, trials_at_ends
from pdo_search.cli.stored import stored_outputs
from pdo_search.config.load import Loaded
from pdo_search.config.model import StudentConfig
from pdo_search.config.resolve import resolve
from pdo_search.config.run import LimitsConfig
from pdo_search.config.schema import TrialConfig
from pdo_search.config.task import AnyTaskConfig, UserTaskConfig
from pdo_search.distill.chance import (
    Standing,
    measured_standing,
    refuse_guessing,
    warning_of,
)
from pdo_search.distill.execution import threads
from pdo_search.distill.probe import probe
from pdo_search.distill.rehearsal import Removal, rehearse, removal_of, shrinking_of
from pdo_search.models.build import build_for
from pdo_search.models.cost import Cost, measure_cost
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Examples, Split, Task, target_of
from pdo_search.tasks.inputs import PictureInputs

__all__ = ["check_experiment", "preflight"]

SEARCHED = tuple(split for split in Split if split is not Split.TEST)
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


def preflight(loaded: Loaded, notes: Sequence[str] = ()) -> str:
    """Build what an experiment names, so that what cannot be built is refused before all else.

    Prints what was left out of the splits, and which layers are new on given weights, if any.

    Args:
        loaded: the experiment.
        notes: lines to print as well.

    Returns:
        The fingerprint of its task.

    Raises:
        InputError: data, models or weights cannot be used, the teacher is given and no better than
            guessing, or what teachers say takes too much of the store.
    """
    parts = _parts(loaded)
    stored_outputs(loaded, parts.task)
    if (known := _standing(loaded, parts)) is not None:
        try:
            refuse_guessing(loaded.experiment.teacher, known)
        except InputError as error:
            raise error.at(file=loaded.file) from None
    print_examples(_examples(parts.task))
    print_left_out(_left_out(parts.task))
    print_dropped(_dropped(parts.task))
    limits = loaded.experiment.limits
    costs = _costs(parts) if (limits.params, limits.flops) != (None, None) else []
    print_notes([*parts.notes, *_beyond_limits(limits, costs), *notes])
    return parts.task.fingerprint


def check_experiment(loaded: Loaded, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Build what an experiment names, and measure it.

    Args:
        loaded: the experiment.
        notes: lines to print as well.

    Returns:
        What was found, JSON-able.

    Raises:
        InputError: data, models or weights cannot be used, or what teachers say takes too much of
            the store.
    """
    # What a user's model prints must not come between the lines of JSON.
    with contextlib.redirect_stdout(sys.stderr):
        return _measured(loaded, notes)


def _measured(loaded: Loaded, notes: Sequence[str]) -> dict[str, Any]:
    experiment, parts = loaded.experiment, _parts(loaded)
    task = parts.task
    stored = stored_outputs(loaded, task)
    # As trials measure it, but a cluster's machine may have more CPUs than this one.
    with threads(min(experiment.resources.threads, os.cpu_count() or 1)):
        teacher = measure_cost(task, parts.teacher, torch.device("cpu"))
        costs = _costs(parts)
    # Before its speed is measured, which trains it for a few steps.
    known = _standing(loaded, parts)
    return {
        "name": experiment.name,
        "task": {
            "source": _source_of(experiment.task),
            **_shape(task),
            "splits": {split.value: len(task.examples(split)) for split in SEARCHED},
            "labelled": {
                split.value: int(task.examples(split).labelled.sum()) for split in SEARCHED
            },
            "epoch_examples": task.epoch_examples,
            "dropped": _dropped(task),
            "examples": _examples(task),
            "left_out": _left_out(task),
        },
        "teacher": {
            "arch": experiment.teacher.arch,
            **_numbers(teacher),
            **({} if known is None else {"validation": asdict(known)}),
        },
        "students": [
            _student(trial.student, cost, teacher)
            for (trial, _), cost in zip(parts.trials, costs, strict=True)
        ],
        "dimensions": {d.path: d.kind for d in loaded.space},
        "num_trials": experiment.search.num_trials,
        "baseline_trials": dict.fromkeys(
            experiment.search.baselines, experiment.search.trials_per_baseline
        ),
        "estimate": estimated(loaded, task, parts.teacher, *parts.trials[0]),
        "stored_outputs": asdict(stored),
        "notes": [
            *parts.notes,
            *_beyond_limits(experiment.limits, costs),
            *_about_teacher(loaded, known),
            *notes,
        ],
    }


def _standing(loaded: Loaded, parts: _Parts) -> Standing | None:
    """What a given teacher knows of some validation examples; None of one that is trained here."""
    if not loaded.experiment.teacher.is_given:
        return None
    return measured_standing(parts.task, parts.teacher, torch.device("cpu"))


def _about_teacher(loaded: Loaded, known: Standing | None) -> list[str]:
    """What a user should know of a given teacher that is no better than guessing."""
    warning = None if known is None else warning_of(loaded.experiment.teacher, known)
    if known is None or warning is None:
        return []
    try:
        refuse_guessing(loaded.experiment.teacher, known)
    except InputError as error:
        return [f"Warning: `run` refuses this teacher. {error}"]
    return [warning]


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


def _examples(task: Task) -> dict[str, dict[str, int]]:
    """How many examples each split has, by class; those without a label under ``unlabelled``."""
    found = {}
    for split in Split:
        examples = task.test_examples() if split is Split.TEST else task.examples(split)
        found[split.value] = _by_class(task, examples)
        if unlabelled := int((~examples.labelled).sum()):
            found[split.value]["unlabelled"] = unlabelled
    return found


def _by_class(task: Task, examples: Examples) -> dict[str, int]:
    """How many labelled examples there are of each class; of other tasks in all."""
    head, inputs = task.heads[0], task.inputs()
    if not isinstance(inputs, PictureInputs):
        return {"examples": int(examples.labelled.sum())}
    classes = examples.labels()[target_of(head.name)][examples.labelled]
    counts = torch.bincount(classes, minlength=head.size).tolist()
    return dict(zip(inputs.class_names, counts, strict=True))


def _source_of(config: AnyTaskConfig) -> str:
    """Where the examples come from."""
    return config.kind if isinstance(config, UserTaskConfig) else config.data.source


def _shape(task: Task) -> dict[str, Any]:
    """What an example is: the shape of pictures and the number of classes; of other tasks heads."""
    inputs = task.inputs()
    if isinstance(inputs, PictureInputs):
        return {"input_shape": list(inputs.input_shape), "classes": len(inputs.class_names)}
    return {"heads": {head.name: f"{head.kind} {head.size}" for head in task.heads}}


def _left_out(task: Task) -> list[dict[str, Any]]:
    return [asdict(one) for one in task.left_out]


def _dropped(task: Task) -> dict[str, dict[str, int]]:
    """How many examples each split lost, by the split that holds the same contents."""
    lost: dict[str, Counter[str]] = {}
    for dropped in task.dropped:
        lost.setdefault(dropped.split.value, Counter())[dropped.held_by.value] += dropped.count
    return {split: dict(by_holder) for split, by_holder in lost.items()}


def _parts(loaded: Loaded) -> _Parts:
    experiment, base_dir = loaded.experiment, loaded.base_dir
    notes: list[str] = []
    try:
        task = cached_task(experiment.task, base_dir, experiment.output.store_root)
        notes += _few_said(task)
        build = partial(build_for, task, seed=0, base_dir=base_dir, say=notes.append)
        teacher = build(experiment.teacher, path="teacher")
        trials = [
            (t, None if t.student.is_cut else build(t.student, path="student"))
            for t in trials_at_ends(loaded)
        ]
        notes += _tried(loaded, task, teacher, trials)
        return _Parts(task, teacher, trials, list(dict.fromkeys(notes)))
    except InputError as error:
        hint = f"correct it, then `pdo-search check {loaded.file}`"
        raise error.at(file=loaded.file, remedy=hint) from None


def _tried(
    loaded: Loaded,
    task: Task,
    teacher: nn.Module,
    trials: list[tuple[TrialConfig, nn.Module | None]],
) -> list[str]:
    """Lines about the models, each of which is run, stored and pruned as in a sweep.

    Raises:
        InputError: that cannot be done.
    """
    config, base_dir = loaded.experiment.teacher, loaded.base_dir
    removals = _removals(loaded, [trial for trial, _ in trials])
    batch = config.train.batch_size if config.train is not None else TIMED_BATCH
    notes = probe(
        task, teacher, config, "teacher", batch=None if config.is_given and not removals else batch
    )
    notes += rehearse(task, teacher, config, "teacher", base_dir, removals)
    for trial, student in trials:
        if student is not None:
            share = trial.recipe.optimizer.batch_size // trial.resources.workers
            notes += probe(task, student, trial.student, "student", batch=share)
            rehearse(task, student, trial.student, "student", base_dir)
    return notes


def _costs(parts: _Parts) -> list[Cost | None]:
    """What the students cost; None of one that is to be cut from the teacher."""
    device = torch.device("cpu")
    return [
        None if model is None else measure_cost(parts.task, model, device)
        for _, model in parts.trials
    ]


def _beyond_limits(limits: LimitsConfig, costs: Sequence[Cost | None]) -> list[str]:
    """A line for a limit that every student at the ends of its dimensions breaks."""
    built = [cost for cost in costs if cost is not None]
    if not built or len(built) < len(costs):
        return []
    wanted = {n: v for n in ("params", "flops") if (v := getattr(limits, n)) is not None}
    return [
        f"Warning: all students that were tried are over limits.{name} {limit:,.0f}: the smallest"
        f" has {least:,.0f}. Trials of such students are infeasible; raise the limit, or take a"
        " smaller student."
        for name, limit in wanted.items()
        if (least := min(getattr(cost, name) for cost in built)) > limit
    ]


def _removals(loaded: Loaded, trials: list[TrialConfig]) -> list[Removal]:
    """What the trials at the ends of the dimensions remove from the teacher."""
    experiment = loaded.experiment
    first = {d.path: d.ends()[0] for d in loaded.space}
    last = first | {d.path: d.ends()[-1] for d in loaded.space if d.path == "num_stages"}
    points = [last]
    for dimension in loaded.space:
        if dimension.path == "prune_ratio" or dimension.path.startswith("simplify."):
            points += [{**last, dimension.path: end} for end in dimension.ends()]
    found = []
    for method in (experiment.method, *experiment.search.baselines):
        for point in points:
            try:
                found.append(removal_of(resolve(experiment, point, method).recipe))
            except Infeasible:
                continue
    for trial in trials:
        found.append(shrinking_of(trial))
    return list(dict.fromkeys(removal for removal in found if removal is not None))


def _student(config: StudentConfig, cost: Cost | None, teacher: Cost) -> dict[str, Any]:
    if cost is None:
        if config.shrink is not None:
            return {"arch": f"teacher, {config.shrink:g} of its channels removed"}
        kept = (
            config.keep
            if isinstance(config.keep, float) or config.keep is None
            else (config.keep.model_dump(exclude_none=True))
        )
        return {"arch": f"teacher, of which {kept} stays"}
    return {
        "arch": config.arch,
        "width": config.width,
        "depth": config.depth,
        **_numbers(cost),
        "flops_share": cost.flops / teacher.flops,
    }


def _numbers(cost: Cost) -> dict[str, float]:
    return {"params": cost.params, "flops": cost.flops, "latency_ms": cost.latency_ms}
