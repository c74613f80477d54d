"""Losses against values worked out another way."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pdo_search.distill.losses import batch_mean
from pdo_search.tasks.base import HeadKind
from pdo_search.tasks.kinds import KINDS, bernoulli_kl, categorical_kl, standardized


def logits(seed: int, n: int = 6, c: int = 5) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_categorical_kl_equals_torchs(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.softmax(teacher / temperature, 1),
        reduction="none",
    ).sum(1)
    torch.testing.assert_close(
        categorical_kl(student, teacher, temperature), expected * temperature**2
    )


def test_bernoulli_kl_equals_the_sum_of_distributions() -> None:
    student, teacher = logits(0), logits(1)
    s, t = F.softmax(student / 2, 1), F.softmax(teacher / 2, 1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(t), torch.distributions.Bernoulli(s)
    ).sum(1)
    torch.testing.assert_close(
        bernoulli_kl(student, teacher, 2.0), expected * 4, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("form", [categorical_kl, bernoulli_kl])
def test_divergences_vanish_at_equality_and_stay_finite_at_extremes(form) -> None:  # type: ignore[no-untyped-def]
    same = logits(2)
    assert form(same, same, 3.0).abs().max() < 1e-5
    far = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    value = form(far, -far.detach(), 1.0)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_unlabelled_examples_cost_nothing() -> None:
    labels = torch.tensor([0, 1, -1, 2, -1, 4])
    loss, known = KINDS[HeadKind.CATEGORICAL].label_loss(logits(0), labels, None, 0.1)
    assert torch.equal(known, labels >= 0)
    assert loss[2] == 0
    assert loss[4] == 0
    assert loss[0] > 0


def test_a_mean_is_over_the_batch_whoever_is_masked() -> None:
    values = torch.tensor([1.0, 3.0, 5.0, 7.0])
    mask = torch.tensor([True, False, True, False])
    assert batch_mean(values, mask) == 1.5
    assert batch_mean(values, torch.zeros(4, dtype=torch.bool)) == 0
    halves = [batch_mean(values[k::2], mask[k::2]) for k in range(2)]
    assert sum(halves) / 2 == batch_mean(values, mask)


def test_standardised_logits_forget_scale_and_shift() -> None:
    z = logits(0)
    torch.testing.assert_close(standardized(z), standardized(z * 7 + 2), rtol=1e-4, atol=1e-4)
