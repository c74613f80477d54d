"""From an experiment and one point of its space to the configuration of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pdo_search.base.errors import Infeasible
from pdo_search.config.methods import Method, fixed, searched
from pdo_search.config.model import StudentConfig
from pdo_search.config.recipe import Recipe
from pdo_search.config.run import LimitsConfig
from pdo_search.config.schema import Experiment, TrialConfig
from pdo_search.config.space import Space, fill, is_dimension

__all__ = ["confirming", "most_trials", "planned_epochs", "resolve"]


def resolve(
    experiment: Experiment, point: Mapping[str, Any], method: Method | None = None
) -> TrialConfig:
    """The trial at a point.

    Args:
        experiment: a validated experiment.
        point: a value for every dimension that has an effect on the method, by path.
        method: of the trial; by default the one that the search is about.

    Raises:
        Infeasible: the combination breaks a rule between fields, such as more stages than epochs;
            the bounds alone were checked when the file was loaded.
    """
    method = method or experiment.method
    free = {key: node for key, node in experiment.trial.items() if key not in fixed(method)}
    try:
        recipe = Recipe.model_validate({**fill(free, point), "method": method})
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
        teacher_seed=experiment.search.seed,
    )


def confirming(config: TrialConfig, seed: int) -> TrialConfig:
    """A trial of a search as one run of its confirmation: a fresh seed, the whole budget, the test
    split at its end.

    It has no target that would end it early, and no limit of cost, which it kept to when it was
    found.
    """
    free = {"target": None, "target_of_teacher": None}
    return config.model_copy(
        update={
            "recipe": config.recipe.model_copy(update=free),
            "limits": LimitsConfig(trial_timeout=config.limits.trial_timeout),
            "seed": seed,
            "confirms": True,
        }
    )


def most_trials(experiment: Experiment, space: Space, method: str) -> float:
    """How many trials of a method there can be: no point of its space is run twice.

    Args:
        experiment: a validated experiment.
        space: its dimensions.
        method: of the trials.
    """
    own = searched(space, method)
    if experiment.search.sampler == "grid" and method == experiment.method:
        points = {tuple(point[path] for path in own.paths) for point in experiment.search.points}
        return len(points)
    return own.num_points


def planned_epochs(experiment: Experiment) -> int | None:
    """Epochs of every trial's budget; None where they are searched."""
    given = experiment.trial.get("epochs", Recipe.model_fields["epochs"].default)
    return None if is_dimension(given) else int(given)
