"""The experiment file, and what determines one trial, as frozen models of their sections.

Every field has its unit, range and default's reason, here and in the files of the sections. Knows
nothing of YAML, of search libraries or of torch: a search dimension is taken out of the tree
(``space``) before these models see a value.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from pdo_search.config.domains import AnyTaskConfig
from pdo_search.config.fields import Frozen, Name
from pdo_search.config.methods import PROGRESSIVE, Method
from pdo_search.config.metrics import METRICS, TASK_METRICS
from pdo_search.config.model import StudentConfig, TeacherConfig
from pdo_search.config.recipe import Recipe
from pdo_search.config.run import LimitsConfig, OutputConfig, ResourcesConfig
from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.config.task import IMAGES
from pdo_search.config.training import ExecutionConfig

__all__ = ["Experiment", "TrialConfig"]


class TrialConfig(Frozen):
    """Everything that determines one trial: an experiment at one point of its space."""

    task: AnyTaskConfig
    """What is learnt."""
    teacher: TeacherConfig
    """From whom."""
    student: StudentConfig
    """By whom."""
    recipe: Recipe
    """How."""
    limits: LimitsConfig = LimitsConfig()
    """Within what."""
    resources: ResourcesConfig = ResourcesConfig()
    """On what."""
    execution: ExecutionConfig = ExecutionConfig()
    """In which precision."""
    evaluation: Literal["epoch", "stage"] = "epoch"
    """After which of them the student is evaluated: the scheduler's clock."""
    seed: int = 0
    """Seed of initialisation and data order."""
    save_after: tuple[int, ...] = ()
    """Epochs after which the state is saved for certain: the scheduler may pause the trial there.
    They leave the trial's results as they are."""
    teacher_seed: int = 0
    """Seed of teacher and ladder: the search's, so that fresh seeds of a student find its
    teachers."""
    confirms: bool = False
    """Whether the finished student is measured on the test split, once: no trial of a search is."""


class Experiment(Frozen):
    """An experiment file. ``trial`` and ``student`` stay trees here: their leaves may be search
    dimensions, which ``space`` takes out and ``resolve`` fills in."""

    name: Name
    """Name of the sweep and of its directory."""
    task: AnyTaskConfig
    """What is learnt."""
    teacher: TeacherConfig
    """The big model."""
    student: dict[str, Any]
    """The small model (``StudentConfig``); leaves may be dimensions."""
    trial: dict[str, Any] = {}
    """The distillation (``Recipe``); leaves may be dimensions."""
    search: SearchConfig = SearchConfig()
    """Sampler and budget."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """Early stopping."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of cost and time."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial gets."""
    execution: ExecutionConfig = ExecutionConfig()
    """How updates are computed."""
    output: OutputConfig = OutputConfig()
    """Where results go."""

    @model_validator(mode="before")
    @classmethod
    def _searches_by_the_tasks_metric(cls, given: Any) -> Any:
        """Metric and mode, where they are not given, are those of the task."""
        if not isinstance(given, dict):
            return given
        task, search = given.get("task"), given.get("search") or {}
        if not isinstance(task, dict) or not isinstance(search, dict):
            return given
        own = TASK_METRICS.get(str(task.get("kind", IMAGES)), task.get("metrics"))
        filled = dict(search)
        if isinstance(own, list | tuple) and own:
            filled.setdefault("metric", f"val_{own[0]}")
        known = METRICS.get(str(filled.get("metric")).removeprefix("val_").rpartition(".")[2])
        if known is not None:
            filled.setdefault("mode", known.mode)
        return {**given, "search": filled}

    @property
    def method(self) -> Method:
        """What the search is about: the method of the trials that are no baselines."""
        method: Method = self.trial.get("method", PROGRESSIVE)
        return method

    @property
    def num_trials(self) -> dict[Method, int]:
        """Trials by method, the search's own first."""
        search = self.search
        return {
            self.method: search.num_trials,
            **dict.fromkeys(search.baselines, search.trials_per_baseline),
        }
