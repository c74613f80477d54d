"""What a sweep will take, from a few timed steps: seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdo_search.base.errors import Infeasible
from pdo_search.config.load import Loaded
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.config.space import Space
from pdo_search.config.training import ExecutionConfig, OptimizerConfig
from pdo_search.distill.execution import threads
from pdo_search.distill.losses import label_mean
from pdo_search.distill.stage import num_levels
from pdo_search.distill.step import Updates
from pdo_search.distill.teaching import planned_views
from pdo_search.models.layout import placed
from pdo_search.tasks.base import IDS, Outputs, Split, Task

__all__ = ["TIMED_BATCH", "estimated", "trials_at_ends"]

FORWARD = 1 / 3
"""Cost of a forward pass as a share of an update: backward costs twice as much."""
TIMED_STEPS = 5
TIMED_BATCH = 64


def estimated(
    loaded: Loaded, task: Task, teacher: nn.Module, trial: TrialConfig, student: nn.Module | None
) -> dict[str, float]:
    """Seconds that the sweep would take if no trial were stopped, from a few timed steps."""
    experiment = loaded.experiment
    train, epoch = len(task.examples(Split.TRAIN)), task.epoch_examples
    execution = experiment.execution.model_copy(update={"compile": False})
    teacher_rate = _rate(task, teacher, execution)
    student_rate = teacher_rate if student is None else _rate(task, student, execution)
    epochs = experiment.teacher.train.epochs if experiment.teacher.train else 0
    outputs = len(task.examples(Split.VALIDATION))
    outputs += epoch * len(planned_views(trial.recipe, trial.recipe.num_views).get(0, []))
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


@dataclass(frozen=True)
class _LadderWork:
    """What the longest ladder of the space takes at most: levels, and passes over train with the
    cost of training the full teacher."""

    levels: int
    passes: float


def _ladder_passes(loaded: Loaded) -> _LadderWork:
    """Each level is trained with its parent's answers, and then asked for its own."""
    found = _LadderWork(0, 0.0)
    for trial in trials_at_ends(loaded, ""):
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


def trials_at_ends(loaded: Loaded, prefix: str = "student.") -> list[TrialConfig]:
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
