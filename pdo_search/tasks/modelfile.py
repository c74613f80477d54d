"""The one form in which models lie on disk: ``model.json`` and ``weights.safetensors``.

A pruned model is built by name and then fitted to the shapes of its stored tensors, so no code and
no pickled module is ever loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig
from pdo_search.errors import InputError
from pdo_search.tasks.base import Task
from pdo_search.tasks.models import build_model

__all__ = [
    "InferenceModel",
    "ModelSpec",
    "fit_shapes",
    "load_inference",
    "load_model_file",
    "save_model",
]

FORMAT = 1
SPEC_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model again, and how its inputs are normalised.

    Attributes:
        arch: the model's configuration, without weights.
        input_shape: (C, H, W).
        num_outputs: size of the head.
        class_names: names by output.
        mean: per channel, of raw inputs.
        std: per channel, of raw inputs.
        dropped_blocks: names of blocks that are replaced by the identity.
    """

    arch: ModelConfig
    input_shape: tuple[int, int, int]
    num_outputs: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dropped_blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, arch: ModelConfig, dropped_blocks: tuple[str, ...] = ()) -> ModelSpec:
        """The spec of a model of a task."""
        fields = {name: getattr(arch, name) for name in ModelConfig.model_fields}
        mean, std = task.normalization
        return cls(
            arch=ModelConfig(**{**fields, "weights": None}),
            input_shape=task.input_shape,
            num_outputs=task.heads[0].size,
            class_names=task.class_names,
            mean=mean,
            std=std,
            dropped_blocks=dropped_blocks,
        )


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

    Raises:
        InputError: the directory holds no model, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content: dict[str, Any] = json.loads((directory / SPEC_FILE).read_text(encoding="utf-8"))
        state = load_file(directory / WEIGHTS_FILE)
        if content.pop("format") != FORMAT:
            raise ValueError("written by another version")
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        fields["arch"] = ModelConfig.model_validate(content["arch"])
        spec = ModelSpec(**fields)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(
            f"holds no model that can be read: {error}",
            file=directory,
            remedy="name a directory that a sweep's `model` or `composite` column names",
        ) from None
    model = build_model(
        spec.arch, spec.input_shape, spec.num_outputs, seed=0, base_dir=base_dir, path="model"
    )
    for name in spec.dropped_blocks:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    fit_shapes(model, state)
    model.load_state_dict(state)
    return model, spec


def load_inference(directory: Path, base_dir: Path | None = None) -> InferenceModel:
    """A stored model that takes raw pictures, in evaluation mode.

    Raises:
        InputError: the directory holds no model, or a damaged one.
    """
    return InferenceModel(*load_model_file(directory, base_dir)).eval()


def fit_shapes(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model's layers the shapes of stored tensors, in place: a pruned model's, say.

    Convolutions (depthwise ones keep one filter per channel), linear layers and batch norms are
    fitted; the values are not loaded.
    """
    for name, module in model.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        if module.weight.shape == weight.shape:
            continue
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[key] = nn.Parameter(torch.empty_like(state[f"{name}.{key}"]))
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = torch.empty_like(state[f"{name}.{key}"])
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1 and weight.shape[1] == 1
            module.groups = weight.shape[0] if depthwise else module.groups
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_features = weight.shape[0]
