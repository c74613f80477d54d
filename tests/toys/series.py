"""A toy task: series of numbers of different lengths; at every position a smoothed value is wanted.

Ragged inputs, a regression head with positions, and positions without a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.tasks.base import Batch, Examples, Head, HeadKind, Outputs, Split
from pdo_search.tasks.task import BaseTask

VALUES = "values"
SMOOTH = "smooth"
COUNTS = {Split.TRAIN: 200, Split.TRANSFER: 80, Split.VALIDATION: 60, Split.TEST: 60}


def build(seed: int = 0) -> BaseTask:
    """The task; a third of the transfer split has no labels."""
    generator = torch.Generator().manual_seed(seed)
    splits, first = {}, 0
    for split, count in COUNTS.items():
        splits[split] = _examples(count, first, generator)
        first += count
    labelled = torch.arange(COUNTS[Split.TRANSFER]) % 3 > 0
    transfer = splits[Split.TRANSFER]
    splits[Split.TRANSFER] = Examples(
        transfer.inputs, transfer.targets, None, transfer.ids, labelled
    )
    head = Head(SMOOTH, HeadKind.REGRESSION, 1, positions=f"{VALUES}.mask")
    return BaseTask(splits, (head,), seed=seed, fingerprint=f"series {seed}")


def _examples(count: int, first_id: int, generator: torch.Generator) -> Examples:
    rows, wanted = [], []
    for length in torch.randint(3, 20, (count,), generator=generator).tolist():
        values = torch.randn(length, 1, generator=generator).cumsum(0)
        smooth = torch.nn.functional.avg_pool1d(
            values.T[None], 3, 1, padding=1, count_include_pad=False
        )[0].T.clone()
        smooth[torch.rand(length, generator=generator) < 0.2] = torch.nan
        rows.append(values)
        wanted.append(smooth)
    return Examples(
        {VALUES: Column.ragged(rows)},
        {SMOOTH: Column.ragged(wanted, torch.nan)},
        None,
        torch.arange(count) + first_id,
        torch.ones(count, dtype=torch.bool),
    )


class Smoother(nn.Module):
    """Convolutions over the positions; those of the padding are zero after each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 3, padding=1)
        self.second = nn.Conv1d(width, 1, 3, padding=1)

    def forward(self, batch: Mapping[str, Tensor]) -> Outputs:
        mask = batch[f"{VALUES}.mask"][:, None]
        hidden = torch.relu(self.first(batch[VALUES].transpose(1, 2))) * mask
        return {SMOOTH: self.second(hidden).transpose(1, 2)}


def smoother(heads: Sequence[Head], width: int = 8) -> nn.Module:
    """A model of the task."""
    assert [head.name for head in heads] == [SMOOTH]
    return Smoother(width)


def batch_of(rows: Sequence[Tensor]) -> Batch:
    """Raw inputs of some series."""
    column = Column.ragged(list(rows))
    return {VALUES: column.take(slice(None)), f"{VALUES}.mask": column.mask(slice(None))}
