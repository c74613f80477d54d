"""A toy task of two heads over pictures: which digit it is, and how much ink it took, in three
parts of the picture.

Its models are networks of pictures, which know neither head.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.tasks.base import Examples, Head, HeadKind, Split
from pdo_search.tasks.task import BaseTask

SCAN = "scan"
HEADS = (Head("digit", HeadKind.CATEGORICAL, 10), Head("ink", HeadKind.REGRESSION, 3))
STARTS = {Split.TRAIN: 0, Split.TRANSFER: 800, Split.VALIDATION: 1000, Split.TEST: 1300}
STOPS = {Split.TRAIN: 800, Split.TRANSFER: 1000, Split.VALIDATION: 1300, Split.TEST: 1700}


def build(seed: int = 0, heads: int = 2) -> BaseTask:
    """The task, or that of its first head alone."""
    data = load_digits()
    scans = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    targets = {"digit": Column(torch.from_numpy(data.target)), "ink": Column(_ink(scans))}
    splits = {}
    for split, start in STARTS.items():
        ids = torch.arange(start, STOPS[split])
        known = torch.ones(len(ids), dtype=torch.bool)
        splits[split] = Examples({SCAN: Column(scans)}, targets, ids, ids, known)
    return BaseTask(splits, HEADS[:heads], seed=seed, fingerprint=f"glyphs {heads} {seed}")


def _ink(scans: Tensor) -> Tensor:
    """(N, 3) mean darkness of the upper, middle and lower lines, from -1 to 1."""
    thirds = (slice(0, 3), slice(3, 5), slice(5, 8))
    return torch.stack([scans[:, 0, lines].mean((1, 2)) for lines in thirds], dim=1)


def network(num_outputs: int, input_shape: tuple[int, int, int], width: int = 8) -> nn.Module:
    """A user's own network, which knows one number of outputs."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, num_outputs),
    )
