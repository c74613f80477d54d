"""Difficulty, pacing and admission."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pdo_search.config.recipe import CurriculumConfig
from pdo_search.distill.curriculum import admit, difficulty, pace, progress_at

from ..pictures import class_task, labels_of

PACINGS = ["linear", "root", "step", "exponential"]


@pytest.mark.parametrize("pacing", PACINGS)
def test_pacing_grows_from_start_to_everything(pacing: str) -> None:
    shares = [pace(pacing, 0.3, i / 20) for i in range(21)]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.3)
    assert shares[-1] == 1.0


def test_root_admits_earlier_than_linear_and_exponential_later() -> None:
    assert pace("root", 0.2, 0.5) > pace("linear", 0.2, 0.5) > pace("exponential", 0.2, 0.5)


def test_progress_reaches_one_in_the_last_epoch() -> None:
    assert [progress_at(e, 3) for e in range(3)] == [0, 0.5, 1]
    assert progress_at(0, 1) == 1


def test_orders_admit_the_easy_the_hard_or_a_seeded_random_part() -> None:
    scores = torch.tensor([0.9, 0.1, 0.5, 0.3])
    easy = CurriculumConfig(start=0.5, pacing="linear", order="easy_first")
    hard = easy.model_copy(update={"order": "hard_first"})
    random = easy.model_copy(update={"order": "random"})
    assert admit(scores, easy, 0, 0).tolist() == [1, 3]
    assert admit(scores, hard, 0, 0).tolist() == [0, 2]
    drawn = {tuple(admit(scores, random, 0, seed).tolist()) for seed in range(20)}
    assert len(drawn) > 2
    assert admit(scores, random, 0, 7).tolist() == admit(scores, random, 0, 7).tolist()
    for config in (easy, hard, random):
        assert admit(scores, config, 1, 0).tolist() == [0, 1, 2, 3]


def judged(kind: str, outputs: Tensor, labels: list[int], teacher: Tensor) -> Tensor:
    batch = labels_of(torch.tensor(labels))
    return difficulty(class_task(2), kind, {"class": outputs}, batch, {"class": teacher})


def test_difficulty_of_the_wrong_and_the_unsure_is_higher() -> None:
    teacher = torch.tensor([[5.0, 0.0], [0.1, 0.0], [5.0, 0.0]])
    confidence = judged("teacher_confidence", teacher, [0, 0, 1], teacher)
    loss = judged("teacher_loss", teacher, [0, 0, 1], teacher)
    assert confidence[1] > confidence[0]
    assert loss[2] > loss[1] > loss[0]


def test_an_unlabelled_example_is_scored_against_the_teachers_top_class() -> None:
    teacher, student = torch.tensor([[0.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    unlabelled = judged("student_loss", student, [-1], teacher)
    assert unlabelled == judged("student_loss", student, [1], teacher) > 3
