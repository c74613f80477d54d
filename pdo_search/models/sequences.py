"""Models of batches by name: sequence models that are known here, and those that factories make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.base.factory import call_factory, is_factory, load_factory
from pdo_search.config.model import ModelConfig
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.hugging_face import HuggingFaceBody, hugging_face
from pdo_search.models.transformer import small_transformer
from pdo_search.models.weights import load_weights, weights_file
from pdo_search.tasks.base import Head
from pdo_search.tasks.inputs import Inputs

__all__ = ["SEQUENCE_MODELS", "built_with", "model_of_columns"]

SEQUENCE_MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "small_transformer": small_transformer,
    "transformers": hugging_face,
}
"""What they take beside width and depth stands in ``args``."""


def model_of_columns(
    config: ModelConfig,
    heads: Sequence[Head],
    inputs: Inputs,
    trained: bool,
    *,
    seed: int,
    base_dir: Path | None,
    path: str,
) -> nn.Module:
    """A model of batches by name: one of ``SEQUENCE_MODELS``, or what a factory makes.

    Args:
        config: which.
        heads: its outputs.
        inputs: what it takes.
        trained: whether it is trained afterwards.
        seed: of the initial weights.
        base_dir: folder that relative paths and factories refer to.
        path: where the model stands in the experiment, for messages.

    Raises:
        InputError: its name, sizes or weights cannot be used, or it makes no model.
    """
    where = f"{path}.arch"
    known = SEQUENCE_MODELS.get(config.arch)
    file = None if config.weights is None else weights_file(config, base_dir)
    offered = {
        "heads": tuple(heads),
        "inputs": dict(inputs.shapes) if known is None else inputs,
        "num_outputs": heads[0].size,
        "width": config.width,
        "depth": config.depth,
        "weights": file,
    }
    function = _factory(config, where, base_dir) if known is None else known
    taken = set(inspect.signature(function).parameters)
    arguments = {k: v for k, v in offered.items() if k in taken and v is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if known is None:
            model = call_factory(
                function,
                arguments | config.args,
                name=config.arch,
                path=where,
                offered=tuple(offered),
            )
        else:
            model = _sequence_model(config, arguments, taken - set(offered), path, trained)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"returned {type(model).__name__}, not an nn.Module", path=where, value=config.arch
        )
    if file is not None and "weights" not in taken:
        load_weights(model, file, path=f"{path}.weights", trained=trained)
    return model


def _factory(config: ModelConfig, where: str, base_dir: Path | None) -> Callable[..., Any]:
    """The function that a configuration names.

    Raises:
        InputError: it names none.
    """
    if is_factory(config.arch):
        return load_factory(config.arch, where, base_dir)
    raise InputError(
        "is no architecture for these inputs",
        path=where,
        value=config.arch,
        remedy=f"name {', '.join(SEQUENCE_MODELS)}, or a module:function that returns an"
        " nn.Module of batches by name",
    )


def _sequence_model(
    config: ModelConfig, offered: dict[str, Any], known: set[str], path: str, trained: bool
) -> nn.Module:
    """One of ``SEQUENCE_MODELS``, of what it is offered and of ``args`` that it knows.

    Raises:
        InputError: there are others, or nothing can be made of them; says where they stand.
    """
    unknown = sorted(set(config.args) - known)
    if unknown:
        raise InputError(
            f"{config.arch} takes no {unknown[0]} here",
            path=f"{path}.args.{unknown[0]}",
            value=config.args[unknown[0]],
            remedy=f"args are {', '.join(sorted(known))}",
        )
    if config.arch == "transformers" and not trained:
        raise InputError(
            "has new heads, and nothing trains them",
            path=f"{path}.arch",
            value=config.arch,
            remedy=f"add `{path}.train`",
        )
    try:
        return SEQUENCE_MODELS[config.arch](**offered, **config.args)
    except InputError as error:
        where = f"{path}.{error.path or 'arch'}"
        raise InputError(
            error.problem, path=where, value=error.value, remedy=error.remedy
        ) from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{config.arch} cannot be built of these: {str(error).splitlines()[0]}",
            path=f"{path}.args",
            value=config.args,
            remedy=f"args are {', '.join(sorted(known))}",
        ) from None


def built_with(config: ModelConfig, model: nn.Module) -> dict[str, Any]:
    """A configuration's ``args``, and what else a model is built of without its weights' files."""
    if isinstance(model, BodyAndHeads) and isinstance(model.body, HuggingFaceBody):
        return {**config.args, "config": model.body.config}
    return config.args
