"""Making a teacher simpler by a ratio: one step of the ladder, before recovery."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from pdo_search.config.keep import ALL, Amount, keep_of
from pdo_search.config.model import StudentConfig
from pdo_search.config.recipe import SimplifyConfig
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.models.anatomy import transformer_in
from pdo_search.models.build import build_for
from pdo_search.models.layout import placed
from pdo_search.models.prune import drop_blocks, pixels_of, prune_channels
from pdo_search.models.units import Surgery, kept
from pdo_search.tasks.base import Task

log = logging.getLogger(__name__)

__all__ = ["cut", "new_student", "simplified"]


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


def new_student(
    task: Task,
    config: StudentConfig,
    simplify: SimplifyConfig,
    *,
    seed: int,
    base_dir: Path | None = None,
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """A student that is not cut from the teacher, on the CPU, its vocabulary trimmed where the
    configuration says so.

    Args:
        task: whose inputs it takes.
        config: which.
        simplify: rounding.
        seed: of the initial weights.
        base_dir: folder that relative paths and factories refer to.
        say: called with a line when layers are new although weights are given.

    Raises:
        Infeasible: its vocabulary cannot be trimmed.
        InputError: see ``build_for``.
    """
    model = build_for(task, config, seed=seed, base_dir=base_dir, say=say)
    if keep := keep_of(config):
        cut(task, model, keep, simplify, None)
    return model


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
    vocabulary = task.vocabulary() if "vocab" in keep else None
    surgery = Surgery(
        task.heads, task.forward, batches, config.round_to, config.timeout, vocabulary
    )
    return tuple(name for removed in kept(model, keep, surgery) for name in removed.names)
