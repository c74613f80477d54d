"""A toy task of pointers: words of different lengths, the span between two marks, and whether each
letter is within it.

A pointer head and a categorical head with positions over the same ragged letters; some spans and
some positions have no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.tasks.base import Examples, Head, HeadKind, Outputs, Split, mask_of
from pdo_search.tasks.task import BaseTask

LETTERS = "letters"
NUM_LETTERS = 12
OPENS, CLOSES = 10, 11
HEADS = (
    Head("span", HeadKind.POINTER, 2, positions=mask_of(LETTERS)),
    Head("within", HeadKind.CATEGORICAL, 2, positions=mask_of(LETTERS)),
)
COUNTS = {Split.TRAIN: 240, Split.TRANSFER: 80, Split.VALIDATION: 80, Split.TEST: 80}


def build(seed: int = 0) -> BaseTask:
    """The task; a quarter of the spans of train and transfer are not known."""
    generator = torch.Generator().manual_seed(seed)
    splits, first = {}, 0
    for split, count in COUNTS.items():
        known = 1.0 if split in (Split.VALIDATION, Split.TEST) else 0.75
        splits[split] = _examples(count, first, known, generator)
        first += count
    return BaseTask(splits, HEADS, seed=seed, fingerprint=f"spans {seed}")


def _examples(count: int, first_id: int, known: float, generator: torch.Generator) -> Examples:
    words, spans, within = [], [], []
    for length in torch.randint(8, 16, (count,), generator=generator).tolist():
        word = torch.randint(0, OPENS, (length,), generator=generator)
        start, end = torch.randperm(length, generator=generator)[:2].sort().values.tolist()
        word[start], word[end] = OPENS, CLOSES
        inside = (torch.arange(length) >= start) & (torch.arange(length) <= end)
        tags = inside.long()
        tags[torch.rand(length, generator=generator) < 0.2] = -1
        is_known = float(torch.rand(1, generator=generator)) < known
        words.append(word)
        spans.append([start, end] if is_known else [-1, -1])
        within.append(tags)
    return Examples(
        {LETTERS: Column.ragged(words)},
        {"span": Column(torch.tensor(spans)), "within": Column.ragged(within, -1)},
        None,
        torch.arange(count) + first_id,
        torch.ones(count, dtype=torch.bool),
    )


class Reader(nn.Module):
    """Letters and their neighbours, twice; what is padding stays zero."""

    def __init__(self, heads: Sequence[Head], width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(NUM_LETTERS, width)
        self.first = nn.Conv1d(width, width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.ModuleDict({head.name: nn.Linear(width, head.size) for head in heads})

    def forward(self, batch: Mapping[str, Tensor]) -> Outputs:
        mask = batch[mask_of(LETTERS)][:, None]
        hidden = self.letters(batch[LETTERS]).transpose(1, 2) * mask
        for layer in (self.first, self.second):
            hidden = (hidden + torch.relu(layer(hidden))) * mask
        return {name: layer(hidden.transpose(1, 2)) for name, layer in self.out.items()}


def reader(heads: Sequence[Head], width: int = 16) -> nn.Module:
    """A model of the task."""
    return Reader(heads, width)
