"""Divergences from a teacher of whose outputs only some classes are stored."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught

__all__ = ["sampled_kl", "topk_kl"]


def topk_kl(student: Tensor, taught: Taught, temperature: float) -> Tensor:
    """KL times τ² from the kept classes, all others standing at one level; (B,) or (B, L)."""
    assert taught.index is not None
    assert taught.rest is not None
    size, kept = student.shape[-1], taught.index.shape[-1]
    log_s = F.log_softmax(student / temperature, dim=-1)
    top, level = taught.values / temperature, taught.rest / temperature
    total = torch.logsumexp(torch.cat([top, level + math.log(size - kept)], -1), -1, keepdim=True)
    log_t, log_r = top - total, level - total
    own = log_s.gather(-1, taught.index)
    others = log_s.sum(-1, keepdim=True) - own.sum(-1, keepdim=True)
    rest = log_r.exp() * ((size - kept) * log_r - others)
    return ((log_t.exp() * (log_t - own)).sum(-1) + rest.squeeze(-1)) * temperature**2


def sampled_kl(student: Tensor, taught: Taught) -> Tensor:
    """Cross-entropy on sampled classes: unbiased up to the teacher's entropy; (B,) or (B, L)."""
    assert taught.index is not None
    return -F.log_softmax(student, dim=-1).gather(-1, taught.index).mean(dim=-1)
