"""What a model costs, by measurement: parameters, FLOPs, latency."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Cost", "measure_cost"]

WARM_UP = 10
RUNS = 15


@dataclass(frozen=True)
class Cost:
    """Cost of one example.

    Attributes:
        params: number of parameters.
        flops: floating-point operations of a forward pass, two per multiply-accumulate, of
            convolutions and matrix products.
        latency_ms: median milliseconds of a forward pass of one example.
    """

    params: int
    flops: float
    latency_ms: float


def measure_cost(model: nn.Module, input_shape: tuple[int, int, int], device: torch.device) -> Cost:
    """Measure a model on a device, where it already is; its mode is left as it was."""
    was_training = model.training
    model.eval()
    example = torch.zeros(1, *input_shape, device=device)
    example = example.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(example)
        times = [_timed(model, example) for _ in range(WARM_UP + RUNS)]
    model.train(was_training)
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        flops=float(counter.get_total_flops()),
        latency_ms=1000 * sorted(times[WARM_UP:])[RUNS // 2],
    )


def _timed(model: nn.Module, example: torch.Tensor) -> float:
    started = time.perf_counter()
    model(example)
    if example.device.type == "cuda":
        torch.cuda.synchronize(example.device)
    return time.perf_counter() - started
