"""How updates are computed: precision, compilation, threads, determinism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from pdo_search.config.training import ExecutionConfig
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.sequences import SEQUENCE_MODELS

__all__ = ["USUAL", "autocast", "compiled", "computed_by", "make_deterministic", "threads"]

USUAL = ExecutionConfig()
"""What holds where nothing else is asked for."""
BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which on tensor cores take bfloat16 (Ampere)."""


def autocast(config: ExecutionConfig, model: nn.Module, device: torch.device) -> torch.autocast:
    """The context of a model's forward pass in training; does nothing in fp32. May be entered again
    and again.

    bfloat16 has float32's range: gradients need no scaling.
    """
    enabled = config.precision == "bf16"
    if config.precision == "auto" and device.type == "cuda":
        enabled = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    elif config.precision == "auto":
        enabled = isinstance(model, BodyAndHeads) and _has_amx(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _has_amx(device: torch.device) -> bool:
    """Whether matrices of bfloat16 are multiplied by Intel's AMX, which makes transformers two to
    three times as fast; convolutions become slower."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def computed_by(config: ExecutionConfig, device: torch.device, arch: str = "") -> dict[str, Any]:
    """What the bits of a trained artifact depend on beside its content: a part of its key.

    On a CPU the number of threads is: sums over several are rounded otherwise, and training makes
    other weights of that; and for transformers, which a factory may make too, the precision that
    ``auto`` chooses there; of levels their parent's key has it. Of a GPU nothing is asked: a
    process without one may look for what another has built, and GPUs of one cluster share teachers.
    """
    found: dict[str, Any] = {"device": device.type}
    if device.type != "cpu":
        return found | {"precision": config.precision, "deterministic": config.deterministic}
    precision: str = config.precision
    if precision == "auto":
        is_bf16 = _has_amx(device) and (arch in SEQUENCE_MODELS or ":" in arch)
        precision = "bf16" if is_bf16 else "fp32"
    return found | {"precision": precision, "threads": torch.get_num_threads()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads on the CPU meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_deterministic(config: ExecutionConfig) -> None:
    """Let cuDNN choose only algorithms that repeat to the bit, or the fastest ones.

    Which it is holds for the whole process.
    """
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic


def compiled(model: nn.Module, config: ExecutionConfig, device: torch.device) -> nn.Module:
    """The model to train through; its parameters are those of the model given, which stays plain.

    On a GPU kernels are replayed as CUDA graphs ("reduce-overhead"), which spares their launches.
    """
    if not config.compile:
        return model
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return cast(nn.Module, torch.compile(model, mode=mode))
