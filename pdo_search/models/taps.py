"""States inside of models: where they can be read, by number, and reading them.

A transformer's are the outputs of its layers, by its anatomy; any other network's those of its
stages, the last outputs of each size. Knows nothing of what is done with them.

Legend: B examples, L positions (padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.models.anatomy import transformer_in
from pdo_search.models.bodies import Body
from pdo_search.tasks.base import Batch

__all__ = ["Place", "States", "Taps", "own_positions", "places_in", "states_of"]

MAP_DIM = 4
"""Of tensors (B, D, H, W), whose positions are the H·W places of a grid."""


@dataclass(frozen=True)
class Place:
    """Where states can be read.

    Attributes:
        name: of the module that makes them.
        positions: L of the example by which it was found.
        width: D.
    """

    name: str
    positions: int
    width: int


@dataclass(frozen=True)
class States:
    """States of a batch.

    Attributes:
        values: (B, L, D).
        own: (B, L) bool, which positions are an example's own; None for all.
    """

    values: Tensor
    own: Tensor | None = None

    def pooled(self) -> States:
        """The mean over each example's own positions, (B, 1, D)."""
        if self.own is None:
            return States(self.values.mean(dim=1, keepdim=True))
        weights = self.own[..., None].to(self.values.dtype)
        count = weights.sum(dim=1, keepdim=True).clamp(min=1)
        return States((self.values * weights).sum(dim=1, keepdim=True) / count)


class Taps:
    """Keeps what modules of a model gave last.

    Args:
        model: runs as before, until ``close``.
        names: of its modules.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._seen: dict[str, Tensor] = {}
        self._handles = [_listen(model.get_submodule(n), n, self._seen) for n in sorted({*names})]

    def take(self) -> dict[str, Tensor]:
        """What was given since the last time, by module, in the order of the calls; it is forgotten
        here."""
        seen = dict(self._seen)
        self._seen.clear()
        return seen

    def close(self) -> None:
        """Leave the model."""
        for handle in self._handles:
            handle.remove()
        self._seen.clear()


def _listen(module: nn.Module, name: str, seen: dict[str, Tensor]) -> Any:
    # A function: copies of the model, which share its tensors, are to fill the same mapping.
    def note(_: nn.Module, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            seen.pop(name, None)  # In the order of the last calls.
            seen[name] = first

    return module.register_forward_hook(note)


def states_of(seen: Tensor, own: Tensor | None = None) -> States:
    """States (B, L, D) of what a module gave: (B, L, D), (B, D, H, W) or (B, D); in torch's default
    type."""
    values = seen.to(torch.get_default_dtype())
    if values.dim() == MAP_DIM:
        return States(values.flatten(2).transpose(1, 2))
    return States(values[:, None]) if values.dim() == 2 else States(values, own)


def own_positions(model: nn.Module, batch: Batch) -> Tensor | None:
    """(B, L) bool, which positions of its states a model's body says are an example's own."""
    bodies = (module for module in model.modules() if isinstance(module, Body))
    return next((body.own_positions(batch) for body in bodies), None)


def places_in(model: nn.Module, run: Callable[[], object]) -> tuple[Place, ...]:
    """The places of a model, from the input on; none where no anatomy is known, nor any stage seen.

    Args:
        model: left in the mode it is in.
        run: runs it on one example.
    """
    found = transformer_in(model)
    if found is None:
        names = [name for name, _ in model.named_modules() if name]
    else:
        names = [found.layer(index) for index in range(found.num_layers(model))]
    taps, was_training = Taps(model, names), model.training
    model.eval()
    try:
        with torch.no_grad():
            run()
        seen = taps.take()
    finally:
        model.train(was_training)
        taps.close()
    if found is None:
        seen = _last_of_each_size(seen)
    shapes = {name: states_of(tensor).values.shape for name, tensor in seen.items()}
    return tuple(Place(name, shape[1], shape[2]) for name, shape in shapes.items())


def _last_of_each_size(seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of maps that have more than one position; those of one size follow each other."""
    last: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, tensor in seen.items():
        size = tuple(tensor.shape[2:])
        if tensor.dim() == MAP_DIM and size != (1, 1):
            last.pop(size, None)
            last[size] = (name, tensor)
    return dict(last.values())
