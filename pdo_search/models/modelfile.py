"""The one form in which models lie on disk: ``model.json`` and ``weights.safetensors``.

A pruned model is built by name and then fitted to the shapes of its stored tensors, so no code and
no pickled module is ever loaded.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.base.factory import is_factory, load_local_factory
from pdo_search.base.safefile import read_regular
from pdo_search.config.schema import ModelConfig
from pdo_search.models.build import build_model
from pdo_search.models.normalization import in_units, normalization_of, normalized_as, unit_of
from pdo_search.models.tensorfile import read_safetensors
from pdo_search.tasks.base import Task

__all__ = [
    "InferenceModel",
    "ModelSpec",
    "fit_shapes",
    "load_for",
    "load_inference",
    "load_model_file",
    "save_model",
]

FORMAT = 1
SPEC_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
MAX_SPEC_BYTES = 16 << 20
MAX_INPUT = 1 << 24
"""Values of one example: four thousand by four thousand pixels."""
MAX_OUTPUTS = 1 << 20
MAX_PARAMS = 1 << 33
"""Of a stored model before its layers are fitted to the weights; more is a claim, not a model."""


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model again, and how its inputs are normalised.

    A stored one is checked field by field, since anybody may have written it.

    Attributes:
        arch: the model's configuration, without weights.
        input_shape: (C, H, W).
        num_outputs: size of the head.
        class_names: names by output.
        mean: per channel, of raw inputs: the model's own.
        std: per channel, of raw inputs, above 0: the model's own.
        dropped_blocks: names of blocks that are replaced by the identity.
        unit: raw value that a configured normalization calls 1: 255 for bytes. Above 0.
    """

    arch: ModelConfig
    input_shape: tuple[int, int, int]
    num_outputs: int
    class_names: tuple[str, ...]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    dropped_blocks: tuple[str, ...] = ()
    unit: FiniteFloat = 1.0

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1 or math.prod(self.input_shape) > MAX_INPUT:
            raise ValueError(f"input_shape is {self.input_shape}")
        if not 1 <= self.num_outputs <= MAX_OUTPUTS:
            raise ValueError(f"num_outputs is {self.num_outputs}")
        if not len(self.mean) == len(self.std) == self.input_shape[0]:
            raise ValueError("mean and std have not one number per channel")
        if min(*self.std, self.unit) <= 0:
            raise ValueError(f"std is {self.std}, unit {self.unit}: inputs are divided by them")

    @classmethod
    def of(
        cls, task: Task, arch: ModelConfig, model: nn.Module, dropped_blocks: tuple[str, ...] = ()
    ) -> ModelSpec:
        """The spec of a model of a task, normalised as this one is."""
        fields = {name: getattr(arch, name) for name in ModelConfig.model_fields}
        mean, std = normalization_of(model, task)
        return cls(
            # Where its numbers came from: they are in the spec themselves.
            arch=ModelConfig(**{**fields, "weights": None, "normalization": None}),
            input_shape=task.input_shape,
            num_outputs=task.heads[0].size,
            class_names=task.class_names,
            mean=mean,
            std=std,
            dropped_blocks=dropped_blocks,
            unit=unit_of(task),
        )


_SPEC = TypeAdapter(ModelSpec)


class InferenceModel(nn.Module):
    """A stored model that takes raw pictures.

    Attributes:
        spec: how it was built; ``spec.class_names`` names its outputs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (N, C) of pictures (N, C, H, W), in the values that the data source has."""
        logits: Tensor = self.model((pictures.float() - self.mean) / self.std)
        return logits


