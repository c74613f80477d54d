"""Models by name or factory, and weights from a name or a file.

Knows names, stems and heads. What a weights file holds, and how a model is trained or shrunk, is
elsewhere.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig, StudentConfig, TeacherConfig
from pdo_search.errors import InputError
from pdo_search.tasks.base import Task
from pdo_search.tasks.factory import call_factory, is_factory, load_factory
from pdo_search.tasks.normalization import (
    Statistics,
    configured,
    in_units,
    normalized_as,
    of_timm,
    of_weights,
    unit_of,
)
from pdo_search.tasks.small_models import SmallConvNet, SmallResNet
from pdo_search.tasks.user_code import told
from pdo_search.tasks.weights import load_weights, weights_file

__all__ = ["build_for", "build_model", "placed", "set_dropout"]

log = logging.getLogger(__name__)

SMALL = ("small_resnet", "small_convnet")
SMALL_PICTURE = 64
Shape = tuple[int, int, int]


def build_model(
    config: ModelConfig,
    input_shape: Shape,
    num_outputs: int,
    *,
    seed: int,
    base_dir: Path | None = None,
    path: str = "student",
    with_weights: bool = True,
    normalization: Statistics | None = None,
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """Build a model on the CPU, in training mode, for inputs that are normalised its own way.

    Args:
        config: which model.
        input_shape: (C, H, W) of a picture.
        num_outputs: size of the head.
        seed: of the initial weights; the global generator is left as it was.
        base_dir: folder that relative paths and factories refer to.
        path: where the model stands in the experiment, for messages.
        with_weights: whether to load ``config.weights``.
        normalization: mean and standard deviation that its inputs come with, of pictures whose
            bytes are divided by 255; a factory that asks for it is told.
        say: called with a line when layers are new although weights are given.

    Raises:
        InputError: the name, its arguments or its weights cannot be used, or a part of it is new
            and nothing trains it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_factory(config.arch):
            model = _from_factory(
                config, input_shape, num_outputs, base_dir, path, normalization, say
            )
        elif config.arch in SMALL:
            model = _small(config, input_shape, num_outputs, path)
        else:
            model = _torchvision(config, input_shape, num_outputs, path, with_weights, say)
    if with_weights and config.weights is not None and _named_weights(config) is None:
        file = weights_file(config, base_dir)
        head = _head(model)
        new = load_weights(
            model,
            file,
            path=f"{path}.weights",
            trained=_is_trained(config),
            head=head and head[0],
            say=say,
        )
        if new:
            say(f"{path}: new head for {num_outputs} classes ({new}) on the weights of {file.name}")
    set_dropout(model, config.dropout)
    return model


def build_for(
    task: Task,
    config: ModelConfig,
    *,
    seed: int,
    base_dir: Path | None = None,
    path: str = "student",
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """Build a model that takes a task's prepared inputs, normalised as its weights were trained.

    Args:
        task: shape, classes and normalization of its inputs.
        config: which model.
        seed: of the initial weights.
        base_dir: folder that relative paths and factories refer to.
        path: where the model stands in the experiment, for messages.
        say: called with a line when layers are new although weights are given.

    Raises:
        InputError: see ``build_model``; or its normalization does not fit the pictures.
    """
    unit, channels = unit_of(task), task.input_shape[0]
    own = configured(config, channels, path)
    model = build_model(
        config,
        task.input_shape,
        task.heads[0].size,
        seed=seed,
        base_dir=base_dir,
        path=path,
        normalization=own or in_units(task.normalization, 1 / unit),
        say=say,
    )
    if config.normalization is None:
        own = _known_normalization(config, model, channels, base_dir, path)
    return model if own is None else normalized_as(model, task, in_units(own, unit))


def _known_normalization(
    config: ModelConfig, model: nn.Module, channels: int, base_dir: Path | None, path: str
) -> Statistics | None:
    """What a model's weights were trained with, where they say so; in units."""
    named = _named_weights(config)
    if named is not None:
        return of_weights(config.arch, named, channels)
    # A checkpoint file of another architecture does not say; and a factory that asks for the
    # normalization has been told one.
    if not is_factory(config.arch):
        return None
    told = "normalization" in _parameters(load_factory(config.arch, f"{path}.arch", base_dir))
    return None if told else of_timm(model, channels)


def _is_trained(config: ModelConfig) -> bool:
    """Whether a model is trained after it is built: all students are, and some teachers."""
    return not (isinstance(config, TeacherConfig) and config.is_given)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, convolutions in channels-last order: faster on CPUs and GPUs alike."""
    return model.to(device).to(memory_format=torch.channels_last)


def set_dropout(model: nn.Module, probability: float) -> bool:
    """Set every dropout layer's probability; False where the model has none."""
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    for layer in layers:
        layer.p = probability
    return bool(layers)


def _small(config: ModelConfig, shape: Shape, num_outputs: int, path: str) -> nn.Module:
    sizes = {k: v for k, v in (("width", config.width), ("depth", config.depth)) if v is not None}
    if config.args:
        raise InputError(
            f"{config.arch} takes width, depth and dropout only",
            path=f"{path}.args",
            value=config.args,
        )
    channels, edge = shape[0], shape[1]
    if config.arch == "small_resnet":
        return SmallResNet(channels, num_outputs, dropout=config.dropout, **sizes)
    return SmallConvNet(channels, num_outputs, dropout=config.dropout, edge=edge, **sizes)


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _from_factory(
    config: ModelConfig,
    shape: Shape,
    num_outputs: int,
    base_dir: Path | None,
    path: str,
    normalization: Statistics | None,
    say: Callable[[str], None],
) -> nn.Module:
    where = f"{path}.arch"
    function = load_factory(config.arch, where, base_dir)
    offered = {
        "num_outputs": num_outputs,
        "input_shape": shape,
        "width": config.width,
        "depth": config.depth,
        "normalization": normalization,
    }
    taken = _parameters(function)
    arguments = {k: v for k, v in offered.items() if k in taken and v is not None} | config.args
    model = call_factory(function, arguments, name=config.arch, path=where, offered=tuple(offered))
    try:
        if not isinstance(model, nn.Module):
            raise TypeError(f"returned {type(model).__name__}, not an nn.Module")
        outputs = _trial_forward(model, shape)
        # A pre-trained teacher's: a student is made for its task.
        fixed = "num_outputs" not in taken and not isinstance(config, StudentConfig)
        if fixed and _is_trained(config) and _takes_new_head(model, outputs.shape, num_outputs):
            say(f"{path}: new head for {num_outputs} classes on {config.arch}")
            outputs = _trial_forward(model, shape)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the factory cannot be used: {told(error)}",
            path=where,
            value=config.arch,
            remedy=f"it must return an nn.Module that maps (N, {', '.join(map(str, shape))}) to"
            f" (N, {num_outputs})",
        ) from error
    if outputs.shape != (2, num_outputs):
        raise InputError(
            f"the model maps two pictures to {tuple(outputs.shape)}, not to (2, {num_outputs})",
            path=where,
            value=config.arch,
            remedy="take num_outputs as an argument of the factory",
        )
    return model


