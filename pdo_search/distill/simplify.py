"""Making a teacher simpler by a ratio: one step of the ladder, before recovery."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import nn

from pdo_search.config.keep import ALL, Amount
from pdo_search.config.recipe import SimplifyConfig
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.models.anatomy import transformer_in
from pdo_search.models.layout import placed
from pdo_search.models.prune import drop_blocks, pixels_of, prune_channels
from pdo_search.models.units import Surgery, kept
from pdo_search.tasks.base import Task

__all__ = ["cut", "simplified"]


def simplified(
    task: Task,
    model: nn.Module,
    ratio: float,
    config: SimplifyConfig,
    *,
    device: torch.device,
    calibration: Calibration | None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Remove a share of channels, or of a transformer's attention heads and neurons; and whole
    blocks or layers.

    Args:
        task: whose model it is.
        model: on the CPU; changed in place.
        ratio: share that is removed.
        config: blocks or layers, rounding, longest time.
        device: where the model is put.
        calibration: examples by which importance is judged; None judges by one.

    Returns:
        The model on the device, and the names of what was taken out of it.

    Raises:
        Infeasible: it cannot be simplified.
    """
    example = task.example()
    found = transformer_in(model)
    if found is not None:
        model = placed(model, device)
        amounts: dict[str, Amount] = {ALL: 1 - Fraction(repr(ratio))} if ratio else {}
        if config.drop_blocks:
            amounts["layers"] = max(1, found.num_layers(model) - config.drop_blocks)
        return model, cut(task, model, amounts, config, calibration)
    prune_channels(model, pixels_of(example), ratio, config.round_to, timeout_s=config.timeout)
    model = placed(model, device)
    if not config.drop_blocks:
        return model, ()
    if calibration is not None:
        refresh_statistics(model, calibration)
        example = next(calibration.batches())
    return model, drop_blocks(model, pixels_of(example), config.drop_blocks)


def cut(
    task: Task,
    model: nn.Module,
    keep: dict[str, Amount],
    config: SimplifyConfig,
    calibration: Calibration | None,
) -> tuple[str, ...]:
    """Keep of a model what is wanted, in place; the names of what was taken out.

    Raises:
        Infeasible: the model has no such unit, or cannot lose it.
    """
    batch = task.example() if calibration is None else next(calibration.batches())
    device = next(model.parameters()).device
    batches = [{name: tensor.to(device) for name, tensor in batch.items()}]
    surgery = Surgery(task.heads, task.forward, batches, config.round_to, config.timeout)
    return tuple(name for removed in kept(model, keep, surgery) for name in removed.names)
