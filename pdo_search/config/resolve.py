"""From an experiment and one point of its space to the configuration of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pdo_search.config.schema import Experiment, Recipe, StudentConfig, TrialConfig
from pdo_search.config.space import fill
from pdo_search.errors import Infeasible

__all__ = ["resolve"]


def resolve(experiment: Experiment, point: Mapping[str, Any]) -> TrialConfig:
    """The trial at a point.

    Args:
        experiment: a validated experiment.
        point: a value for every dimension, by path.

    Raises:
        Infeasible: the combination breaks a rule between fields, such as more stages than epochs;
            the bounds alone were checked when the file was loaded.
    """
    try:
        recipe = Recipe.model_validate(fill(experiment.trial, point))
        student = StudentConfig.model_validate(fill(experiment.student, point, "student."))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Infeasible(str(first["msg"]).removeprefix("Value error, ")) from None
    scheduler = experiment.scheduler
    # Stages end with a checkpoint anyway.
    pauses = scheduler.pauses and scheduler.clock == "epoch"
    return TrialConfig(
        task=experiment.task,
        teacher=experiment.teacher,
        student=student,
        recipe=recipe,
        limits=experiment.limits,
        resources=experiment.resources,
        execution=experiment.execution,
        evaluation=experiment.scheduler.clock,
        seed=experiment.search.seed,
        save_after=scheduler.milestones(recipe.epochs) if pauses else (),
    )
