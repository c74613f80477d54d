"""Weights from a file that others made: what it holds, and whether it fits a model.

Knows file formats and state dicts. How a model is built, and what its head is, is told to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.schema import ModelConfig
from pdo_search.errors import InputError

__all__ = ["load_weights", "weights_file"]

SHOWN_KEYS = 6


def weights_file(config: ModelConfig, base_dir: Path | None) -> Path:
    """The checkpoint that a model names, as a path; it may not exist."""
    assert config.weights is not None
    return (base_dir or Path.cwd()) / config.weights


def load_weights(
    model: nn.Module, file: Path, *, path: str, trained: bool = False, head: str | None = None
) -> str | None:
    """Load a checkpoint into a model; no code in the file is run.

    Args:
        model: changed in place.
        file: the checkpoint.
        path: where it stands in the experiment, for messages.
        trained: whether the model is trained afterwards: then its head may be for other classes
            than the checkpoint's, and is left as it is.
        head: name of its head, if it has one.

    Returns:
        The name of the head that was left, None where all was loaded.

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
    if missing or unexpected or not _is_other_head(head, model, state):
        head = None
    if head is not None:
        state = {k: v for k, v in state.items() if not k.startswith(f"{head}.")}
    elif missing or unexpected or wrong:
        named = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        parts = [f"{what}: {_listed(keys)}" for what, keys in named if keys]
        raise InputError(
            f"the checkpoint does not fit the model; {'; '.join(parts)}",
            file=file,
            path=path,
            remedy="check arch, width, depth and the number of classes",
        )
    if head is not None and not trained:
        raise InputError(
            f"the checkpoint is for other classes ({', '.join(wrong)}), and nothing trains a new"
            " head",
            file=file,
            path=path,
            remedy=f"add `{path.partition('.')[0]}.train`, or give a checkpoint of these classes",
        )
    model.load_state_dict(state, strict=False)
    return head


def _is_other_head(head: str | None, model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether the head's number of classes is all that keeps a checkpoint out."""
    own = model.state_dict()
    wrong = {k for k in own if k in state and state[k].shape != own[k].shape}
    if head is None or not wrong:
        return False
    same_inside = all(state[k].shape[1:] == own[k].shape[1:] for k in wrong)
    return wrong <= {f"{head}.weight", f"{head}.bias"} and same_inside


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
