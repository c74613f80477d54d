"""Fits of the composite, by hand and against a search over all possibilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.recipe import CompositeConfig
from pdo_search.distill.composite import (
    Said,
    choose,
    fit_calibration,
    fit_modes,
    fit_threshold,
    fit_weight,
)
from pdo_search.models import composite
from pdo_search.models.composite import Fit
from pdo_search.models.cost import Cost
from pdo_search.records import CompositeRow
from pdo_search.tasks.base import Split

from ..pictures import class_task, labels_of


def noisy(targets: Tensor, strength: float, seed: int, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(targets), classes, generator=generator)
    return noise + strength * F.one_hot(targets, classes)


TARGETS = torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(9))
TASK = class_task(4)
STUDENT, TEACHER = noisy(TARGETS, 1.0, 1), noisy(TARGETS, 2.5, 2)


def said(student: Tensor, teacher: Tensor, labels: Tensor) -> list[Said]:
    """What both say, in three batches."""
    parts = zip(*(torch.split(x, 200) for x in (student, teacher, labels)), strict=True)
    return [Said({"class": s}, {"class": t}, labels_of(y)) for s, t, y in parts]


def composite_log_probs(fit: Fit, student: Tensor, teacher: Tensor) -> Tensor:
    outputs = {"class": student}, {"class": teacher}
    return composite.composite_outputs(TASK.heads, fit, *outputs, {})["class"]


def deferred(fit: Fit, student: Tensor) -> Tensor:
    return composite.deferred(TASK.heads, fit, {"class": student}, {})


def test_calibration_finds_the_temperature_of_overconfident_logits() -> None:
    # Labels drawn from the softmax itself are calibrated; times three they want a temperature of 3.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 4, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_calibration(TASK, said(3 * logits, logits, labels)) == pytest.approx(3, rel=0.1)


def test_the_weight_minimises_the_loss() -> None:
    weight = fit_weight(TASK, said(STUDENT, TEACHER, TARGETS))
    best = min(
        torch.linspace(0, 1, 21).tolist(),
        key=lambda w: F.nll_loss(
            composite_log_probs(Fit("ensemble", weight=w), STUDENT, TEACHER), TARGETS
        ).item(),
    )
    assert weight == pytest.approx(best, abs=0.05)
    assert fit_weight(TASK, said(TEACHER * 5, STUDENT * 0, TARGETS)) < 0.2


@pytest.mark.parametrize("allowed", [1.0, 0.4, 0.1, 0.0])
def test_the_threshold_is_the_best_of_all_within_the_budget(allowed: float) -> None:
    confidence = F.softmax(STUDENT / 1.5, 1).amax(1)
    own, other = ((logits.argmax(1) == TARGETS).float() for logits in (STUDENT, TEACHER))
    threshold = fit_threshold(confidence, own, other, allowed)

    def outcome(value: float) -> tuple[float, float]:
        fit = Fit("cascade", threshold=value, calibration=1.5)
        right = composite_log_probs(fit, STUDENT, TEACHER).argmax(1) == TARGETS
        return right.float().mean().item(), deferred(fit, STUDENT).float().mean().item()

    accuracy, share = outcome(threshold)
    assert share <= allowed + 1e-6
    others = [outcome(c) for c in [*confidence.tolist(), 1.1]]
    assert accuracy == max(a for a, s in others if s <= allowed + 1e-6)


def test_a_cascade_gives_the_student_no_gradient_where_it_defers() -> None:
    student = STUDENT.clone().requires_grad_()
    fit = Fit("cascade", threshold=0.6, calibration=1.0)
    composite_log_probs(fit, student, TEACHER).sum(1).mean().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    asked = deferred(fit, STUDENT)
    assert 0 < asked.sum() < len(asked)
    assert (student.grad[asked] == 0).all()
    assert (student.grad[~asked].abs().sum(1) > 0).all()


def rows(**config: object) -> list[CompositeRow]:
    return fit_modes(
        TASK,
        dict.fromkeys((Split.TRANSFER, Split.VALIDATION), lambda: said(STUDENT, TEACHER, TARGETS)),
        student_cost=Cost(10, 100.0, 1.0),
        teacher_cost=Cost(100, 1000.0, 8.0),
        full_flops=2000.0,
        config=CompositeConfig.model_validate(config),
    )


def test_costs_count_the_share_that_is_deferred() -> None:
    by_mode = {row.mode: row for row in rows()}
    assert by_mode["student"].flops == 100
    assert by_mode["teacher"].flops == 1000
    assert by_mode["ensemble"].flops == 1100
    share = by_mode["cascade"].deferred
    assert by_mode["cascade"].flops == pytest.approx(100 + share * 1000)
    assert by_mode["cascade"].latency_ms == pytest.approx(1 + share * 8)


def test_the_cheapest_of_the_best_within_the_budget_is_chosen() -> None:
    modes = [
        replace(rows()[0], mode="student", val_score=0.8, flops=100.0),
        replace(rows()[0], mode="cascade", val_score=0.9, flops=500.0),
        replace(rows()[0], mode="ensemble", val_score=0.9, flops=1100.0),
    ]

    def chosen(budget: float | None) -> str:
        (row,) = (row for row in choose(modes, budget, 2000.0) if row.chosen)
        return str(row.mode)

    assert chosen(None) == "cascade"
    assert chosen(0.1) == "student"
    assert chosen(0.01) == "student"
    assert [row.within_budget for row in choose(modes, 0.01, 2000.0)] == [False] * 3


def test_a_cascade_keeps_within_the_budget_on_the_split_it_is_fitted_on() -> None:
    cascade = next(row for row in rows(max_flops=0.2) if row.mode == "cascade")
    assert cascade.flops <= 0.2 * 2000
