"""The examples that teachers speak about, and what they say: pool, banks, difficulty.

The pool is the train split followed by the transfer split. A rung's outputs on it are computed once
per recorded view, kept in the store, and read by every trial; the teacher never runs in a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdo_search.config.schema import Recipe
from pdo_search.distill.evaluate import EVALUATION_BATCH
from pdo_search.distill.ladder import Ladder
from pdo_search.store import Store
from pdo_search.store.bank import Bank, bank
from pdo_search.tasks.base import Examples, Outputs, Split, Task

__all__ = ["Pool", "Teaching"]

LARGEST_VIEWS = 1 << 29
"""Bytes of augmented pictures that a process keeps; beyond, they are drawn anew in every step."""


class Pool:
    """The examples of the train split, then those of the transfer split, and their recorded views.

    Attributes:
        examples: of both, on the device.
        num_train: how many of them are train examples.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        train, transfer = task.examples(Split.TRAIN), task.examples(Split.TRANSFER)
        self.num_train = len(train)
        self.examples = Examples(
            torch.cat([train.inputs(), transfer.inputs()]),
            None,
            torch.cat([train.targets, transfer.targets]),
            torch.cat([train.ids, transfer.ids]),
        ).to(device)
        self._task = task
        self._device = device
        self._views: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def serves(self, task: Task, device: torch.device) -> bool:
        """Whether this is the pool of a task on a device."""
        return self._task is task and self._device == device

    def inputs(self, view: int, rows: Tensor) -> Tensor:
        """Prepared pictures of a view (B, C, H, W) at rows (B,) of the pool."""
        if view not in self._views and not self._keep(view):
            examples = self.examples
            return self._task.view(examples.inputs(rows), examples.ids[rows], view)
        pictures = self._views[view].index_select(0, rows)
        return self._task.prepare(pictures.permute(0, 3, 1, 2))

    def _keep(self, view: int) -> bool:
        """Draw a whole view, if there is room: pixel last, so that a row is one piece of memory."""
        inputs, ids = self.examples.inputs(), self.examples.ids
        if (len(self._views) + 1) * inputs.nbytes > LARGEST_VIEWS:
            return False
        parts = zip(
            torch.split(inputs, EVALUATION_BATCH), torch.split(ids, EVALUATION_BATCH), strict=True
        )
        drawn = [self._task.augment(part, i, view).permute(0, 2, 3, 1) for part, i in parts]
        self._views[view] = torch.cat(drawn).contiguous()
        return True


_POOLS: list[Pool] = []


def _pool(task: Task, device: torch.device) -> Pool:
    """The pool, built once per process: a warm process keeps the last one."""
    if not (_POOLS and _POOLS[0].serves(task, device)):
        _POOLS[:] = [Pool(task, device)]
    return _POOLS[0]


class Teaching:
    """Pool and teacher outputs of one trial.

    Attributes:
        pool: of the task, on the device.
        num_views: recorded views per example.
    """

    def __init__(
        self, task: Task, ladder: Ladder, store: Store, recipe: Recipe, device: torch.device
    ) -> None:
        self.task = task
        self.ladder = ladder
        self.store = store
        self.device = device
        self.pool = _pool(task, device)
        augment = task.config.augment
        self.num_views = recipe.num_views if augment.crop or augment.flip else 1

    def pool_bank(self, rung: int) -> Bank:
        """A rung's outputs on every view of the pool, (views, examples, size) per head."""

        def outputs(view: int, rows: slice) -> Outputs:
            index = torch.arange(rows.start, rows.stop, device=self.device)
            return self._forward(rung, self.pool.inputs(view, index))

        return self._bank(rung, "train+transfer", self.num_views, len(self.pool), outputs)

    def split_logits(self, rung: int, split: Split) -> Tensor:
        """A rung's logits on a split's plain examples, (N, C) float32 on the CPU."""
        examples = self.task.examples(split)

        def outputs(view: int, rows: slice) -> Outputs:
            return self._forward(rung, self.task.prepare(examples.inputs(rows).to(self.device)))

        count = len(examples)
        opened = self._bank(rung, split.value, 1, count, outputs)
        views = torch.zeros(count, dtype=torch.long)
        return opened.rows(self.task.heads[0].name, views, torch.arange(count))

    def _bank(
        self,
        rung: int,
        split: str,
        num_views: int,
        count: int,
        outputs: Callable[[int, slice], Outputs],
    ) -> Bank:
        return bank(
            self.store,
            teacher_key=self.ladder.rung(rung).key,
            task_fingerprint=self.task.fingerprint,
            split_name=split,
            num_views=num_views,
            num_examples=count,
            heads={head.name: head.size for head in self.task.heads},
            outputs=outputs,
        )

    def _forward(self, rung: int, inputs: Tensor) -> Outputs:
        model = self.ladder.model(rung)
        with torch.inference_mode():
            parts = [
                self.task.forward(model, part) for part in torch.split(inputs, EVALUATION_BATCH)
            ]
        return {head: torch.cat([p[head].float().cpu() for p in parts]) for head in parts[0]}
