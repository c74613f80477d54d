"""What is stored of a vocabulary must say enough at the temperatures that are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.config.recipe import Recipe
from pdo_search.distill.tail import lost_share, refuse_lost_tail
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Batch, Task

from .texts import ROOT, config_of

pytest.importorskip("tokenizers")


def task_of(**task: Any) -> Task:
    return build_task(config_of(task).task, ROOT)


class Falling(nn.Module):
    """Logits 0, -step, -2 step, … at every position."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        logits = -self.step * torch.arange(320.0)
        return {"token": logits.expand(*batch["tokens"].shape, 320)}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_lost_share_is_that_of_the_smaller_outputs(temperature: float) -> None:
    task = task_of()
    found = lost_share(task, Falling(0.05), task.heads[0], 20, temperature)
    # A geometric series: the share beyond the first k of V terms.
    ratio = torch.tensor(-0.05 / temperature).double().exp()
    assert found == pytest.approx(((ratio**20 - ratio**320) / (1 - ratio**320)).item(), rel=1e-4)


def test_a_teacher_that_is_seen_sets_the_highest_temperature() -> None:
    task, teacher = task_of(bank="top", bank_tokens=20), Falling(0.05)
    refuse_lost_tail(task, [Recipe(temperature=1.0)], teacher)
    refuse_lost_tail(task, [Recipe(temperature=4.0, teacher_outputs="online")], teacher)
    with pytest.raises(InputError) as caught:
        refuse_lost_tail(task, [Recipe(temperature=1.0, temperature_end=2.0)], teacher)
    said = str(caught.value)
    assert "the 20 largest are stored" in said
    assert "61% of the teacher's probability is in the others at temperature 2" in said
    assert "keep trial.temperature at 1 or below" in said


def test_a_teacher_to_be_trained_allows_two() -> None:
    task = task_of(bank="top")
    refuse_lost_tail(task, [Recipe(temperature=2.0)], None)
    with pytest.raises(InputError, match=r"keep trial\.temperature at 2 or below"):
        refuse_lost_tail(task, [Recipe(temperature=2.5)], None)
    refuse_lost_tail(task_of(bank="whole"), [Recipe(temperature=8.0)], None)
    refuse_lost_tail(task_of(), [Recipe(temperature=8.0)], None)  # 320 are stored whole.


def test_drawn_outputs_serve_temperature_one_alone() -> None:
    task = task_of(bank="sampled")
    refuse_lost_tail(task, [Recipe(temperature=1.0)], None)
    with pytest.raises(InputError, match=r"drawn .* at temperature 1, and serve no other"):
        refuse_lost_tail(task, [Recipe(temperature=1.5)], None)
