"""Optimizers and the learning-rate schedule, shared by teachers, recovery and students."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from pdo_search.config.training import OptimizerConfig

__all__ = ["clip_gradients", "lr_factor", "make_optimizer", "set_hyperparameters"]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; no decay of norms and biases (He et al. 2019, 3.1).

    Fused: one call updates all tensors, on CPUs too (MobileNetV2: 0.7 ms instead of 2.7 ms).
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "decay": True}, {"params": plain, "decay": False}]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if config.kind == "adamw":
        optimizer = torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True,
        )
    set_hyperparameters(optimizer, lr=config.lr, weight_decay=config.weight_decay)
    return optimizer


def set_hyperparameters(
    optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float
) -> None:
    """Set learning rate and weight decay of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Scale gradients down to a total norm (Pascanu et al. 2013, algorithm 1).

    On a CPU, where looking costs nothing, gradients that are short enough are not multiplied by 1.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm.is_cpu and norm <= max_norm:
        return
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def lr_factor(config: OptimizerConfig, progress: float) -> float:
    """Share of the peak learning rate.

    Args:
        config: schedule and warm-up.
        progress: share of all updates done before this one, 0 to 1.
    """
    if progress < config.warmup:
        return (progress + 1e-3) / (config.warmup + 1e-3)
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))