def _takes_new_head(model: nn.Module, outputs: torch.Size, num_outputs: int) -> bool:
    """Put a new head on a model made for another number of classes; whether it took one."""
    found = _head(model)
    if found is None or not found[0] or outputs == (2, num_outputs):
        return False
    name, head = found
    if outputs != (2, head.out_features):
        return False
    _replace(model, name, nn.Linear(head.in_features, num_outputs, bias=head.bias is not None))
    return True


def _trial_forward(model: nn.Module, shape: Shape) -> Tensor:
    model.eval()
    with torch.inference_mode():
        outputs: Tensor = model(torch.zeros(2, *shape))
    model.train()
    return outputs


def _torchvision(
    config: ModelConfig,
    shape: Shape,
    num_outputs: int,
    path: str,
    with_weights: bool,
    say: Callable[[str], None],
) -> nn.Module:
    from torchvision import models

    names = _classifiers()
    if config.arch not in names:
        near = difflib.get_close_matches(config.arch, (*SMALL, *names), n=2)
        raise InputError(
            "unknown architecture", path=f"{path}.arch", value=config.arch,
            remedy=f"did you mean {' or '.join(near)}?" if near
            else f"known: {', '.join(SMALL)}, torchvision's classifiers, or module:function",
        )  # fmt: skip
    if config.width is not None or config.depth is not None:
        raise InputError(
            "width and depth belong to the small models",
            path=f"{path}.{'width' if config.width is not None else 'depth'}",
            value=config.width if config.width is not None else config.depth,
            remedy="torchvision's own arguments go into `args`, such as {width_mult: 0.5}",
        )
    named = _named_weights(config) if with_weights else None
    try:
        if named is not None:
            model: nn.Module = models.get_model(config.arch, weights=named, **config.args)
        else:
            model = models.get_model(config.arch, weights=None, **config.args)
    except (TypeError, ValueError) as error:
        raise InputError(str(error), path=f"{path}.args", value=config.args) from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the named weights cannot be fetched: {error}",
            path=f"{path}.weights",
            value=config.weights,
            remedy="give a local checkpoint instead",
        ) from None
    new = ", ".join(adapt_to_pictures(model, shape, num_outputs))
    if named is not None and new:
        if not _is_trained(config):
            raise InputError(
                f"the weights have nothing for {new}, made for pictures of {shape} and"
                f" {num_outputs} classes, and nothing trains it",
                path=f"{path}.weights",
                value=named,
                remedy=f"add `{path}.train`, or give a checkpoint that was trained on such data",
            )
        say(f"{path}: new layers for {num_outputs} classes of {shape} ({new}) on {named}")
    try:
        _trial_forward(model, shape)
    except Exception as error:
        raise InputError(
            f"{config.arch} cannot take pictures of {shape}: {error}",
            path=f"{path}.arch",
            value=config.arch,
            remedy="choose another architecture, or a larger task.data.size",
        ) from None
    return model


@lru_cache
def _classifiers() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _named_weights(config: ModelConfig) -> str | None:
    """The name of torchvision weights, or None where ``weights`` is a file or nothing."""
    if config.weights is None or is_factory(config.arch) or config.arch in SMALL:
        return None
    from torchvision import models

    if config.arch not in _classifiers():
        return None
    return (
        config.weights
        if config.weights in models.get_model_weights(config.arch).__members__
        else None
    )


def adapt_to_pictures(model: nn.Module, shape: Shape, num_outputs: int) -> tuple[str, ...]:
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
    found = _head(model)
    if found is not None:
        name, head = found
        if head.out_features != num_outputs:
            _replace(
                model, name, nn.Linear(head.in_features, num_outputs, bias=head.bias is not None)
            )
            new.append(name)
    return tuple(new)


def _head(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """The last linear layer: what gives the classes."""
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else None


def _shrink_stem(model: nn.Module, edge: int) -> list[str]:
    """Undo the strides of a stem made for large pictures; names of the layers that are new."""
    new = []
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()
    convs = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    name, stem = convs[0]
    if stem.stride != (1, 1):
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
