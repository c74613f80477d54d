"""The plan: stages divide the budget, and what they leave over is not lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdo_search.config.methods import Method
from pdo_search.config.recipe import CurriculumConfig, Recipe
from pdo_search.distill.stage import (
    Phase,
    Stage,
    StageEnd,
    plan_stages,
    reassign,
    stage_end,
    stage_temperature,
)


@given(st.integers(1, 12), st.integers(0, 4), st.integers(0, 4), st.integers(0, 30))
def test_every_plan_costs_the_whole_budget_and_no_more(
    stages: int, init: int, finetune: int, extra: int
) -> None:
    epochs = stages + init + finetune + extra
    recipe = Recipe(epochs=epochs, num_stages=stages, init_epochs=init, finetune_epochs=finetune)
    plan = plan_stages(recipe)
    assert sum(s.epochs for s in plan) == epochs
    lengths = [s.epochs for s in plan if s.phase is Phase.STAGE]
    assert len(lengths) == stages
    assert max(lengths) - min(lengths) <= 1


def test_teacher_order_turns_the_ladder_round() -> None:
    descending = plan_stages(Recipe(num_stages=3, teacher_order="descending"))
    ascending = plan_stages(Recipe(num_stages=3, teacher_order="ascending"))
    assert [s.level for s in descending] == [None, 0, 1, 2]
    assert [s.level for s in ascending] == [None, 2, 1, 0]


@pytest.mark.parametrize("annealing", ["linear", "exponential"])
def test_temperature_anneals_from_first_to_last_stage(annealing: str) -> None:
    recipe = Recipe(num_stages=3, temperature=8, temperature_end=2, annealing=annealing)
    middle = stage_temperature(recipe, 2)
    assert stage_temperature(recipe, 1) == 8
    assert stage_temperature(recipe, 3) == pytest.approx(2)
    assert middle == pytest.approx(5 if annealing == "linear" else 4)


def test_an_adaptive_stage_ends_when_accuracy_stands_still() -> None:
    stage = Stage(1, Phase.STAGE, 6, level=0, temperature=4.0)
    adaptive = CurriculumConfig(adaptive=True, patience=2, min_delta=0.01)
    still = [0.5, 0.6, 0.605, 0.604]

    def ends(used: int, values: list[float], config: CurriculumConfig, last: bool) -> object:
        return stage_end(stage, used, values, config, metric="accuracy", is_last=last)

    assert ends(4, still, adaptive, False) is StageEnd.ADAPTIVE
    assert ends(3, still[:3], adaptive, False) is None
    assert ends(4, still, adaptive, True) is None
    assert ends(4, still, CurriculumConfig(), False) is None
    assert ends(6, [0.1], CurriculumConfig(), True) is StageEnd.PLAN


def test_a_gain_is_relative_where_a_metric_is_no_share() -> None:
    stage = Stage(1, Phase.STAGE, 6, level=0, temperature=4.0)
    adaptive = CurriculumConfig(adaptive=True, patience=1, min_delta=0.01)

    def ends(*values: float) -> object:
        return stage_end(stage, 2, values, adaptive, metric="perplexity", is_last=False)

    assert ends(200.0, 190.0) is None
    assert ends(200.0, 199.0) is StageEnd.ADAPTIVE
    assert ends(200.0, 210.0) is StageEnd.ADAPTIVE


def test_epochs_left_over_go_to_later_stages() -> None:
    plan = plan_stages(Recipe(epochs=13, num_stages=3, finetune_epochs=0))
    after = reassign(plan, 1, used=2)
    assert [s.epochs for s in plan] == [1, 4, 4, 4]
    assert [s.epochs for s in after] == [1, 2, 5, 5]


@pytest.mark.parametrize(
    ("method", "phase", "level"),
    [("scratch", Phase.LABELS, None), ("one_shot", Phase.STAGE, 0), ("assistant", Phase.STAGE, 1)],
)
def test_a_baseline_has_one_stage_of_all_epochs(
    method: Method, phase: Phase, level: int | None
) -> None:
    recipe = Recipe(
        method=method, epochs=9, num_stages=4, init_epochs=2, temperature=3, temperature_end=1
    )
    plan = plan_stages(recipe)
    assert [(s.phase, s.epochs, s.level) for s in plan] == [(phase, 9, level)]
    assert plan[0].temperature == (None if level is None else 3)
