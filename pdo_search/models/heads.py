"""The head of a model: the layers whose outputs are the logits, found by following these back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Head", "heads_of", "with_outputs"]

Head = nn.Linear | nn.Conv2d


def heads_of(model: nn.Module, example: Tensor) -> dict[str, Head]:
    """The linear or convolutional layers that make the logits, by name.

    What comes after them may pool, reshape, scale or add, as long as there are as many numbers as
    they have outputs. A model has more than one where it adds the outputs of several.

    Args:
        model: left as it is.
        example: (N, C, H, W) pictures that it takes.

    Returns:
        Nothing where the logits come from no such layer.
    """
    made: dict[Any, tuple[str, Head]] = {}
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, Head):

            def note(_: nn.Module, __: Any, output: Tensor, found: Any = (name, layer)) -> None:
                if output.grad_fn is not None:
                    made[output.grad_fn] = found

            handles.append(layer.register_forward_hook(note))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # Of frozen layers nothing is recorded but for inputs that want a gradient. They are a
            # copy, since a model may work in place.
            logits = model(example.detach().requires_grad_().clone())
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        return {}
    found = [made[node] for node in _nearest(logits.grad_fn, made)]
    return {name: layer for name, layer in found if num_outputs(layer) == logits.shape[1]}


def _nearest(start: Any, wanted: dict[Any, Any]) -> list[Any]:
    """The first wanted nodes on every way back through a graph of gradients."""
    found, seen, waiting = [], {start}, [start]
    while waiting:
        node = waiting.pop()
        if node in wanted:
            found.append(node)
            continue
        before = {n for n, _ in getattr(node, "next_functions", ()) if n is not None} - seen
        seen |= before
        waiting += before
    return found


def num_outputs(head: Head) -> int:
    """How many numbers a layer makes of every position."""
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def with_outputs(head: Head, count: int) -> Head:
    """A new layer in a head's place, for another number of classes."""
    bias = head.bias is not None
    if isinstance(head, nn.Linear):
        return nn.Linear(head.in_features, count, bias=bias)
    return nn.Conv2d(
        head.in_channels, count, head.kernel_size, head.stride, head.padding, head.dilation,  # type: ignore[arg-type]
        bias=bias,
    )  # fmt: skip
