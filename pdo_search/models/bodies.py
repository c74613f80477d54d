"""Models of a body, which makes states of inputs, and linear heads, which make outputs of states.

Knows no architecture: a body says what it reads and how wide its states are. A model that gives one
tensor, of one head, needs none of this.

Legend: B examples, L positions (padded), D width of the states, V rows of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.tasks.base import Batch, Head, Outputs, mask_of
from pdo_search.tasks.inputs import SequenceInputs

__all__ = ["Body", "BodyAndHeads", "TrimmedEmbedding", "refuse_longer", "the_input"]


class Body(nn.Module):
    """What makes states (B, D) or (B, L, D) of a batch.

    Attributes:
        input: name of the input that it reads.
        width: D.
        stride: how many positions of the input make one of the states.
    """

    input: str
    width: int
    stride: int = 1

    @property
    def embedding(self) -> nn.Embedding | None:
        """The table of its inputs' ids; None where these are no ids."""
        return None

    def own_positions(self, batch: Batch) -> Tensor | None:
        """(B, L) bool, which positions of the states are an example's own; None for all."""
        mask = batch.get(mask_of(self.input))
        return None if mask is None else mask[:, :: self.stride]


class BodyAndHeads(nn.Module):
    """A body with a linear layer per head.

    A head of whole examples reads the mean over their own positions, one with positions every
    position. A tied one has the body's embedding as its matrix, the first rows of it where the
    table is padded.

    Args:
        body: makes states (B, D) or (B, L, D).
        heads: of the task.

    Raises:
        InputError: the embedding that a head is tied to does not exist, or is too small.
    """

    def __init__(self, body: Body, heads: Sequence[Head]) -> None:
        super().__init__()
        self.body = body
        self.heads = tuple(heads)
        for head in self.heads:
            if head.tied is not None:
                _check_tied(head, body)
        # A list, since a head may have a name that a ModuleDict refuses, such as "type".
        self.out = nn.ModuleList(
            nn.Linear(body.width, head.size) if head.tied is None else nn.Identity()
            for head in self.heads
        )

    def forward(self, batch: Batch) -> Outputs:
        """Outputs by head: (B, K), or (B, L, K) of heads with positions."""
        states, pooled = self.pooled(batch)
        outputs = {}
        for head, layer in zip(self.heads, self.out, strict=True):
            read = pooled if head.positions is None else states
            if head.tied is None:
                outputs[head.name] = layer(read)
            else:
                assert self.body.embedding is not None
                outputs[head.name] = F.linear(read, self.body.embedding.weight[: head.size])
        return outputs

    def pooled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The body's states, and (B, D) their mean over each example's own positions."""
        states = self.body(batch)
        if states.dim() == 2:
            return states, states
        return states, _mean(states, self.body.own_positions(batch))


def _check_tied(head: Head, body: Body) -> None:
    rows = 0 if body.embedding is None else body.embedding.num_embeddings
    if head.tied != body.input or rows < head.size:
        raise InputError(
            f"head {head.name} of {head.size:,} outputs is tied to the embedding of {head.tied},"
            f" and the model has one of {rows:,} rows for {body.input}",
            remedy="let the model read that input with at least as many ids as the head has"
            " outputs",
        )


def _mean(states: Tensor, own: Tensor | None) -> Tensor:
    """(B, D) mean of states (B, L, D) over the positions under a mask (B, L)."""
    if own is None:
        return states.mean(dim=1)
    weights = own[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class TrimmedEmbedding(nn.Embedding):
    """An embedding of some of the ids, in which the others share the row of the unknown one.

    Ids stay those of the whole vocabulary, so that teacher and student read the same batch.

    Args:
        weight: (rows, D).
        row_of: (V,) int64, the row of each id.
    """

    row_of: Tensor

    def __init__(self, weight: Tensor, row_of: Tensor) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.register_buffer("row_of", row_of)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (…) of the whole vocabulary to (…, D)."""
        return F.embedding(self.row_of[ids], self.weight)


def the_input(inputs: SequenceInputs, named: str | None) -> str:
    """The input that a sequence model reads.

    Raises:
        InputError: there are several and none is named, or another one is.
    """
    names = list(inputs.shapes)
    if named in names or (named is None and len(names) == 1):
        return named or names[0]
    given: dict[str, Any] = {} if named is None else {"value": named}
    raise InputError(
        "is no input of the task" if named else "must say which input the model reads",
        path="args.input",
        remedy=f"the task's inputs are {', '.join(names)}",
        **given,
    )


def refuse_longer(length: int, most: int) -> None:
    """Refuse sequences that have more positions than a model has learned.

    Raises:
        InputError: they have.
    """
    if length > most:
        raise InputError(
            f"an example has {length:,} positions and the model takes {most:,}",
            remedy="shorten the task's examples, or build the model for longer ones",
        )
