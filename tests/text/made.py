"""Made texts of three classes: rows, a data set of torch, and an experiment on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

WORDS = {
    "animal": ("cat", "dog", "fur", "paw", "tail", "whisker", "bark"),
    "food": ("bread", "cheese", "bake", "salt", "spoon", "taste", "soup"),
    "place": ("river", "hill", "shore", "valley", "north", "street", "town"),
}
SHARED = ("a", "the", "of", "with", "small", "large", "very", "old", "new", "and")

EXPERIMENT: dict[str, Any] = {
    "name": "made",
    "task": {
        "kind": "text_classification",
        "data": {"source": "tests.text.made:rows"},
        "tokenizer": {"train": 300, "max_length": 16},
    },
    "teacher": {
        "arch": "small_transformer", "width": 32, "depth": 2, "args": {"num_heads": 4},
        "train": {"kind": "adamw", "lr": 0.003, "epochs": 6, "batch_size": 16},
    },
    "student": {"arch": "small_transformer", "width": 16, "depth": 1, "vocab": 150},
    "trial": {
        "epochs": 4, "init_epochs": 0, "prune_ratio": 0.25, "temperature": 2.0,
        "simplify": {"drop_blocks": 1, "max_drop": 1.0},
        "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 16},
    },
}  # fmt: skip


def rows(count: int = 300, seed: int = 0, labelled: float = 1.0) -> list[dict[str, Any]]:
    """So many texts with their class; no two are equal."""
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = str(rng.choice(list(WORDS), p=(0.5, 0.3, 0.2)))
        length = int(rng.integers(3, 14))
        own = rng.random(length) < 0.5
        words = [str(rng.choice(WORDS[label] if mine else SHARED)) for mine in own]
        found[" ".join([*words, str(rng.choice(WORDS[label]))])] = label
    hidden = rng.random(count) >= labelled
    return [
        {"text": text, "label": None if hide else label}
        for (text, label), hide in zip(found.items(), hidden, strict=True)
    ]


class Texts(Dataset[tuple[str, str]]):
    """The same as a data set of torch, whose rows are tuples."""

    def __init__(self, count: int = 300) -> None:
        self._rows = rows(count)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[str, str]:
        row = self._rows[place]
        return row["text"], row["label"]


class Bag(nn.Module):
    """A model of a user's own: the mean of the tokens' rows, and a linear layer."""

    def __init__(self, num_ids: int, num_outputs: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_ids, 8)
        self.out = nn.Linear(8, num_outputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["tokens.mask"][..., None]
        found: Tensor = self.out((self.rows(batch["tokens"]) * mask).sum(1) / mask.sum(1))
        return found


def bag(num_ids: int, num_outputs: int) -> nn.Module:
    """A model of the task."""
    return Bag(num_ids, num_outputs)
