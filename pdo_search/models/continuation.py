"""How a text goes on, by a language model, and how well the model knew the text itself.

Knows no file: it is given what a stored model says of a batch.

Legend: B texts, L positions (padded), K tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Column
from pdo_search.tasks.base import Batch, mask_of
from pdo_search.tasks.inputs import TOKENS, TextInputs

__all__ = ["Continuation", "continued"]

NEW_TOKENS = 32
AT_ONCE = 64
"""Windows that are run at once."""

LogitsOf = Callable[[Batch], Tensor]
"""Logits (B, L, K) of a batch."""


@dataclass(frozen=True)
class Continuation:
    """What follows a text.

    Attributes:
        text: what follows; without the mark of the text's end, where the model came to it.
        tokens: its parts, one per token.
        log_probs: what the model gave each of them, nats; one more where the end was reached.
        bits_per_byte: of the text that was given, read in windows as in evaluation; NaN of none.
    """

    text: str
    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]
    bits_per_byte: float


def continued(
    inputs: TextInputs,
    logits_of: LogitsOf,
    texts: Sequence[str],
    device: torch.device,
    *,
    max_new_tokens: int = NEW_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Continuation]:
    """Let a model continue texts.

    Args:
        inputs: what it takes. It sees the last ``inputs.max_length`` tokens of a text.
        logits_of: the model.
        texts: of any length; an empty one has a beginning made up.
        device: where the model is.
        max_new_tokens: most tokens that are added to a text.
        temperature: of what is drawn from; 0 takes the most probable token each time.
        seed: of the draws.
    """
    given = inputs.begun(texts)
    bits = [
        _bits_per_byte(inputs, logits_of, ids, t, device)
        for ids, t in zip(given, texts, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    ends = inputs.read_by.end
    rows = [list(ids) for ids in given]
    logs: list[list[float]] = [[] for _ in rows]
    going = list(range(len(rows)))
    for _ in range(max_new_tokens):
        if not going:
            break
        seen = [torch.tensor(rows[k][-inputs.max_length :]) for k in going]
        last = _last_log_probs(logits_of, seen, device).cpu()
        for k, logp in zip(list(going), last, strict=True):
            token = _chosen(logp, temperature, generator)
            rows[k].append(token)
            logs[k].append(logp[token].item())
            if token == ends:
                going.remove(k)
    return [
        _continuation(inputs, row[len(ids) :], log, own)
        for row, ids, log, own in zip(rows, given, logs, bits, strict=True)
    ]


def _continuation(
    inputs: TextInputs, new: list[int], log_probs: list[float], bits: float
) -> Continuation:
    reader = inputs.read_by
    own = [token for token in new if token != reader.end]
    parts = tuple(reader.decode([token]) for token in own)
    return Continuation(reader.decode(own), parts, tuple(log_probs), bits)


def _chosen(log_probs: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(log_probs.argmax())
    shares = (log_probs / temperature).softmax(dim=0)
    return int(torch.multinomial(shares, 1, generator=generator))


def _last_log_probs(logits_of: LogitsOf, rows: list[Tensor], device: torch.device) -> Tensor:
    """(B, K) log-probabilities of the token behind each of some rows."""
    column = Column.ragged(rows)
    batch = {TOKENS: column.take(slice(None)), mask_of(TOKENS): column.mask(slice(None))}
    logits = logits_of({name: tensor.to(device) for name, tensor in batch.items()})
    at = (column.lengths() - 1).to(device)
    return F.log_softmax(logits[torch.arange(len(rows), device=device), at].float(), dim=-1)


def _bits_per_byte(
    inputs: TextInputs, logits_of: LogitsOf, ids: list[int], text: str, device: torch.device
) -> float:
    """Cross-entropy of a text over its bytes, bits; ``ids`` begin with the mark."""
    if not text:
        return math.nan
    stream = torch.tensor(ids)
    wanted = torch.split(stream[1:], inputs.max_length)
    read = torch.split(stream[:-1], inputs.max_length)
    nats = 0.0
    for first in range(0, len(wanted), AT_ONCE):
        column = Column.ragged(list(read[first : first + AT_ONCE]))
        mask = column.mask(slice(None)).to(device)
        batch = {TOKENS: column.take(slice(None)).to(device), mask_of(TOKENS): mask}
        logits = logits_of(batch)[mask].float()
        target = torch.cat(wanted[first : first + AT_ONCE]).to(device)
        nats += F.cross_entropy(logits, target, reduction="none").double().sum().item()
    return nats / math.log(2) / len(text.encode())
