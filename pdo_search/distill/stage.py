"""The plan of a trial: which stage lasts how long, taught by which level, at what temperature.

Pure functions of the recipe and of recorded metrics. An epoch of any stage costs the student the
same: as many examples as the train split has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pdo_search.config.metrics import metric_of, score_of
from pdo_search.config.recipe import CurriculumConfig, Recipe

__all__ = [
    "Phase",
    "Stage",
    "StageEnd",
    "num_levels",
    "plan_stages",
    "reassign",
    "stage_end",
    "stage_temperature",
]


class Phase(StrEnum):
    """What a stage trains on."""

    INIT = "init"
    """Labels of the train split, before any teacher."""
    STAGE = "stage"
    """A teacher's outputs on train and transfer splits, with the hard-label terms."""
    LABELS = "labels"
    """Labels of the train and transfer splits, without any teacher: the whole of ``scratch``."""
    FINETUNE = "finetune"
    """Labels of the train split, after the last teacher."""


class StageEnd(StrEnum):
    """Why a stage ended."""

    PLAN = "plan"
    """Its epochs were used."""
    ADAPTIVE = "adaptive"
    """The primary metric on validation stopped improving."""
    TARGET = "target"
    """The student reached its target."""


@dataclass(frozen=True)
class Stage:
    """One part of a trial.

    Attributes:
        index: 0 for init, 1 to N for stages, N + 1 for fine-tuning.
        phase: what it trains on.
        epochs: planned length.
        level: level of the ladder that teaches; None outside of stages.
        temperature: of the divergence; None outside of stages.
    """

    index: int
    phase: Phase
    epochs: int
    level: int | None = None
    temperature: float | None = None


def plan_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe, in order. ``num_stages`` divides the budget, never multiplies it.

    A baseline has one stage of all epochs: without a teacher, or taught by one throughout.
    """
    if recipe.method == "scratch":
        return (Stage(1, Phase.LABELS, recipe.epochs),)
    if recipe.method in ("one_shot", "assistant"):
        level = 0 if recipe.method == "one_shot" else 1
        return (Stage(1, Phase.STAGE, recipe.epochs, level, recipe.temperature),)
    stages: list[Stage] = []
    if recipe.init_epochs:
        stages.append(Stage(0, Phase.INIT, recipe.init_epochs))
    for k, epochs in enumerate(divided(recipe.stage_epochs, recipe.num_stages), start=1):
        level = k - 1 if recipe.teacher_order == "descending" else recipe.num_stages - k
        stages.append(Stage(k, Phase.STAGE, epochs, level, stage_temperature(recipe, k)))
    if recipe.finetune_epochs:
        stages.append(Stage(recipe.num_stages + 1, Phase.FINETUNE, recipe.finetune_epochs))
    return tuple(stages)


def num_levels(recipe: Recipe) -> int:
    """How many simplified teachers a recipe asks for, below the full one; 0 where all are alike."""
    if recipe.prune_ratio == 0 and recipe.simplify.drop_blocks == 0:
        return 0
    levels = max((stage.level or 0 for stage in plan_stages(recipe)), default=0)
    return levels if recipe.composite is None else max(levels, recipe.num_stages)


def divided(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole shares that differ by at most one, longer ones first."""
    return [total // parts + (k < total % parts) for k in range(parts)]


def stage_temperature(recipe: Recipe, k: int) -> float:
    """Temperature of stage k (from 1): constant, or annealed over the stages."""
    first, last = recipe.temperature, recipe.temperature_end
    if last is None or recipe.num_stages == 1:
        return first
    share = (k - 1) / (recipe.num_stages - 1)
    if recipe.annealing == "exponential":
        return float(first * (last / first) ** share)
    return first + (last - first) * share


def stage_end(
    stage: Stage,
    used: int,
    values: Sequence[float],
    curriculum: CurriculumConfig,
    *,
    metric: str,
    is_last: bool,
) -> StageEnd | None:
    """Whether a stage ends now.

    Args:
        stage: the stage.
        used: its epochs so far.
        values: the metric after each evaluated one of them: all, in adaptive stages.
        curriculum: patience and smallest gain of an adaptive stage.
        metric: the primary one.
        is_last: whether no later stage of the plan could use the epochs left over.
    """
    if used >= stage.epochs:
        return StageEnd.PLAN
    if not curriculum.adaptive or stage.phase is not Phase.STAGE or is_last:
        return None
    best, since_best = float("-inf"), 0
    for value in values:
        score = score_of(metric, value)
        least = curriculum.min_delta * (1.0 if metric_of(metric).is_share else abs(best))
        improved = math.isinf(best) or score > best + least
        since_best = 0 if improved else since_best + 1
        best = max(best, score)
    return StageEnd.ADAPTIVE if since_best >= curriculum.patience else None


def reassign(plan: Sequence[Stage], position: int, used: int) -> tuple[Stage, ...]:
    """The plan after the stage at ``position`` ended with ``used`` epochs.

    What it left over goes to the later distillation stages: the trial's total stays the same.
    """
    left = plan[position].epochs - used
    later = [i for i in range(position + 1, len(plan)) if plan[i].phase is Phase.STAGE]
    shares = dict(zip(later, divided(left, len(later)), strict=True)) if later else {}
    return tuple(
        replace(stage, epochs=used if i == position else stage.epochs + shares.get(i, 0))
        for i, stage in enumerate(plan)
    )
