"""Whether a teacher knows anything: what it gets right beside what guessing reaches.

A checkpoint with another order of classes, or run on inputs that are prepared otherwise, loads
without a word and teaches noise. Knows no files and no search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import TeacherConfig
from pdo_search.distill.evaluate import metrics_of
from pdo_search.tasks.base import HeadKind, Split, Task, target_of

__all__ = ["Standing", "measured_standing", "refuse_guessing", "standing", "warning_of"]

EXAMPLES = 512
"""Validation examples that a quick look takes: two standard errors are 4% at most."""
SEED = 0
ERRORS = 2


@dataclass(frozen=True)
class Standing:
    """What a teacher gets right on validation, and what needs no teacher.

    Attributes:
        value: share of right answers.
        examples: on how many examples.
        chance: share of right answers of a guess among the classes.
        majority: share of the most frequent class in the whole validation split.
        metric: what the share is called.
    """

    value: float
    examples: int
    chance: float
    majority: float
    metric: str

    @property
    def knows(self) -> bool:
        """Whether it is better than guessing, by two standard errors."""
        error = math.sqrt(self.value * (1 - self.value) / self.examples)
        return self.value >= max(self.chance, self.majority) + ERRORS * error

    def __str__(self) -> str:
        return (
            f"val_{self.metric} {self.value:.4f} on {self.examples:,} examples;"
            f" chance {self.chance:.4f}, the most frequent class alone {self.majority:.4f}"
        )


def standing(task: Task, value: float, examples: int | None = None) -> Standing | None:
    """A share of right answers on so many validation examples, or on all, beside what needs no
    teacher; None of a task that is no classification of examples."""
    head = task.heads[0]
    if len(task.heads) > 1 or head.kind is not HeadKind.CATEGORICAL or head.positions is not None:
        return None
    labels = task.examples(Split.VALIDATION).labels()
    targets = labels[target_of(head.name)]
    majority = int(targets.bincount().max()) / len(targets)
    return Standing(value, examples or len(targets), 1 / head.size, majority, task.metrics[0])


def measured_standing(task: Task, model: nn.Module, device: torch.device) -> Standing | None:
    """A quick look at a model: on some validation examples, the same ones each time.

    Args:
        task: the task.
        model: on ``device``; left as it is.
        device: where to run.
    """
    examples = task.examples(Split.VALIDATION)
    generator = torch.Generator().manual_seed(SEED)
    picked = torch.randperm(len(examples), generator=generator)[:EXAMPLES].sort().values
    found = metrics_of(task, model, examples.select(picked), device)[task.metrics[0]]
    return standing(task, found, len(picked))


def refuse_guessing(config: TeacherConfig, found: Standing | None) -> None:
    """Refuse a given teacher that is no better than guessing.

    Raises:
        InputError: it is given, and not forced.
    """
    if found is None or found.knows or not config.is_given or config.force:
        return
    raise InputError(
        f"the teacher is no better than guessing: {found}",
        path="teacher.weights" if config.weights is not None else "teacher.arch",
        value=config.weights if config.weights is not None else config.arch,
        remedy="give `teacher.normalization` as it was trained, the order of classes as here"
        " (they are sorted by name), and the right checkpoint; or `teacher.force: true`",
    )


def warning_of(config: TeacherConfig, found: Standing | None) -> str | None:
    """What a user should know of a teacher that is used though it is no better than guessing."""
    if found is None or found.knows:
        return None
    why = "nothing trains it here" if config.is_given else "its training has taught it nothing"
    return (
        f"Warning: the teacher is no better than guessing; {why}. Students will learn from labels"
        " at best."
    )
