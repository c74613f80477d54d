"""Models by name or factory, and weights from a name or a file.

Knows names, stems, heads and checkpoints. How a model is trained or shrunk is elsewhere.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig
from pdo_search.errors import InputError
from pdo_search.tasks.factory import is_factory, load_factory
from pdo_search.tasks.small_models import SmallConvNet, SmallResNet

__all__ = ["build_model", "load_weights", "placed", "set_dropout", "weights_file"]

SMALL = ("small_resnet", "small_convnet")
SMALL_PICTURE = 64
SHOWN_KEYS = 6
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
) -> nn.Module:
    """Build a model on the CPU, in training mode.

    Args:
        config: which model.
        input_shape: (C, H, W) of a picture.
        num_outputs: size of the head.
        seed: of the initial weights; the global generator is left as it was.
        base_dir: folder that relative paths and factories refer to.
        path: where the model stands in the experiment, for messages.
        with_weights: whether to load ``config.weights``.

    Raises:
        InputError: the name, its arguments or its weights cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_factory(config.arch):
            model = _from_factory(config, input_shape, num_outputs, base_dir, path)
        elif config.arch in SMALL:
            model = _small(config, input_shape, num_outputs, path)
        else:
            model = _torchvision(config, input_shape, num_outputs, path, with_weights)
    if with_weights and config.weights is not None and _named_weights(config) is None:
        load_weights(model, weights_file(config, base_dir), path=f"{path}.weights")
    set_dropout(model, config.dropout)
    return model


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


def _from_factory(
    config: ModelConfig, shape: Shape, num_outputs: int, base_dir: Path | None, path: str
) -> nn.Module:
    where = f"{path}.arch"
    function = load_factory(config.arch, where, base_dir)
    offered = {
        "num_outputs": num_outputs,
        "input_shape": shape,
        "width": config.width,
        "depth": config.depth,
    }
    taken = set(inspect.signature(function).parameters)
    arguments = {k: v for k, v in offered.items() if k in taken and v is not None} | config.args
    try:
        model = function(**arguments)
        if not isinstance(model, nn.Module):
            raise TypeError(f"returned {type(model).__name__}, not an nn.Module")
        outputs = _trial_forward(model, shape)
    except Exception as error:
        raise InputError(
            f"the factory cannot be used: {type(error).__name__}: {error}",
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


def _trial_forward(model: nn.Module, shape: Shape) -> Tensor:
    model.eval()
    with torch.inference_mode():
        outputs: Tensor = model(torch.zeros(2, *shape))
    model.train()
    return outputs


def _torchvision(
    config: ModelConfig, shape: Shape, num_outputs: int, path: str, with_weights: bool
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
            model = models.get_model(config.arch, weights=config.weights, **config.args)
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
    model = adapt_to_pictures(model, shape, num_outputs)
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


def adapt_to_pictures(model: nn.Module, shape: Shape, num_outputs: int) -> nn.Module:
    """Fit a torchvision classifier to the pictures' channels and size and to the class count.

    Pictures below 64 pixels lose too much in a stem made for 224: its strides become 1 (as usual
    for CIFAR, He et al. 2016, section 4.2), and VGG's classifier reads one position instead of 49.
    """
    channels, edge = shape[0], min(shape[1:])
    if edge < SMALL_PICTURE:
        _shrink_stem(model, edge)
    first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first[1].in_channels != channels:
        _replace(model, first[0], _with_channels(first[1], channels))
    heads = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if heads:
        name, head = heads[-1]
        if head.out_features != num_outputs:
            _replace(
                model, name, nn.Linear(head.in_features, num_outputs, bias=head.bias is not None)
            )
    return model


def _shrink_stem(model: nn.Module, edge: int) -> None:
    """Undo the strides of a stem made for large pictures."""
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


def weights_file(config: ModelConfig, base_dir: Path | None) -> Path:
    """The checkpoint that a model names, as a path; it may not exist."""
    assert config.weights is not None
    return (base_dir or Path.cwd()) / config.weights


def load_weights(model: nn.Module, file: Path, *, path: str) -> None:
    """Load a checkpoint into a model; no code in the file is run.

    Raises:
        InputError: the file is missing or damaged, or its keys or shapes differ; names them.
    """
    state = read_state_dict(file, path)
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        named = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        parts = [f"{what}: {_listed(keys)}" for what, keys in named if keys]
        raise InputError(
            f"the checkpoint does not fit the model; {'; '.join(parts)}",
            file=file,
            path=path,
            remedy="check arch, width, depth and the number of classes",
        )
    model.load_state_dict(state, strict=False)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


def read_state_dict(file: Path, path: str) -> dict[str, Tensor]:
    """A checkpoint's tensors: safetensors, or torch's format restricted to weights.

    Raises:
        InputError: the file is missing, damaged, or holds no state dict.
    """
    if not file.is_file():
        raise InputError("no such checkpoint", file=file, path=path, remedy="correct the path")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                # A file that is no checkpoint at all makes torch ask for an issue upstream.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"the checkpoint cannot be read: {str(error).splitlines()[0]}",
            file=file,
            path=path,
            remedy="save it again: torch.save(model.state_dict(), …), or safetensors",
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError("the checkpoint holds no state dict of tensors", file=file, path=path)
    return {str(k).removeprefix("module."): v for k, v in content.items()}
