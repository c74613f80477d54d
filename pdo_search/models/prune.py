"""Surgery on a teacher: channels by dependency graph, whole residual blocks by importance.

Both change the model in place and make its tensors really smaller. Recovery and back-off are in
``ladder``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.errors import Infeasible
from pdo_search.models.heads import heads_of
from pdo_search.models.pictured import PictureModel
from pdo_search.tasks.base import Batch
from pdo_search.tasks.inputs import PIXELS

__all__ = ["drop_blocks", "droppable_blocks", "pixels_of", "prune_channels", "time_limit"]

PICTURES_DIM = 4
SHUFFLENET = "torchvision.models.shufflenetv2"


class _TimeIsUp(Exception):
    """Raised inside a thread whose time limit has passed."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End a block of Python code that runs too long, in any thread.

    Signals work in the main thread only, and trials do not run there; so the exception is set in
    the thread itself. It arrives at the next Python instruction.

    Raises:
        Infeasible: the time is up.
    """
    thread = threading.get_ident()

    def interrupt() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(_TimeIsUp)
        )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TimeIsUp:
        raise Infeasible(f"{what} took longer than {seconds:g} s") from None
    finally:
        timer.cancel()


def prune_channels(
    model: nn.Module, example: Tensor, ratio: float, round_to: int, *, timeout_s: float
) -> None:
    """Remove the least important channels of every layer, and what depends on them.

    Groups of coupled channels are ranked by their L2 norm (Fang et al. 2023, DepGraph). The
    head's outputs, the classes, are kept, and channels whose places are fixed.

    Args:
        model: pruned in place; on the CPU.
        example: (1, C, H, W) input.
        ratio: share of channels removed, 0 to below 1; 0 changes nothing.
        round_to: channel counts become the nearest multiple of this; a layer may keep all.
        timeout_s: longest time, seconds.

    Raises:
        Infeasible: the architecture cannot be pruned, or not in time.
    """
    if ratio == 0:
        return
    import torch_pruning as tp

    class Pruner(tp.pruner.BasePruner):  # type: ignore[misc]
        """Rounds channel counts to the nearest multiple; upstream rounds down, which takes half of
        eight channels where a tenth was asked for."""

        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            left = (current_channels - n_pruned) / round_to
            return max(0, current_channels - max(1, round(left)) * round_to)

    name = type(model).__name__
    was_training = model.training
    model.eval()
    try:
        kept = [*heads_of(model, example).values(), *_kept_whole(model)]
        with (
            time_limit(timeout_s, f"pruning {name}"),
            _unshuffled(),
            # Of parameters that belong to no known layer; what it makes of them is tried below.
            warnings.catch_warnings(action="ignore"),
        ):
            pruner = Pruner(
                model,
                example,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=kept,
                round_to=round_to,
            )
            pruner.step()
        with torch.inference_mode():
            model(example)
    except Infeasible:
        raise
    except Exception as error:
        raise Infeasible(
            f"{name} cannot be pruned by {ratio:g}: {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)


def _kept_whole(model: nn.Module) -> list[nn.Module]:
    """The layers whose channels have fixed places, beside the head.

    Those of attention belong to its heads; those at the end of a ShuffleNetV2's unit are shuffled.

    Raises:
        Infeasible: nothing can be pruned between them.
    """
    inner = [m for m in model.modules() if m is not model]
    kept = [m for m in inner if "Attention" in type(m).__name__]
    kept += model.out if isinstance(model, PictureModel) else ()
    if any("WindowAttention" in type(m).__name__ for m in kept):
        # torch-pruning (1.6) fails on them, or follows their shifts for hours.
        raise Infeasible("attention in shifted windows cannot be pruned")
    for unit in inner:
        if type(unit).__module__ == SHUFFLENET and type(unit).__name__ == "InvertedResidual":
            short, long = unit.get_submodule("branch1"), unit.get_submodule("branch2")
            kept += [short, [m for m in long.modules() if isinstance(m, nn.Conv2d)][-1]]
    return kept


@contextmanager
def _unshuffled() -> Iterator[None]:
    """Let ShuffleNetV2 leave its channels in place, which are not pruned where they are shuffled.

    torch-pruning (1.6) cannot follow them there: it divides by a number of channels that it takes
    for 0.
    """
    network: Any = sys.modules.get(SHUFFLENET)
    if network is None:
        yield
        return
    shuffle = network.channel_shuffle
    network.channel_shuffle = lambda x, groups: x
    try:
        yield
    finally:
        network.channel_shuffle = shuffle


def pixels_of(batch: Batch) -> Tensor:
    """The pictures (B, C, H, W) of a batch, which channels and blocks are found by.

    Raises:
        Infeasible: it has none, or several inputs that may be such.
    """
    found = [tensor for tensor in batch.values() if tensor.dim() == PICTURES_DIM]
    if PIXELS not in batch and len(found) != 1:
        raise Infeasible(
            "a model has channels and blocks that can be removed where it takes pictures"
        )
    return batch[PIXELS] if PIXELS in batch else found[0]


def droppable_blocks(model: nn.Module, example: Tensor) -> list[str]:
    """Names of residual blocks that keep their input's shape: replaceable by the identity.

    A block is a module with convolutions inside that is no plain sequence and lies in no other
    block.
    """
    shapes: dict[str, bool] = {}
    handles = []
    for name, module in model.named_modules():
        convolutional = any(isinstance(m, nn.Conv2d) for m in module.modules() if m is not module)
        if name and convolutional and not isinstance(module, nn.Sequential):

            def note(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                tensors = len(inputs) == 1 and isinstance(output, Tensor)
                shapes[name] = tensors and inputs[0].shape == output.shape

            handles.append(module.register_forward_hook(note))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        model(example)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    fitting = [name for name, same in shapes.items() if same]
    return [n for n in fitting if not any(n.startswith(f"{o}.") for o in fitting)]


def drop_blocks(model: nn.Module, batch: Tensor, count: int) -> tuple[str, ...]:
    """Remove the blocks whose removal changes the outputs least, one after the other.

    Args:
        model: changed in place.
        batch: (N, C, H, W) calibration inputs.
        count: how many; fewer are dropped where fewer can be.

    Returns:
        The names of the dropped blocks.
    """
    dropped: list[str] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        intact = F.log_softmax(model(batch), dim=1)
        for _ in range(count):
            candidates = droppable_blocks(model, batch[:1])
            if not candidates:
                break
            changes = {name: _change(model, name, batch, intact) for name in candidates}
            least = min(changes, key=lambda name: changes[name])
            _swap(model, least, nn.Identity())
            dropped.append(least)
    model.train(was_training)
    return tuple(dropped)


def _change(model: nn.Module, name: str, batch: Tensor, intact: Tensor) -> float:
    """KL from the intact model's outputs to those without a block, in nats."""
    block = _swap(model, name, nn.Identity())
    outputs = F.log_softmax(model(batch), dim=1)
    _swap(model, name, block)
    return (intact.exp() * (intact - outputs)).sum(dim=1).mean().item()


def _swap(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    parent_name, _, child = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    old = parent.get_submodule(child)
    setattr(parent, child, new)
    return old
