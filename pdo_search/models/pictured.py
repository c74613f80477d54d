"""Networks of pictures for tasks that take batches by name: one head, or a linear layer for each.

Knows heads; how a network is built is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.base.seeds import seed_for
from pdo_search.models.heads import heads_of
from pdo_search.models.layout import Shape
from pdo_search.tasks.base import Batch, Head
from pdo_search.tasks.inputs import Inputs, PictureInputs

__all__ = ["PictureModel", "picture_model", "pictures_in"]

PICTURE_DIM = 3


class PictureModel(nn.Module):
    """A network that reads the pictures of a batch.

    Args:
        network: takes pictures (B, C, H, W), and gives the outputs of one head, or states (B, D).
        name: of the input.
        heads: of the task.
        width: D where the network gives states; None where it gives the outputs of the one head.
    """

    def __init__(
        self, network: nn.Module, name: str, heads: Sequence[Head], width: int | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.input = name
        self.heads = tuple(heads)
        sizes = [] if width is None else [head.size for head in heads]
        self.out = nn.ModuleList(nn.Linear(width or 0, size) for size in sizes)

    def forward(self, batch: Batch | Tensor) -> Any:
        """Outputs (B, K) by head, or of the one head; of pictures alone (B, C, H, W) all outputs
        side by side."""
        alone = isinstance(batch, Tensor)
        states = self.network(batch if isinstance(batch, Tensor) else batch[self.input])
        if not self.out:
            return states
        outputs = [layer(states) for layer in self.out]
        if alone:
            return torch.cat(outputs, dim=1)
        return {head.name: found for head, found in zip(self.heads, outputs, strict=True)}


def pictures_in(inputs: Inputs) -> tuple[str, Shape] | None:
    """Name and shape (C, H, W) of the one input that may be pictures; None where there are none or
    several."""
    found = [(n, shape) for n, shape in inputs.shapes.items() if len(shape) == PICTURE_DIM]
    if len(found) != 1:
        return None
    name, (channels, height, width) = found[0]
    return name, (channels, height, width)


def picture_model(
    build: Callable[[Sequence[Head], PictureInputs], nn.Module],
    heads: Sequence[Head],
    pictures: tuple[str, Shape],
    *,
    trained: bool,
    seed: int,
    path: str,
) -> PictureModel:
    """A model of a network of pictures; for several heads its own last layer is replaced.

    Args:
        build: builds the network for one head.
        heads: of the task.
        pictures: name and shape of the input.
        trained: whether it is trained afterwards.
        seed: of new layers' weights.
        path: where the model stands in the experiment, for messages.

    Raises:
        InputError: a head wants an answer per position; the network has no layer that can be
            replaced, or what is put there would never be trained.
    """
    where, (name, shape) = f"{path}.arch", pictures
    of_positions = next((head.name for head in heads if head.positions is not None), None)
    if of_positions is not None:
        raise InputError(
            f"gives one answer per example, and head {of_positions} wants one per position",
            path=where,
            remedy="name a module:function that takes `heads` and returns a model that does",
        )
    if len(heads) > 1 and not trained:
        raise InputError(
            "has new heads, and nothing trains them", path=where, remedy=f"add `{path}.train`"
        )
    # As they are: what is to be done to pictures, the task's `prepare` has done.
    names = tuple(map(str, range(heads[0].size)))
    mean, std = (0.0,) * shape[0], (1.0,) * shape[0]
    network = build(heads[:1], PictureInputs(shape, names, mean, std))
    if len(heads) == 1:
        return PictureModel(network, name, heads)
    width = _without_head(network, shape, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "heads"))
        return PictureModel(network, name, heads, width).train()


def _without_head(network: nn.Module, shape: Shape, path: str) -> int:
    """Replace a network's last linear layer by the identity, in place; how wide its states are.

    Raises:
        InputError: its outputs come from no such layer, or not from it alone.
    """
    example = torch.zeros(2, *shape)
    found = heads_of(network, example)
    name, layer = next(iter(found.items()), ("", None))
    if len(found) == 1 and name and isinstance(layer, nn.Linear):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
        was_training = network.training
        with torch.no_grad():
            states = network.eval()(example)
        network.train(was_training)
        if states.shape == (2, layer.in_features):
            return layer.in_features
    raise InputError(
        "a task of several heads needs a network whose outputs one linear layer makes, in whose"
        f" place theirs are put; {type(network).__name__} is none",
        path=path,
        remedy="name another, or a module:function that takes `heads` and returns a model that"
        " gives outputs by head",
    )
