"""The `check` command, and the pre-flight checks of `run`: all that can be known without training.

Builds the task and the models at the ends of every dimension; starts neither Ray nor a trial.
Decoded pictures of a folder are kept in the store, where the sweep finds them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.base.screen import screen
from pdo_search.config.load import Loaded
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import (
    AnyTaskConfig,
    ExecutionConfig,
    LimitsConfig,
    OptimizerConfig,
    StudentConfig,
    TrialConfig,
    UserTaskConfig,
)
from pdo_search.config.space import Space
from pdo_search.distill.chance import (
    Standing,
    measured_standing,
    refuse_guessing,
    warning_of,
)
from pdo_search.distill.execution import threads
from pdo_search.distill.losses import label_mean
from pdo_search.distill.probe import probe
from pdo_search.distill.rehearsal import Removal, rehearse, removal_of, shrinking_of
from pdo_search.distill.stage import num_levels
from pdo_search.distill.step import Updates
from pdo_search.distill.teaching import bytes_per_view, views_of_full_teacher
from pdo_search.models.build import build_for
from pdo_search.models.cost import Cost, measure_cost
from pdo_search.models.layout import placed
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import IDS, Examples, LeftOut, Outputs, Split, Task, target_of
from pdo_search.tasks.inputs import PictureInputs

__all__ = ["check_experiment", "preflight", "print_check"]

SEARCHED = tuple(split for split in Split if split is not Split.TEST)
FORWARD = 1 / 3
"""Cost of a forward pass as a share of an update: backward costs twice as much."""
CLASSES_SHOWN = 8
LEFT_OUT_SHOWN = 12
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


def preflight(loaded: Loaded, notes: Sequence[str] = ()) -> str:
    """Build what an experiment names, so that what cannot be built is refused before all else.

    Prints what was left out of the splits, and which layers are new on given weights, if any.

    Args:
        loaded: the experiment.
        notes: lines to print as well.

    Returns:
        The fingerprint of its task.

    Raises:
        InputError: data, models or weights cannot be used, or the teacher is given and no better
            than guessing.
    """
    parts = _parts(loaded)
    if (known := _standing(loaded, parts)) is not None:
        try:
            refuse_guessing(loaded.experiment.teacher, known)
        except InputError as error:
            raise error.at(file=loaded.file) from None
    _print_examples(_examples(parts.task))
    _print_left_out(_left_out(parts.task))
    _print_dropped(_dropped(parts.task))
    limits = loaded.experiment.limits
    costs = _costs(parts) if (limits.params, limits.flops) != (None, None) else []
    _print_notes([*parts.notes, *_beyond_limits(limits, costs), *notes])
    return parts.task.fingerprint


def check_experiment(loaded: Loaded, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Build what an experiment names, and measure it.

    Args:
        loaded: the experiment.
        notes: lines to print as well.

    Returns:
        What was found, JSON-able.

    Raises:
        InputError: data, models or weights cannot be used.
    """
    # What a user's model prints must not come between the lines of JSON.
    with contextlib.redirect_stdout(sys.stderr):
        return _measured(loaded, notes)


def _measured(loaded: Loaded, notes: Sequence[str]) -> dict[str, Any]:
    experiment, parts = loaded.experiment, _parts(loaded)
    task = parts.task
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
        "estimate": _estimate(loaded, parts),
        "stored_outputs": _stored_outputs(loaded, parts.task),
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


def _print_examples(examples: dict[str, dict[str, int]]) -> None:
    """A line per split; of many classes the smallest and the largest."""
    for split, counts in examples.items():
        known = {name: count for name, count in counts.items() if count}
        said = [f"{name} {count:,}" for name, count in known.items()]
        if len(said) > CLASSES_SHOWN:
            classes = [name for name in known if name != "unlabelled"] or [*known]
            few, most = min(classes, key=known.__getitem__), max(classes, key=known.__getitem__)
            said = [
                f"{len(classes)} classes, from {known[few]:,} ({few}) to {known[most]:,} ({most})"
            ]
            if "unlabelled" in known:
                said.append(f"unlabelled {known['unlabelled']:,}")
        total = f"{sum(counts.values()):,}"
        screen().print(f"{split:<10} {total:>9}: {', '.join(said)}", soft_wrap=True)


def _left_out(task: Task) -> list[dict[str, Any]]:
    return [asdict(one) for one in task.left_out]


def _print_left_out(left_out: list[dict[str, Any]]) -> None:
    for one in left_out[:LEFT_OUT_SHOWN]:
        screen().print(f"Files: {LeftOut(**one)}", soft_wrap=True)
    if len(left_out) > LEFT_OUT_SHOWN:
        screen().print(f"Files: and {len(left_out) - LEFT_OUT_SHOWN} lines more, see check --json")


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


def _trials(loaded: Loaded, prefix: str = "student.") -> list[TrialConfig]:
    """Trials at the ends of the dimensions below a prefix, the others at their first."""
    first = {d.path: d.ends()[0] for d in loaded.space}
    points = [first]
    for dimension in loaded.space:
        if dimension.path.startswith(prefix):
            points += [{**first, dimension.path: end} for end in dimension.ends()[1:]]
    trials = []
    for point in points:
        try:
            trials.append(resolve(loaded.experiment, point))
        except Infeasible:
            continue
    return trials


