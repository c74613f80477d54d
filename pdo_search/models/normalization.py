"""How a model's inputs are normalised: known from its configuration, put in front of it.

All models of a task share prepared inputs, which are normalised by the train split. A model that
was trained with another mean and standard deviation gets the exact correction between the two. What
a mean is measured on belongs to the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig, NormalizationConfig
from pdo_search.tasks.inputs import PictureInputs

__all__ = [
    "IMAGENET",
    "Statistics",
    "configured",
    "in_units",
    "normalization_of",
    "normalized_as",
    "of_timm",
    "of_weights",
]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, each with one number per channel."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RGB = 3
SAME = 1e-9
"""Relative difference of two means of the same pictures, summed on two machines."""


def in_units(statistics: Statistics, factor: float) -> Statistics:
    """Mean and standard deviation, multiplied."""
    mean, std = statistics
    return tuple(m * factor for m in mean), tuple(s * factor for s in std)


def configured(config: ModelConfig, channels: int, path: str) -> Statistics | None:
    """The normalization that an experiment gives a model, in units; None for ``data`` or none.

    Raises:
        InputError: it has not as many numbers as the pictures have channels.
    """
    given = config.normalization
    if given is None or given == "data":
        return None
    if given == "imagenet":
        return _by_channel(IMAGENET, channels)
    assert isinstance(given, NormalizationConfig)
    counts = {len(given.mean), len(given.std)} - {1}
    if not counts or counts == {channels} or (channels == 1 and counts == {RGB}):
        return _by_channel((given.mean, given.std), channels)
    raise InputError(
        f"has {max(counts)} numbers for pictures of {channels} channels",
        path=f"{path}.normalization",
        value=given.model_dump(),
        remedy=f"give mean and std of one number each, or of {channels}",
    )


def of_weights(arch: str, weights: str, channels: int) -> Statistics | None:
    """What named torchvision weights were trained with, in units."""
    from torchvision import models

    return _known(models.get_model_weights(arch)[weights].transforms(), channels)


def of_timm(model: nn.Module, channels: int) -> Statistics | None:
    """What a timm model's own configuration says, in units; None for any other model.

    A fresh timm model says so too: any normalization does for weights that are yet to be learnt.
    """
    for name in ("pretrained_cfg", "default_cfg"):
        found = _known(getattr(model, name, None), channels)
        if found is not None:
            return found
    return None


def _known(source: object, channels: int) -> Statistics | None:
    """``mean`` and ``std`` of a mapping or an object, if it has them."""
    mean, std = (
        _as_numbers(source.get(k) if isinstance(source, Mapping) else getattr(source, k, None))
        for k in ("mean", "std")
    )
    if mean is None or std is None or min(std) <= 0:
        return None
    return _by_channel((mean, std), channels)


def _as_numbers(value: object) -> tuple[float, ...] | None:
    """A list of numbers, or None for anything else."""
    if not isinstance(value, Sequence) or not value:
        return None
    return tuple(map(float, value)) if all(isinstance(x, int | float) for x in value) else None


def _by_channel(statistics: Statistics, channels: int) -> Statistics:
    """One number per channel: as they are, or their average for each."""
    mean, std = (
        numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels
        for numbers in statistics
    )
    return mean, std


class _Correction:
    """A hook before a model: from the task's normalization to the model's own.

    Its numbers are buffers of the model that no state dict holds: they follow the model to its
    device, and neither keys nor the names of blocks change.
    """

    SCALE, SHIFT = "own_normalization_scale", "own_normalization_shift"

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        scale, shift = getattr(model, self.SCALE), getattr(model, self.SHIFT)
        return (inputs[0] * scale + shift, *inputs[1:])


def normalized_as(model: nn.Module, inputs: PictureInputs, statistics: Statistics) -> nn.Module:
    """Let a model take a task's prepared inputs as if they were normalised its own way.

    ``(x - mean) / std`` of raw inputs is an affine function of ``task.prepare(x)``; it is applied
    before the model, in place. A model that is normalised as the task is stays as it is.

    Args:
        model: changed in place; one that was corrected before is corrected anew.
        inputs: as the task normalises them.
        statistics: the model's own, of raw inputs.

    Returns:
        The model.
    """
    old = _correction(model)
    if old is not None:
        del model._forward_pre_hooks[old[0]]
        del model._buffers[_Correction.SCALE], model._buffers[_Correction.SHIFT]
    pairs = [*zip(inputs.mean, inputs.std, strict=True)], [*zip(*statistics, strict=True)]
    scale = [std / own for (_, std), (_, own) in zip(*pairs, strict=True)]
    shift = [(mean - m) / own for (mean, _), (m, own) in zip(*pairs, strict=True)]
    if all(math.isclose(a, 1, rel_tol=SAME) for a in scale) and max(map(abs, shift)) < SAME:
        return model
    for name, numbers in ((_Correction.SCALE, scale), (_Correction.SHIFT, shift)):
        model.register_buffer(name, _per_channel(numbers), persistent=False)
    model.register_forward_pre_hook(_Correction(statistics))
    return model


def _per_channel(numbers: Sequence[float]) -> Tensor:
    """(C, 1, 1): broadcasts over (N, C, H, W)."""
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def normalization_of(model: nn.Module, inputs: PictureInputs) -> Statistics:
    """Mean and standard deviation of raw inputs that a model of a task is run with."""
    found = _correction(model)
    return (inputs.mean, inputs.std) if found is None else found[1].statistics


def _correction(model: nn.Module) -> tuple[int, _Correction] | None:
    hooks = model._forward_pre_hooks.items()
    return next(((key, hook) for key, hook in hooks if isinstance(hook, _Correction)), None)
