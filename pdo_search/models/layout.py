"""In which order a model's numbers lie in memory: decided here, for every place that runs models.

Channels-last is faster on CPUs and GPUs alike. Models whose code takes no other order than the
contiguous one (``x.view(len(x), -1)``) keep that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Shape", "mark_built", "needs_contiguous", "picture_shape", "placed"]

Shape = tuple[int, int, int]

SAFE_CHANNELS = 16


class _Built:
    """A hook before a model: what it was built for; brings its inputs into the order it needs."""

    def __init__(self, shape: Shape, needs_contiguous: bool) -> None:
        self.shape = shape
        self.needs_contiguous = needs_contiguous

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.needs_contiguous or not inputs:
            return None
        pictures = inputs[0]
        # Those of one channel are contiguous in any order; a view of the lines makes it this one.
        return (pictures.contiguous().flatten(1).view(pictures.shape), *inputs[1:])


class _Thinned:
    """A hook before a convolution: every so many rows and columns of its inputs."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        self.stride = stride

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        rows, columns = self.stride
        return (inputs[0][:, :, ::rows, ::columns],)


def mark_built(model: nn.Module, shape: Shape, *, needs_contiguous: bool) -> None:
    """Keep with a model what decides about its order, whatever is done to its layers later."""
    model.register_forward_pre_hook(_Built(shape, needs_contiguous))


def picture_shape(model: nn.Module) -> Shape | None:
    """The pictures (C, H, W) that a model was built for; None where that is unknown."""
    built = _built(model)
    return None if built is None else built.shape


def needs_contiguous(model: nn.Module, shape: Shape) -> bool:
    """Whether a model that takes contiguous pictures fails on channels-last ones, by trying.

    It is left in evaluation mode and in contiguous order.
    """
    channels, height, width = shape
    pictures = torch.zeros(2, height, width, channels).permute(0, 3, 1, 2)
    model.eval()
    try:
        with torch.no_grad():
            model.to(memory_format=torch.channels_last)(pictures)
    except RuntimeError:
        return True
    finally:
        model.to(memory_format=torch.contiguous_format)
    return False


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, its numbers in the order that suits it.

    To be called anew after its layers were changed.
    """
    model = model.to(device)
    built = [(part, mark) for part in model.modules() if (mark := _built(part)) is not None]
    free = [part for part, mark in built if not mark.needs_contiguous] if built else [model]
    for part in free:
        part.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        _spare_strides(model)
    return model


def _spare_strides(model: nn.Module) -> None:
    """Let small 1x1 convolutions have inputs that are thinned out, in place of a stride.

    The outputs are the same. With AVX-512, oneDNN's gradient of the weights of a strided one, in
    channels-last order and from fewer than 16 channels, writes beyond its scratch memory, and the
    process ends by a signal or goes on with damaged memory (oneDNN issue 6035; torch 2.14). Seen of
    pictures of 46 pixels and more, and of 10 where a batch has fewer pictures than threads.
    """
    for layer in model.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and layer.padding in ((0, 0), "valid")
            and layer.groups == 1
            and layer.in_channels < SAFE_CHANNELS
            and max(layer.stride) > 1
        ):
            layer.register_forward_pre_hook(_Thinned(layer.stride))
            layer.stride = (1, 1)


def _built(model: nn.Module) -> _Built | None:
    return next((h for h in model._forward_pre_hooks.values() if isinstance(h, _Built)), None)
