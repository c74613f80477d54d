"""A classifier made for other pictures and classes is fitted to those of a task.

Knows stems and heads. Where a model comes from is elsewhere.
"""

from __future__ import annotations

import torch
from torch import nn

from pdo_search.models.heads import heads_of, num_outputs, with_outputs
from pdo_search.models.layout import Shape

__all__ = ["adapt_to_pictures", "new_heads"]

SMALL_PICTURE = 64


def adapt_to_pictures(model: nn.Module, shape: Shape, num_classes: int) -> tuple[str, ...]:
    """Fit a torchvision classifier to the pictures' channels and size and to the class count.

    Pictures below 64 pixels lose too much in a stem made for 224: its strides become 1 (as usual
    for CIFAR, He et al. 2016, section 4.2), and VGG's classifier reads one position instead of 49.

    Returns:
        Names of the layers whose weights are random now. Those of a stem for other channels are
        derived from the old ones.
    """
    channels, edge = shape[0], min(shape[1:])
    new = _shrink_stem(model, edge) if edge < SMALL_PICTURE else []
    first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first[1].in_channels != channels:
        _replace(model, first[0], _with_channels(first[1], channels))
    return (*new, *new_heads(model, shape, num_classes))


def new_heads(model: nn.Module, shape: Shape, count: int) -> list[str]:
    """Put new heads on a model made for another number of classes; their names."""
    heads = heads_of(model, torch.zeros(2, *shape))
    new = {n: with_outputs(old, count) for n, old in heads.items() if num_outputs(old) != count}
    for name, head in new.items():
        _replace(model, name, head)
    return list(new)


def _shrink_stem(model: nn.Module, edge: int) -> list[str]:
    """Undo the strides of a stem made for large pictures; names of the layers that are new."""
    new = []
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()
    convs = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    name, stem = convs[0]
    # A vision transformer cuts its patches so, and has as many positions: `args` sets their size.
    if stem.stride != (1, 1) and name != "conv_proj":
        if stem.kernel_size[0] > 3:
            small = nn.Conv2d(
                stem.in_channels, stem.out_channels, 3, 1, 1, bias=stem.bias is not None
            )
            _replace(model, name, small)
            new.append(name)
        else:
            stem.stride = (1, 1)
    if isinstance(getattr(model, "avgpool", None), nn.AdaptiveAvgPool2d) and hasattr(
        model, "features"
    ):
        linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
        last = convs[-1][1].out_channels
        if linear is not None and linear.in_features == last * 49:
            model.avgpool = nn.AdaptiveAvgPool2d(1)
            name = next(n for n, m in model.named_modules() if m is linear)
            _replace(model, name, nn.Linear(last, linear.out_features))
            _drop_pools(model, edge)
            new.append(name)
    return new


def _drop_pools(model: nn.Module, edge: int) -> None:
    """Take out the last poolings of a VGG that would leave nothing of the picture."""
    for name, pool in list(model.named_modules()):
        if isinstance(pool, nn.MaxPool2d):
            edge //= 2
            if edge == 0:
                _replace(model, name, nn.Identity())


def _with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A first convolution for another number of channels: grey takes the sum of the filters."""
    new = nn.Conv2d(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        mean = conv.weight.mean(dim=1, keepdim=True) * (conv.in_channels / channels)
        new.weight.copy_(mean.expand_as(new.weight))
        if conv.bias is not None and new.bias is not None:
            new.bias.copy_(conv.bias)
    return new


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
