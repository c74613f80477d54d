"""How a student's updates are computed: in which precision, and compiled or not."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from pdo_search.config.schema import ExecutionConfig

__all__ = ["autocast", "compiled"]

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which on tensor cores take bfloat16 (Ampere)."""


def autocast(config: ExecutionConfig, device: torch.device) -> torch.autocast:
    """The context of a training forward pass; does nothing in fp32. May be entered again and again.

    bfloat16 has float32's range: gradients need no scaling.
    """
    enabled = config.precision == "bf16"
    if config.precision == "auto" and device.type == "cuda":
        enabled = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def compiled(model: nn.Module, config: ExecutionConfig, device: torch.device) -> nn.Module:
    """The model to train through; its parameters are those of the model given, which stays plain.

    On a GPU kernels are replayed as CUDA graphs ("reduce-overhead"), which spares their launches.
    """
    if not config.compile:
        return model
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return cast(nn.Module, torch.compile(model, mode=mode))