def save_model(directory: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write a model into a directory, which is made."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE)
    content = {**asdict(spec), "arch": spec.arch.model_dump(), "format": FORMAT}
    (directory / SPEC_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_model_file(directory: Path, base_dir: Path | None = None) -> tuple[nn.Module, ModelSpec]:
    """A stored model on the CPU, in training mode, and its spec.

    It takes inputs that are normalised as the spec says; ``load_for`` one that takes a task's.

    Raises:
        InputError: the directory holds no model, or a damaged one.
    """
    spec, state = _read(directory)
    return _rebuilt(directory, spec, state, base_dir), spec


def load_for(
    task: Task, directory: Path, base_dir: Path | None = None
) -> tuple[nn.Module, ModelSpec]:
    """A stored model that takes a task's prepared inputs, on the CPU, in training mode; its spec.

    Raises:
        InputError: the directory holds no model, or a damaged one.
    """
    model, spec = load_model_file(directory, base_dir)
    return normalized_as(model, task, (spec.mean, spec.std)), spec


def load_inference(directory: Path, base_dir: Path | None = None) -> InferenceModel:
    """A stored model, whoever stored it, that takes raw pictures, in evaluation mode.

    Args:
        directory: of the model.
        base_dir: folder whose code may be run, where a function made the model; None for none.

    Raises:
        InputError: the directory holds no model, a damaged one, or one that a function makes which
            does not lie in ``base_dir``.
    """
    spec, state = _read(directory)
    try:
        if is_factory(spec.arch.arch):
            load_local_factory(spec.arch.arch, "arch", base_dir)
        else:
            _refuse_giants(spec)
    except InputError as error:
        raise error.at(file=directory / SPEC_FILE) from None
    return InferenceModel(_rebuilt(directory, spec, state, base_dir), spec).eval()


_UNREADABLE = "name a directory that a sweep's `model` or `composite` column names"


def _read(directory: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """A stored model's spec and tensors.

    Raises:
        InputError: there is none, or a damaged one.
    """
    try:
        content: Any = json.loads(read_regular(directory / SPEC_FILE, MAX_SPEC_BYTES))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError("written by another version, or by something else")
        spec = _SPEC.validate_python(content)
        return spec, read_safetensors(directory / WEIGHTS_FILE)
    except InputError as error:
        reason = f"{WEIGHTS_FILE}: {error.problem}"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise InputError(
        f"holds no model that can be read: {reason}", file=directory, remedy=_UNREADABLE
    )


def _refuse_giants(spec: ModelSpec) -> None:
    """Build a model without memory for its numbers, to see how many it would have."""
    with torch.device("meta"):
        model = build_model(spec.arch, spec.input_shape, spec.num_outputs, seed=0, path="arch")
    params = sum(p.numel() for p in model.parameters())
    if params > MAX_PARAMS:
        raise InputError(
            f"claims {params:,} parameters, more than {MAX_PARAMS:,}", path="arch",
            value=spec.arch.model_dump(exclude_defaults=True), remedy=_UNREADABLE,
        )  # fmt: skip


def _rebuilt(
    directory: Path, spec: ModelSpec, state: dict[str, Tensor], base_dir: Path | None
) -> nn.Module:
    """The model of a spec with the tensors' shapes and values.

    Raises:
        InputError: it cannot be built, or the tensors are not its.
    """
    try:
        model = build_model(
            spec.arch,
            spec.input_shape,
            spec.num_outputs,
            seed=0,
            base_dir=base_dir,
            path="arch",
            normalization=in_units((spec.mean, spec.std), 1 / spec.unit),
        )
        for name in spec.dropped_blocks:
            if not name or name not in dict(model.named_modules()):
                raise ValueError(f"it has no block {name!r}")
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
        fit_shapes(model, state)
        model.load_state_dict(_as_own(model, state))
    except InputError as error:
        raise error.at(file=directory / SPEC_FILE) from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"holds weights that are not of its model: {str(error).splitlines()[0]}",
            file=directory,
            remedy=_UNREADABLE,
        ) from None
    return model


def _as_own(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors as a state dict of a model, which may ask for the version of its layers.

    The code that stored them is the code that loads them, so the version is the same.
    """
    own = model.state_dict()
    found = OrderedDict(state)
    found._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    return found


def fit_shapes(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model's parameters and buffers the shapes of stored tensors, in place.

    The values are not loaded. Layers that keep their sizes in attributes, too, have these fitted:
    convolutions (depthwise ones keep one filter per channel), linear and normalisation layers,
    embeddings.
    """
    fitted: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        changed = False
        for key, parameter in list(module._parameters.items()):
            stored = state.get(prefix + key)
            if parameter is None or stored is None or parameter.shape == stored.shape:
                continue
            # Layers that share a parameter share the fitted one.
            new = nn.Parameter(torch.empty_like(stored), requires_grad=parameter.requires_grad)
            module._parameters[key] = fitted.setdefault(id(parameter), new)
            changed = True
        for key, buffer in list(module._buffers.items()):
            stored = state.get(prefix + key)
            if buffer is not None and stored is not None and buffer.shape != stored.shape:
                module._buffers[key] = torch.empty_like(stored)
                changed = True
        if changed:
            _fit_sizes(module)


def _fit_sizes(module: nn.Module) -> None:
    """Let a layer's attributes say what its tensors' shapes are."""
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        inputs, outputs = (0, 1) if module.transposed else (1, 0)
        if module.groups > 1 and weight.shape[inputs] == 1 and not module.transposed:
            module.groups = weight.shape[0] * module.groups // module.out_channels
        module.out_channels = weight.shape[outputs] * (module.groups if module.transposed else 1)
        module.in_channels = weight.shape[inputs] * (1 if module.transposed else module.groups)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        statistics: Any = module.running_mean
        module.num_features = len(statistics if weight is None else weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
