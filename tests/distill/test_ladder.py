"""The ladder on real digits: levels shrink, recover, back off, and are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search.config.model import TeacherConfig
from pdo_search.config.recipe import Recipe, SimplifyConfig
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.config.training import TrainConfig
from pdo_search.distill.context import Context
from pdo_search.distill.ladder import Attempt, Ladder, Level, LevelStatus, next_ratio
from pdo_search.distill.teacher import trained_teacher
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Task

CPU = torch.device("cpu")
TEACHER = TeacherConfig(
    arch="small_resnet", width=8, depth=2, train=TrainConfig(epochs=4, batch_size=32)
)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.set_num_threads(1)
    return build_task(TaskConfig(data=DataConfig(source="digits", limit=1200)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def full(task: Task, root: Path) -> Level:
    return trained_teacher(task, TEACHER, Context(str(root), CPU), seed=0)


def ladder(task: Task, full: Level, root: Path, ratio: float = 0.3, **simplify: Any) -> Ladder:
    settings = {"recovery_epochs": 1.0, "max_drop": 0.1, **simplify}
    recipe = Recipe(prune_ratio=ratio, simplify=SimplifyConfig(**settings))
    return Ladder(task, full, recipe, Context(str(root), CPU), seed=0)


def attempt(ratio: float, accepted: bool = False) -> Attempt:
    return Attempt(ratio, 0.5, 0.6, accepted)


def test_a_refused_ratio_is_halved_until_the_back_offs_are_used_up() -> None:
    refused: list[Attempt] = []
    ratios = []
    while (ratio := next_ratio(refused, 0.4, backoffs=2)) is not None:
        ratios.append(ratio)
        refused.append(attempt(ratio))
    assert ratios == [0.4, 0.2, 0.1]
    assert next_ratio([attempt(0.4), attempt(0.2, accepted=True)], 0.4, backoffs=2) is None
    assert next_ratio([], 0.4, backoffs=0) == 0.4


def test_a_teacher_is_trained_once_per_content(task: Task, full: Level, root: Path) -> None:
    again = trained_teacher(task, TEACHER, Context(str(root), CPU), seed=0)
    other = trained_teacher(task, TEACHER, Context(str(root), CPU), seed=1)
    assert not full.cached
    assert again.cached
    assert again.key == full.key != other.key
    assert full.value > 0.9


def test_a_teacher_is_another_one_with_other_threads_and_finds_its_own(
    task: Task, full: Level, root: Path
) -> None:
    two = trained_teacher(task, TEACHER, Context(str(root), CPU), seed=0, num_threads=2)
    assert torch.get_num_threads() == 1
    assert two.key != full.key
    again = trained_teacher(task, TEACHER, Context(str(root), CPU), seed=0, num_threads=1)
    assert again.cached
    assert again.key == full.key


def test_rungs_shrink_and_recover(task: Task, full: Level, root: Path) -> None:
    levels = ladder(task, full, root)
    first, second = levels.level(1), levels.level(2)
    assert full.cost.params > first.cost.params > second.cost.params
    assert full.cost.flops > first.cost.flops > second.cost.flops
    assert first.status is LevelStatus.PRUNED
    assert first.value_before is not None
    assert first.value > first.value_before
    assert second.parent_key == first.key
    model = levels.model(1)
    assert sum(p.numel() for p in model.parameters()) == first.cost.params


def test_rungs_are_shared_by_those_who_agree(task: Task, full: Level, root: Path) -> None:
    built = ladder(task, full, root, ratio=0.2).level(1)
    found = ladder(task, full, root, ratio=0.2).level(1)
    assert found.cached
    assert found.key == built.key
    assert ladder(task, full, root, ratio=0.2, recovery_epochs=0.5).level(1).key != built.key


def test_rungs_repeat_to_the_last_bit(task: Task, full: Level, root: Path, tmp_path: Path) -> None:
    one = ladder(task, full, root, ratio=0.3).model(1).state_dict()
    two = ladder(task, full, tmp_path, ratio=0.3).model(1).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_ratio_that_loses_too_much_backs_off_and_then_keeps_the_parent(
    task: Task, full: Level, root: Path
) -> None:
    kept = ladder(task, full, root, ratio=0.8, recovery_epochs=0, max_drop=0.0, backoffs=1).level(1)
    assert kept.status is LevelStatus.KEPT_PARENT
    assert [a.ratio for a in kept.attempts] == [0.8, 0.4]
    assert kept.key == full.key
    assert kept.ratio_applied == 0
    assert kept.row("accuracy").backoffs == 2


def test_blocks_can_be_dropped_instead_of_channels(task: Task, full: Level, root: Path) -> None:
    levels = ladder(task, full, root, ratio=0.0, drop_blocks=1, max_drop=1.0)
    first = levels.level(1)
    assert len(first.blocks_dropped) == 1
    assert first.cost.flops < full.cost.flops
    second = levels.level(2)
    assert set(second.blocks_dropped).isdisjoint(first.blocks_dropped)


def test_a_ratio_too_small_for_any_layer_keeps_the_parent(
    task: Task, full: Level, root: Path
) -> None:
    level = ladder(task, full, root, ratio=0.05, round_to=16).level(1)
    assert level.status is LevelStatus.KEPT_PARENT
    assert level.attempts == ()
    assert level.cost == full.cost


def test_nothing_to_remove_keeps_the_teacher(task: Task, full: Level, root: Path) -> None:
    level = ladder(task, full, root, ratio=0.0).level(3)
    assert level.status is LevelStatus.KEPT_PARENT
    assert level.key == full.key
