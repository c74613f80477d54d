"""Divergences from a teacher of whose K classes only some are known, without its dense outputs.

Legend: B in a batch, L positions, K size of a head, k classes kept or drawn of it; p_t the
teacher's and p_s the student's probabilities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught

__all__ = ["sampled_kl", "topk_kl"]


def topk_kl(student: Tensor, taught: Taught, temperature: float) -> Tensor:
    """τ² KL(p_t ‖ p_s) at temperature τ, of a teacher whose other classes all stand at one level.

    Exact for that teacher: with lt, lr the log-probabilities of a kept class and of each of the
    K - k others, and ls the student's,
    ``KL = Σ_k e^lt (lt - ls) + e^lr ((K - k) lr - (Σ_K ls - Σ_k ls))``.

    Args:
        student: (B, K) or (B, L, K) logits.
        taught: k classes, 0 < k < K, and the level of the rest, in logits, for this temperature.
        temperature: τ.

    Returns:
        (B,) or (B, L), in nats.
    """
    assert taught.index is not None
    assert taught.rest is not None
    num_others = student.shape[-1] - taught.index.shape[-1]
    top, level = taught.values / temperature, taught.rest / temperature
    total = torch.cat([top, level + math.log(num_others)], -1).logsumexp(-1, keepdim=True)
    log_top, log_level = top - total, level - total
    log_student = F.log_softmax(student / temperature, dim=-1)
    own = log_student.gather(-1, taught.index)
    others = log_student.sum(-1, keepdim=True) - own.sum(-1, keepdim=True)
    of_kept = (log_top.exp() * (log_top - own)).sum(-1)
    of_rest = (log_level.exp() * (num_others * log_level - others)).squeeze(-1)
    return (of_kept + of_rest) * temperature**2


def sampled_kl(student: Tensor, taught: Taught) -> Tensor:
    """Estimate of KL(p_t ‖ p_s) at temperature 1 from classes drawn by p_t: the mean of
    ``log p_t - log p_s`` over the draws (Anshumann et al. 2025, "Sparse Logit Sampling").

    Unbiased, as is its gradient, which is that of the cross-entropy on the drawn classes; that term
    differs from it by the teacher's entropy. One estimate may be negative.

    Args:
        student: (B, K) or (B, L, K) logits.
        taught: k draws with their log-probabilities.

    Returns:
        (B,) or (B, L), in nats.
    """
    assert taught.index is not None
    log_student = F.log_softmax(student, dim=-1).gather(-1, taught.index)
    return (taught.values - log_student).mean(dim=-1)
