"""Weights from a file that others made, loaded into a model where they fit.

Knows state dicts and what is wrong with them. Which formats files have is ``tensorfile``'s, which
tensors in a file are the model's is that of ``statedicts``; how a model is built, and what its head
is, is told to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.statedicts import Found, find_weights, listed
from pdo_search.models.tensorfile import files_of, read_tensors

__all__ = ["load_weights", "weights_digest", "weights_file"]

log = logging.getLogger(__name__)


def weights_file(config: ModelConfig, base_dir: Path | None) -> Path:
    """The checkpoint that a model names, as a path; it may not exist, or have a place behind it."""
    assert config.weights is not None
    return (base_dir or Path.cwd()) / config.weights


def weights_digest(config: ModelConfig, base_dir: Path | None) -> str | None:
    """A digest of the content of a model's checkpoint with all its shards.

    Returns:
        None where it names none, or one that is no file: weights known by a name, say.
    """
    if config.weights is None:
        return None
    named, _ = _with_place(weights_file(config, base_dir))
    if not os.path.exists(named):
        return None
    digest = hashlib.sha256()
    for file in files_of(named):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _with_place(named: Path) -> tuple[Path, str | None]:
    """A checkpoint's file, and the place in it that is named behind it: ``w.pt#model_ema``."""
    name, _, place = named.name.partition("#")
    if name and place and not os.path.exists(named):
        return named.with_name(name), place
    return named, None


def load_weights(
    model: nn.Module,
    file: Path,
    *,
    path: str,
    trained: bool = False,
    head: str | None = None,
    say: Callable[[str], None] = log.info,
) -> str | None:
    """Load a checkpoint into a model; no code in the file is run.

    Args:
        model: changed in place.
        file: the checkpoint, an index of its shards, or their directory; ``w.pt#model_ema`` names
            one of several sets of weights in it.
        path: where it stands in the experiment, for messages.
        trained: whether the model is trained afterwards: then its head may be for other classes
            than the checkpoint's, and is left as it is.
        head: name of its head, if it has one.
        say: called with a line where a part of the checkpoint was chosen or left out.

    Returns:
        The name of the head that was left, None where all was loaded.

    Raises:
        InputError: the file is missing or damaged, its keys, shapes or numbers are not the model's;
            names them.
    """
    file, place = _with_place(file)
    try:
        found = find_weights(read_tensors(file), model, place)
        left = _left_head(model, found, trained=trained, head=head, part=path.partition(".")[0])
        tensors = {
            key: _usable(key, tensor, model.state_dict()[key])
            for key, tensor in found.tensors.items()
            if left is None or not key.startswith(f"{left}.")
        }
        _refuse_broken(tensors, model.state_dict())
    except InputError as error:
        raise error.at(file=file, path=path) from None
    model.load_state_dict(tensors, strict=False)
    _say_what_was_left(found, file, path, say)
    return left


def _left_head(
    model: nn.Module, found: Found, *, trained: bool, head: str | None, part: str
) -> str | None:
    """The name of the head that keeps its own weights; None where all fit.

    Raises:
        InputError: keys or shapes do not fit, or nothing trains a new head.
    """
    own, state = model.state_dict(), found.tensors
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if not missing and not unexpected and not wrong:
        return None
    if missing or unexpected or not _is_other_head(head, model, state):
        named = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        parts = [f"{what}: {listed(keys)}" for what, keys in named if keys]
        where = f" (tensors under {found.place})" if found.place else ""
        raise InputError(
            f"the checkpoint does not fit the model{where}; {'; '.join(parts)}",
            remedy=_fitting(own, state, same_keys=not missing and not unexpected),
        )
    if not trained:
        raise InputError(
            f"the checkpoint is for other classes ({', '.join(wrong)}), and nothing trains a new"
            " head",
            remedy=f"add `{part}.train`, or give a checkpoint of these classes",
        )
    return head


def _fitting(own: Mapping[str, Tensor], state: Mapping[str, Tensor], same_keys: bool) -> str:
    """What to check; where one convolution's kernel is all that differs, it is the stem's."""
    usual = "check arch, width, depth and the number of classes"
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape and own[k].dim() == 4]
    if not same_keys or len(wrong) != 1 or own[wrong[0]].shape[:2] != state[wrong[0]].shape[:2]:
        return usual
    return (
        "set task.data.size to what the checkpoint was trained on: torchvision's models get another"
        f" first layer for pictures below 64 pixels; or {usual}"
    )


def _is_other_head(head: str | None, model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether the head's number of classes is all that keeps a checkpoint out."""
    own = model.state_dict()
    wrong = {k for k in own if k in state and state[k].shape != own[k].shape}
    if head is None or not wrong:
        return False
    same_inside = all(state[k].shape[1:] == own[k].shape[1:] for k in wrong)
    return wrong <= {f"{head}.weight", f"{head}.bias"} and same_inside


def _usable(key: str, tensor: Tensor, own: Tensor) -> Tensor:
    """The tensor in the model's own type.

    Raises:
        InputError: it has no numbers of its own, or none that are weights of this model.
    """
    kind = _odd_kind(tensor, own)
    if kind is not None:
        raise InputError(
            f"the checkpoint's {key} is {kind}, not a plain tensor of numbers",
            remedy="save the weights as plain tensors, in 32 or 16 bits",
        )
    return tensor.detach().to(own.dtype)


def _odd_kind(tensor: Tensor, own: Tensor) -> str | None:
    """What keeps a tensor from being weights, in a word."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.is_meta:
        return "a meta tensor, which has a shape and no numbers"
    if tensor.is_complex() and not own.is_complex():
        return "complex"
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"of whole numbers ({str(tensor.dtype).removeprefix('torch.')})"
    return None


def _refuse_broken(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise InputError for weights with NaN or infinite values, unless the model's own has some.

    The mask of an attention is infinite by intention.
    """
    broken = []
    for key, tensor in tensors.items():
        number = tensor.numel() - int(torch.isfinite(tensor).sum())
        if number and bool(torch.isfinite(own[key]).all()):
            broken.append(f"{key} ({number:,} of {tensor.numel():,})")
    if broken:
        raise InputError(
            f"the weights hold NaN or infinite values: {listed(broken)}",
            remedy="give a checkpoint from before the training broke down",
        )


def _say_what_was_left(found: Found, file: Path, path: str, say: Callable[[str], None]) -> None:
    """One line for each kind of thing that a checkpoint holds beside what was loaded."""
    if found.others:
        taken = found.place or "the top level"
        say(f"{path}: took {taken} of {file.name}; it also holds {listed(found.others)}")
    if found.beside:
        say(f"{path}: left out what is not the model's: {listed(found.beside)}")
    if found.counters:
        say(f"{path}: left out counters, which are no weights: {listed(found.counters)}")
