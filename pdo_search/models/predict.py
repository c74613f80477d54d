"""From what a user has, pictures or texts, to a stored model's batch, and from its outputs to the
names of classes or to further text. Knows no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pdo_search.base.errors import InputError
from pdo_search.models.continuation import continued
from pdo_search.tasks.base import Batch, Head, Outputs, mask_of
from pdo_search.tasks.inputs import PIXELS, TOKENS, AnyInputs, TextInputs
from pdo_search.tasks.kinds import answers_of

__all__ = ["RawInputs", "predicted", "raw_batch", "single"]

TEXTS = 128
"""Texts that are answered at once."""

RawInputs = Tensor | Batch | Sequence[str]
"""Pictures (N, C, H, W), inputs by name, or texts."""


def raw_batch(inputs: AnyInputs, raw: RawInputs, device: torch.device) -> Batch:
    """Raw inputs by name.

    Args:
        inputs: what the model takes.
        raw: tensors stay where they are.
        device: where the numbers of texts are put.

    Raises:
        InputError: it takes no texts, or a text is not in a list.
    """
    if isinstance(raw, Tensor):
        return {PIXELS: raw}
    if isinstance(raw, Mapping):
        return dict(raw)
    if isinstance(raw, str):
        raise InputError("is one text, not a list of them", value=raw, remedy="write [text]")
    if not isinstance(inputs, TextInputs):
        raise InputError(
            "this model reads no texts",
            value=type(raw).__name__,
            remedy="give it inputs by name, or pictures as a tensor",
        )
    column = inputs.column(raw)
    batch = {TOKENS: column.take(slice(None)), mask_of(TOKENS): column.mask(slice(None))}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def predicted(
    inputs: AnyInputs,
    heads: Sequence[Head],
    outputs_of: Callable[[RawInputs], Outputs],
    raw: RawInputs,
    device: torch.device,
    **options: Any,
) -> Any:
    """Answers by head; of a classifier of pictures the names of the classes, of a classifier of
    texts those of all classes with their probabilities, the most probable first; of a language
    model how texts go on (``continuation``, which has the options).

    Raises:
        InputError: options are given that the model has no use for.
    """
    names = inputs.class_names
    if isinstance(inputs, TextInputs) and inputs.continues and isinstance(raw, list | tuple):
        return continued(
            inputs, lambda batch: single(outputs_of(batch)), list(raw), device, **options
        )
    if options:
        raise InputError(
            f"this model has no use for {', '.join(options)} here",
            value=options,
            remedy="leave them out; a language model that is given a list of texts has options",
        )
    if names and isinstance(inputs, TextInputs) and not isinstance(raw, Tensor | Mapping | str):
        parts = [raw[k : k + TEXTS] for k in range(0, len(raw), TEXTS)]
        return [found for part in parts for found in _by_class(names, single(outputs_of(part)))]
    batch = raw_batch(inputs, raw, device)
    answers = answers_of(heads, outputs_of(batch), batch)
    return [names[index] for index in single(answers).tolist()] if names else answers


def _by_class(names: Sequence[str], logits: Tensor) -> list[dict[str, float]]:
    """Probabilities of the classes by their names, the highest first."""
    shares, order = logits.softmax(dim=1).sort(dim=1, descending=True)
    return [
        {names[k]: share for k, share in zip(places, own, strict=True)}
        for places, own in zip(order.tolist(), shares.tolist(), strict=True)
    ]


def single(outputs: Outputs) -> Any:
    """The outputs of a model of one head; those of several by head."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