def _student(config: StudentConfig, cost: Cost | None, teacher: Cost) -> dict[str, Any]:
    if cost is None:
        return {"arch": f"teacher, {config.shrink:g} of its channels removed"}
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
    outputs = len(parts.task.examples(Split.VALIDATION))
    outputs += epoch * len(views_of_full_teacher(trial.recipe, trial.recipe.num_views))
    ladder, ladders = _ladder_passes(loaded), _num_ladders(loaded)
    trials_s = sum(experiment.num_trials.values()) * trial.recipe.epochs * epoch / student_rate
    return {
        "student_examples_per_s": student_rate,
        "teacher_examples_per_s": teacher_rate,
        "teacher_training_s": epochs * train / teacher_rate,
        "teacher_outputs_s": outputs * FORWARD / teacher_rate,
        "ladders": ladders,
        "ladder_levels": ladder.levels,
        "ladder_s": ladder.passes * train / teacher_rate,
        "trial_s": trial.recipe.epochs * epoch / student_rate,
        "all_trials_one_slot_s": trials_s,
        "total_one_slot_s": trials_s
        + (epochs * train + outputs * FORWARD + ladders * ladder.passes * train) / teacher_rate,
    }


def _stored_outputs(loaded: Loaded, task: Task) -> dict[str, int]:
    """Bytes of teachers' outputs: of a view, and of all that one trial may ask for."""
    each = bytes_per_view(task)
    most = 0
    for trial in _trials(loaded, ""):
        recipe = trial.recipe
        if recipe.teacher_outputs == "stored" and recipe.method != "scratch":
            views = recipe.num_views if task.varies else 1
            most = max(most, each * views * (1 + num_levels(recipe)))
    return {"bytes_per_view": each, "bytes_per_trial": most}


@dataclass(frozen=True)
class _LadderWork:
    """What the longest ladder of the space takes at most: levels, and passes over train with the
    cost of training the full teacher."""

    levels: int
    passes: float


def _ladder_passes(loaded: Loaded) -> _LadderWork:
    """Each level is trained with its parent's answers, and then asked for its own."""
    found = _LadderWork(0, 0.0)
    for trial in _trials(loaded, ""):
        recipe = trial.recipe
        levels = num_levels(recipe)
        each = recipe.simplify.recovery_epochs * (1 + FORWARD) + FORWARD
        found = max(found, _LadderWork(levels, levels * each), key=lambda work: work.passes)
    return found


def _num_ladders(loaded: Loaded) -> int:
    """How many ladders trials may build: those that agree in these dimensions share one."""
    own = [d for d in loaded.space if d.path.partition(".")[0] in ("prune_ratio", "simplify")]
    return int(min(loaded.experiment.search.num_trials, Space(tuple(own)).num_points))


def _rate(task: Task, model: nn.Module, execution: ExecutionConfig) -> float:
    """Training examples per second on the CPU, from a few steps."""
    model = placed(model, torch.device("cpu")).train()
    train = task.examples(Split.TRAIN)
    raw = train.batch(torch.arange(TIMED_BATCH) % len(train))
    drawn = {**raw, **task.draw(raw, raw[IDS], 0)}
    batch = {**drawn, **task.prepare(drawn)}
    updates = Updates(task, model, OptimizerConfig(), execution)

    def loss_of(outputs: Outputs) -> tuple[Tensor]:
        return (label_mean(task, outputs, batch),)

    times = []
    with threads(1):
        for _ in range(TIMED_STEPS):
            started = time.perf_counter()
            updates(batch, loss_of, progress=0.5)
            times.append(time.perf_counter() - started)
    return TIMED_BATCH / sorted(times)[TIMED_STEPS // 2]


def print_check(found: dict[str, Any]) -> None:
    """Print what ``check_experiment`` found."""
    console = screen()
    task = found["task"]
    if "classes" in task:
        what = f"{task['classes']} classes, {'x'.join(map(str, task['input_shape']))}"
    else:
        what = ", ".join(f"{name} ({kind})" for name, kind in task["heads"].items())
    console.print(
        f"{found['name']}: {task['source']}, {what}",
        soft_wrap=True,
    )
    _print_examples(task["examples"])
    _print_left_out(task["left_out"])
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
        f"{_of(len(found['dimensions']), 'dimension')},"
        f" {_of(found['num_trials'], 'trial')}{baselines}:"
        f" {', '.join(found['dimensions']) or 'no search'}",
        soft_wrap=True,
    )
    estimate = found["estimate"]
    ladder = ""
    if estimate["ladder_levels"]:
        ladder = (
            f"{_of(estimate['ladders'], 'ladder')} of up to"
            f" {_of(estimate['ladder_levels'], 'level')}, {_time(estimate['ladder_s'])} each, "
        )
    console.print(
        f"On one CPU, one trial at a time: teacher {_time(estimate['teacher_training_s'])}, its"
        f" outputs {_time(estimate['teacher_outputs_s'])}, {ladder}a whole trial"
        f" {_time(estimate['trial_s'])}, all trials {_time(estimate['all_trials_one_slot_s'])};"
        f" {_time(estimate['total_one_slot_s'])} in all, if no trial is stopped",
        soft_wrap=True,
    )
    stored = found["stored_outputs"]
    console.print(
        f"Teachers' outputs: {_bytes(stored['bytes_per_view'])} a view in the store, up to"
        f" {_bytes(stored['bytes_per_trial'])} for a trial",
        soft_wrap=True,
    )


def _bytes(count: float) -> str:
    """Such as ``412 KB``, ``3.1 GB``."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def _of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    """Such as ``8 s``, ``12 min``, ``3.1 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
