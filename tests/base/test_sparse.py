"""Divergences from stored classes equal the dense formula in double precision, and sampled ones on
average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught
from pdo_search.base.sparse import sampled_kl, topk_kl


def dense_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    log_t = F.log_softmax(teacher.double() / temperature, -1)
    log_s = F.log_softmax(student.double() / temperature, -1)
    return (log_t.exp() * (log_t - log_s)).sum(-1) * temperature**2


def logits(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def largest(teacher: Tensor, kept: int, temperature: float) -> Taught:
    """The largest classes, and the others' log-mean-exp."""
    top, index = teacher.topk(kept, -1)
    others = (teacher.double() / temperature).scatter(-1, index, -math.inf)
    level = others.logsumexp(-1, keepdim=True) - math.log(teacher.shape[-1] - kept)
    return Taught(top, index, (level * temperature).float())


@pytest.mark.parametrize(
    ("shape", "kept", "temperature"),
    [
        ((5, 9), 3, 1.0),
        ((2, 7, 40), 1, 3.0),
        ((4, 40), 39, 2.0),
        ((16, 1024), 64, 1.0),
        ((8, 30_522), 128, 2.0),
        ((8, 50_257), 32, 4.0),
    ],
)
def test_the_largest_classes_give_the_dense_divergence_and_gradient(
    shape: tuple[int, ...], kept: int, temperature: float
) -> None:
    taught = largest(logits(*shape, seed=0, scale=3.0), kept, temperature)
    student = logits(*shape, seed=1).requires_grad_()
    found = topk_kl(student, taught, temperature)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    exact = dense_kl(student, taught.dense(shape[-1]), temperature)
    (wanted,) = torch.autograd.grad(exact.sum(), student)
    assert found.shape == shape[:-1]
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-4)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-6)


def test_the_largest_classes_agree_to_the_last_digits_in_double_precision() -> None:
    taught = largest(logits(8, 30_522, seed=0, scale=3.0), 128, 2.0)
    assert taught.rest is not None
    double = Taught(taught.values.double(), taught.index, taught.rest.double())
    student = logits(8, 30_522, seed=1).double()
    exact = dense_kl(student, double.dense(30_522), 2.0)
    assert torch.allclose(topk_kl(student, double, 2.0), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [50, 50_257])
def test_sampled_classes_give_the_divergence_and_gradient_on_average(size: int) -> None:
    teacher, student = logits(size, seed=0, scale=2.0), logits(size, seed=1).requires_grad_()
    logp = F.log_softmax(teacher, -1)
    draws = 200_000
    generator = torch.Generator().manual_seed(2)
    index = torch.multinomial(logp.exp(), draws, replacement=True, generator=generator)
    each = sampled_kl(
        student.expand(1, -1), Taught(logp[index][None], index[None], sampled=True)
    ).squeeze(0)
    (gradient,) = torch.autograd.grad(each, student)
    exact = dense_kl(student, teacher)
    (wanted,) = torch.autograd.grad(exact, student)
    ratio = (logp - F.log_softmax(student, -1)).detach()
    spread = float(ratio[index].std()) / math.sqrt(draws)
    assert abs(float(each.detach()) - float(exact.detach())) < 4 * spread
    of_gradient = (logp.exp() * (1 - logp.exp()) / draws).sqrt()
    assert float(((gradient - wanted).abs() / of_gradient.clamp(min=1e-5)).max()) < 6


def test_sampled_classes_of_positions() -> None:
    student, index = logits(2, 3, 6, seed=0), torch.randint(6, (2, 3, 4))
    values = logits(2, 3, 4, seed=1)
    found = sampled_kl(student, Taught(values, index, sampled=True))
    log_s = F.log_softmax(student.double(), -1)
    for b in range(2):
        for place in range(3):
            own = values[b, place] - log_s[b, place, index[b, place]]
            assert float(found[b, place]) == pytest.approx(float(own.mean()), abs=1e-5)
