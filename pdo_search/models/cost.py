"""What a model costs, by measurement: parameters, FLOPs, latency."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pdo_search.config.schema import ModelConfig

__all__ = ["Cost", "cost_of", "measure_cost"]

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
        flops = _counted_flops(model, example)
        times = [_timed(model, example) for _ in range(WARM_UP + RUNS)]
    model.train(was_training)
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        flops=flops,
        latency_ms=1000 * sorted(times[WARM_UP:])[RUNS // 2],
    )


def _counted_flops(model: nn.Module, example: torch.Tensor) -> float:
    """FLOPs of a forward pass; attention is computed as plain products meanwhile.

    torch's counter knows neither the CPU's fused attention nor the fast path of
    ``nn.MultiheadAttention``, and would count nothing for them. It fails on layers whose input is a
    parameter that wants a gradient, as parametrizations have it (torch 2.14).
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trained:
            parameter.requires_grad_(True)
    return float(counter.get_total_flops())


_COSTS: dict[str, Cost] = {}


def cost_of(
    model: nn.Module, arch: ModelConfig, input_shape: tuple[int, int, int], device: torch.device
) -> Cost:
    """What ``measure_cost`` says, measured once per process, architecture, shape and device.

    Args:
        model: on the device.
        arch: how it was built; with the shapes of its tensors this tells models apart.
        input_shape: (C, H, W).
        device: where it is.
    """
    built = arch.model_dump(include={"arch", "width", "depth", "args"})
    shapes = [tuple(tensor.shape) for tensor in model.state_dict().values()]
    key = json.dumps([built, shapes, input_shape, str(device)], default=str)
    if key not in _COSTS:
        _COSTS[key] = measure_cost(model, input_shape, device)
    return _COSTS[key]


def _timed(model: nn.Module, example: torch.Tensor) -> float:
    started = time.perf_counter()
    model(example)
    if example.device.type == "cuda":
        torch.cuda.synchronize(example.device)
    return time.perf_counter() - started
