"""What a model costs, by measurement: parameters, FLOPs, latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pdo_search.config.model import ModelConfig
from pdo_search.records import Cost
from pdo_search.tasks.base import Task

__all__ = ["Cost", "cost_of", "cost_of_run", "measure_cost"]

WARM_UP = 10
RUNS = 15


def measure_cost(task: Task, model: nn.Module, device: torch.device) -> Cost:
    """Measure a model on a task's typical example, on a device, where it already is; its mode is
    left as it was."""
    example = {name: tensor.to(device) for name, tensor in task.example().items()}
    return cost_of_run(model, partial(task.forward, model, example), device)


def cost_of_run(model: nn.Module, run: Callable[[], object], device: torch.device) -> Cost:
    """Measure a model by what runs it on one example."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        flops = _counted_flops(model, run)
        times = [_timed(run, device) for _ in range(WARM_UP + RUNS)]
    model.train(was_training)
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        flops=flops,
        latency_ms=1000 * sorted(times[WARM_UP:])[RUNS // 2],
    )


def _counted_flops(model: nn.Module, run: Callable[[], object]) -> float:
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
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trained:
            parameter.requires_grad_(True)
    return float(counter.get_total_flops())


_COSTS: dict[str, Cost] = {}


def cost_of(task: Task, model: nn.Module, arch: ModelConfig, device: torch.device) -> Cost:
    """What ``measure_cost`` says, measured once per process, architecture, shape and device.

    Args:
        task: gives the typical example.
        model: on the device.
        arch: how it was built; with the shapes of its tensors this tells models apart.
        device: where it is.
    """
    built = arch.model_dump(include={"arch", "width", "depth", "args"})
    shapes = [tuple(tensor.shape) for tensor in model.state_dict().values()]
    inputs = {name: tuple(tensor.shape) for name, tensor in task.example().items()}
    key = json.dumps([built, shapes, inputs, str(device)], default=str)
    if key not in _COSTS:
        _COSTS[key] = measure_cost(task, model, device)
    return _COSTS[key]


def _timed(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
