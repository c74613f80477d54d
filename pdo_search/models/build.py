"""Models by name or factory, and weights from a name or a file.

Knows names, stems and heads. What a weights file holds, and how a model is trained or shrunk, is
elsewhere.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.base.factory import call_factory, is_factory, load_factory
from pdo_search.base.user_code import told
from pdo_search.config.model import ModelConfig, StudentConfig, TeacherConfig
from pdo_search.models.adapt import adapt_to_pictures, new_heads
from pdo_search.models.heads import Head, heads_of
from pdo_search.models.layout import Shape, mark_built, needs_contiguous, picture_shape, placed
from pdo_search.models.normalization import (
    Statistics,
    configured,
    in_units,
    normalized_as,
    of_timm,
    of_weights,
)
from pdo_search.models.sequences import model_of_columns
from pdo_search.models.small_models import SmallConvNet, SmallResNet
from pdo_search.models.weights import load_weights, weights_file
from pdo_search.tasks.base import Head as OutputHead
from pdo_search.tasks.base import Task
from pdo_search.tasks.inputs import AnyInputs, PictureInputs

__all__ = ["build_for", "build_model", "placed", "set_dropout"]

log = logging.getLogger(__name__)

SMALL = ("small_resnet", "small_convnet")
AUXILIARY = ("googlenet", "inception_v3")
"""With further heads, by default, whose outputs nothing here trains."""


def build_model(
    config: ModelConfig,
    heads: Sequence[OutputHead],
    inputs: AnyInputs,
    *,
    seed: int,
    base_dir: Path | None = None,
    path: str = "student",
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """Build a model on the CPU, in training mode, for inputs that are normalised its own way.

    Args:
        config: which model.
        heads: its outputs.
        inputs: what it takes; a factory that asks for it is told the mean and standard deviation,
            of pictures whose bytes are divided by 255.
        seed: of the initial weights; the global generator is left as it was.
        base_dir: folder that relative paths and factories refer to.
        path: where the model stands in the experiment, for messages.
        say: called with a line when layers are new although weights are given.

    Raises:
        InputError: the name, its arguments or its weights cannot be used, or a part of it is new
            and nothing trains it.
    """
    if not isinstance(inputs, PictureInputs):
        trained = _is_trained(config)
        model = model_of_columns(
            config, heads, inputs, trained, seed=seed, base_dir=base_dir, path=path
        )
        set_dropout(model, config.dropout)
        return model.train()
    input_shape, num_outputs = inputs.input_shape, heads[0].size
    normalization = in_units((inputs.mean, inputs.std), 1 / inputs.unit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_factory(config.arch):
            model = _from_factory(
                config, input_shape, num_outputs, base_dir, path, normalization, say
            )
        elif config.arch in SMALL:
            model = _small(config, input_shape, num_outputs, path)
        else:
            model = _torchvision(config, input_shape, num_outputs, path, say)
        contiguous = config.arch not in SMALL and needs_contiguous(model, input_shape)
    mark_built(model.train(), input_shape, needs_contiguous=contiguous)
    if config.weights is not None and _named_weights(config) is None:
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
    inputs, own = task.inputs(), None
    told = inputs
    if isinstance(inputs, PictureInputs):
        own = configured(config, inputs.input_shape[0], path)
        if own is not None:
            mean, std = in_units(own, inputs.unit)
            told = replace(inputs, mean=mean, std=std)
    model = build_model(config, task.heads, told, seed=seed, base_dir=base_dir, path=path, say=say)
    if not isinstance(inputs, PictureInputs):
        return model
    if config.normalization is None:
        own = _known_normalization(config, model, inputs.input_shape[0], base_dir, path)
    return model if own is None else normalized_as(model, inputs, in_units(own, inputs.unit))


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
        model = _in_usual_numbers(model, path, say)
        outputs = _trial_forward(model, shape)
        # A pre-trained teacher's: a student is made for its task.
        fixed = "num_outputs" not in taken and not isinstance(config, StudentConfig)
        if fixed and _is_trained(config) and outputs.dim() == 2:
            new = new_heads(model, shape, num_outputs)
            if new:
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


def _in_usual_numbers(model: nn.Module, path: str, say: Callable[[str], None]) -> nn.Module:
    """The model on the CPU, its floating-point numbers in torch's default type."""
    usual = torch.get_default_dtype()
    tensors = (*model.parameters(), *model.buffers())
    others = {str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype is not usual}
    if others:
        say(f"{path}: numbers of {', '.join(sorted(others))} are turned into {usual}")
        model = model.to(usual)
    return model if torch.zeros(0).is_meta else model.cpu()


def _trial_forward(model: nn.Module, shape: Shape) -> Tensor:
    """A model's outputs of two pictures; lazy layers are made by it.

    Raises:
        TypeError: they are no tensor.
    """
    model.eval()
    # Not in inference mode: what lazy layers make there can never be trained.
    with torch.no_grad():
        outputs: Any = model(torch.zeros(2, *shape))
    model.train()
    if isinstance(outputs, Tensor):
        return outputs
    names = [*outputs] if isinstance(outputs, Mapping) else getattr(outputs, "_fields", ())
    holding = f" of {', '.join(map(str, names))}" if names else ""
    raise TypeError(
        f"the model returns a {type(outputs).__name__}{holding} where the logits are wanted; wrap"
        " it in an nn.Module whose forward returns these alone"
    )


def _torchvision(
    config: ModelConfig,
    shape: Shape,
    num_outputs: int,
    path: str,
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
    named = _named_weights(config)
    usual = {"aux_logits": False, "init_weights": True} if config.arch in AUXILIARY else {}
    try:
        model: nn.Module = models.get_model(config.arch, weights=named, **usual | config.args)
    except (TypeError, ValueError) as error:
        raise InputError(str(error), path=f"{path}.args", value=config.args) from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the named weights cannot be fetched: {error}",
            path=f"{path}.weights",
            value=config.weights,
            remedy="give a local checkpoint instead",
        ) from None
    try:
        new = ", ".join(adapt_to_pictures(model, shape, num_outputs))
        _trial_forward(model, shape)
    except Exception as error:
        raise InputError(
            f"{config.arch} cannot take pictures of {shape}: {error}",
            path=f"{path}.arch",
            value=config.arch,
            remedy="choose another architecture, or a larger task.data.size",
        ) from None
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


def _head(model: nn.Module) -> tuple[str, Head] | None:
    """What gives the classes of a model that was built here; None where that is no one layer."""
    shape = picture_shape(model)
    heads = {} if shape is None else heads_of(model, torch.zeros(2, *shape))
    return next(iter(heads.items())) if len(heads) == 1 else None
