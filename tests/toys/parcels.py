"""A toy task of two heads: where a parcel goes (one of four), and what it is (any of three).

Each example may lack one of its labels, or both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.tasks.base import Examples, Head, HeadKind, Outputs, Split
from pdo_search.tasks.task import BaseTask

FACTS = "facts"
HEADS = (Head("place", HeadKind.CATEGORICAL, 4), Head("traits", HeadKind.BERNOULLI, 3))
COUNTS = {Split.TRAIN: 240, Split.TRANSFER: 80, Split.VALIDATION: 80, Split.TEST: 80}


def build(seed: int = 0) -> BaseTask:
    """The task; a fifth of each head's labels is missing, but for validation and test."""
    generator = torch.Generator().manual_seed(seed)
    rules = torch.randn(12, 7, generator=generator)
    splits, first = {}, 0
    for split, count in COUNTS.items():
        whole = split in (Split.VALIDATION, Split.TEST)
        splits[split] = _examples(count, first, rules, 0.0 if whole else 0.2, generator)
        first += count
    return BaseTask(splits, HEADS, seed=seed, fingerprint=f"parcels {seed}")


def _examples(
    count: int, first_id: int, rules: Tensor, missing: float, generator: torch.Generator
) -> Examples:
    facts = torch.randn(count, 12, generator=generator)
    scores = facts @ rules
    place, traits = scores[:, :4].argmax(1), (scores[:, 4:] > 0).long()
    place[torch.rand(count, generator=generator) < missing] = -1
    traits[torch.rand(count, 3, generator=generator) < missing] = -1
    return Examples(
        {FACTS: Column(facts)},
        {"place": Column(place), "traits": Column(traits)},
        None,
        torch.arange(count) + first_id,
        torch.ones(count, dtype=torch.bool),
    )


class Sorter(nn.Module):
    """A hidden layer, and a linear layer for each head."""

    def __init__(self, heads: Sequence[Head], width: int) -> None:
        super().__init__()
        self.body = nn.Linear(12, width)
        self.out = nn.ModuleDict({head.name: nn.Linear(width, head.size) for head in heads})

    def forward(self, batch: Mapping[str, Tensor]) -> Outputs:
        hidden = torch.relu(self.body(batch[FACTS]))
        return {name: layer(hidden) for name, layer in self.out.items()}


def sorter(heads: Sequence[Head], width: int = 16) -> nn.Module:
    """A model of the task."""
    return Sorter(heads, width)
