"""The one form in which models lie on disk: ``model.json`` and ``weights.safetensors``.

A pruned model is built by name and then fitted to the shapes of its stored tensors, so no code and
no pickled module is ever loaded.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.base.factory import is_factory, load_local_factory
from pdo_search.base.safefile import read_regular
from pdo_search.config.model import ModelConfig
from pdo_search.models.anatomy import remove_part
from pdo_search.models.bodies import TrimmedEmbedding
from pdo_search.models.build import build_model
from pdo_search.models.normalization import normalization_of, normalized_as
from pdo_search.models.sequences import built_with
from pdo_search.models.tensorfile import read_safetensors
from pdo_search.tasks.base import Batch, Head, Outputs, Task
from pdo_search.tasks.inputs import PIXELS, AnyInputs, PictureInputs
from pdo_search.tasks.kinds import answers_of

__all__ = [
    "InferenceModel",
    "ModelSpec",
    "fit_shapes",
    "load_for",
    "load_inference",
    "load_model_file",
    "named_answers",
    "save_model",
    "single",
]

FORMAT = 2
SPEC_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
MAX_SPEC_BYTES = 16 << 20
MAX_OUTPUTS = 1 << 20
MAX_PARAMS = 1 << 33
"""Of a stored model before its layers are fitted to the weights; more is a claim, not a model."""


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model again, what it takes, and what its outputs mean.

    A stored one is checked field by field, since anybody may have written it.

    Attributes:
        arch: the model's configuration, without weights.
        heads: its outputs.
        inputs: what it takes, and how raw inputs become that.
        dropped_blocks: names of blocks and layers that are taken out, one after the other.
    """

    arch: ModelConfig
    heads: tuple[Head, ...]
    inputs: Annotated[AnyInputs, Field(discriminator="kind")]
    dropped_blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.heads or not all(1 <= head.size <= MAX_OUTPUTS for head in self.heads):
            raise ValueError(f"heads have sizes {[head.size for head in self.heads]}")

    @classmethod
    def of(
        cls, task: Task, arch: ModelConfig, model: nn.Module, dropped_blocks: tuple[str, ...] = ()
    ) -> ModelSpec:
        """The spec of a model of a task, normalised as this one is."""
        fields = {name: getattr(arch, name) for name in ModelConfig.model_fields}
        inputs = task.inputs()
        if isinstance(inputs, PictureInputs):
            mean, std = normalization_of(model, inputs)
            inputs = replace(inputs, mean=mean, std=std)
        # Where its numbers came from: they are in the spec themselves.
        own = {"args": built_with(arch, model), "weights": None, "normalization": None}
        return cls(ModelConfig(**fields | own), task.heads, inputs, dropped_blocks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by output of a classifier of pictures; none of other models."""
        return self.inputs.class_names if isinstance(self.inputs, PictureInputs) else ()


_SPEC = TypeAdapter(ModelSpec)


class InferenceModel(nn.Module):
    """A stored model that takes raw inputs.

    Attributes:
        spec: how it was built; ``spec.class_names`` names the outputs of a classifier.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec

    def outputs(self, raw: Tensor | Batch) -> Outputs:
        """Outputs by head of raw inputs by name; of pictures (N, C, H, W) alone, too."""
        batch = {PIXELS: raw} if isinstance(raw, Tensor) else raw
        prepared = {**batch, **self.spec.inputs.prepared(batch)}
        pictures = isinstance(self.spec.inputs, PictureInputs)
        found = self.model(prepared[PIXELS] if pictures else prepared)
        return {self.spec.heads[0].name: found} if isinstance(found, Tensor) else found

    def forward(self, raw: Tensor | Batch) -> Any:
        """Logits (N, C) of raw pictures (N, C, H, W), in the values that the data source has; of a
        model of several heads its outputs by head."""
        return single(self.outputs(raw))

    @torch.inference_mode()
    def predict(self, raw: Tensor | Batch) -> Any:
        """The names of the classes of raw pictures; of other models answers by head."""
        return named_answers(self.spec, self.outputs(raw), raw)


def single(outputs: Outputs) -> Any:
    """The outputs of a model of one head; those of several by head."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def named_answers(spec: ModelSpec, outputs: Outputs, raw: Tensor | Batch) -> Any:
    """Answers by head; of a classifier of pictures the names of the classes."""
    answers = answers_of(spec.heads, outputs, {} if isinstance(raw, Tensor) else raw)
    if names := spec.class_names:
        return [names[index] for index in single(answers).tolist()]
    return answers


def save_model(directory: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write a model into a directory, which is made."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE)
    content = {**_SPEC.dump_python(spec, mode="json"), "format": FORMAT}
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
    own, inputs = spec.inputs, task.inputs()
    if isinstance(own, PictureInputs) and isinstance(inputs, PictureInputs):
        model = normalized_as(model, inputs, (own.mean, own.std))
    return model, spec


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
        written = content.pop("format", None) if isinstance(content, dict) else None
        if written == 1:
            content = _from_first(content)
        elif written != FORMAT:
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


def _from_first(content: dict[str, Any]) -> dict[str, Any]:
    """A spec of the first format, which knew classifiers of pictures alone, as one of today.

    Raises:
        ValueError: a field is missing.
    """
    inputs = {
        name: content.pop(name)
        for name in ("input_shape", "class_names", "mean", "std", "unit")
        if name in content
    }
    if "num_outputs" not in content:
        raise ValueError("it has no num_outputs")
    head = {"name": "class", "kind": "categorical", "size": content.pop("num_outputs")}
    return {**content, "heads": [head], "inputs": {**inputs, "kind": "pictures"}}


def _refuse_giants(spec: ModelSpec) -> None:
    """Build a model without memory for its numbers, to see how many it would have."""
    with torch.device("meta"):
        model = build_model(spec.arch, spec.heads, spec.inputs, seed=0, path="arch")
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
            spec.arch, spec.heads, spec.inputs, seed=0, base_dir=base_dir, path="arch"
        )
        for name in spec.dropped_blocks:
            remove_part(model, name)
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
    embeddings. An embedding that is stored with the rows of some ids alone becomes a trimmed one.
    """
    _trim_embeddings(model, state)
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
    for module in model.modules():
        # GPT-2 cuts one layer's outputs into queries, keys and values.
        fused: Any = getattr(module, "c_attn", None)
        if fused is not None and hasattr(module, "split_size"):
            module.split_size = fused.weight.shape[1] // 3


def _trim_embeddings(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put trimmed embeddings where stored tensors are of some."""
    for name, module in list(model.named_modules()):
        row_of = state.get(f"{name}.row_of")
        if row_of is not None and isinstance(module, nn.Embedding):
            new = TrimmedEmbedding(module.weight.detach(), torch.empty_like(row_of))
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)


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
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        # Of the transformers library: a linear layer, its matrix the other way round.
        module.nx, module.nf = weight.shape
