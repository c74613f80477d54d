"""A task that a user's function makes."""

from __future__ import annotations

import inspect
from pathlib import Path

from pdo_search.base.errors import InputError
from pdo_search.base.factory import call_factory, load_factory
from pdo_search.config.task import UserTaskConfig
from pdo_search.tasks.base import Task

__all__ = ["build_user_task"]

WANTED = ("heads", "metrics", "fingerprint", "examples", "label_loss", "meter")
"""By which a task is known."""


def build_user_task(config: UserTaskConfig, base_dir: Path | None) -> Task:
    """The task of a function.

    Raises:
        InputError: the function cannot be called, or returns no task, or one of other metrics.
    """
    where = "task.kind"
    function = load_factory(config.kind, where, base_dir)
    given = {"seed": config.seed} if "seed" in inspect.signature(function).parameters else {}
    arguments = given | config.args
    task = call_factory(function, arguments, name=config.kind, path=where, offered=("seed",))
    if missing := [name for name in WANTED if not hasattr(task, name)]:
        raise InputError(
            f"returned a {type(task).__name__} without {', '.join(missing)}, which is no task",
            path=where,
            value=config.kind,
            remedy="return a pdo_search.tasks.task.BaseTask, or what has all of its methods",
        )
    found: Task = task
    if tuple(found.metrics) != config.metrics:
        raise InputError(
            "names other metrics than the task has",
            path="task.metrics",
            value=list(config.metrics),
            remedy=f"write [{', '.join(found.metrics)}]",
        )
    return found
