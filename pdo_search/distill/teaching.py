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

__all__ = ["Teaching"]


class Teaching:
    """Pool and teacher outputs of one trial.

    Attributes:
        pool: train examples, then transfer examples, on the device.
        num_train: how many of the pool are train examples.
        num_views: recorded views per example.
    """

    def __init__(
        self, task: Task, ladder: Ladder, store: Store, recipe: Recipe, device: torch.device
    ) -> None:
        self.task = task
        self.ladder = ladder
        self.store = store
        self.device = device
        train, transfer = task.examples(Split.TRAIN), task.examples(Split.TRANSFER)
        self.num_train = len(train)
        self.pool = Examples(
            inputs=torch.cat([train.inputs, transfer.inputs]),
            targets=torch.cat([train.targets, transfer.targets]),
            ids=torch.cat([train.ids, transfer.ids]),
        ).to(device)
        augment = task.config.augment
        self.num_views = recipe.num_views if augment.crop or augment.flip else 1

    def pool_bank(self, rung: int) -> Bank:
        """A rung's outputs on every view of the pool, (views, examples, size) per head."""
        pool = self.pool

        def outputs(view: int, rows: slice) -> Outputs:
            inputs = self.task.view(pool.inputs[rows], pool.ids[rows], view)
            return self._forward(rung, inputs)

        return self._bank(rung, "train+transfer", self.num_views, len(pool), outputs)

    def split_logits(self, rung: int, split: Split) -> Tensor:
        """A rung's logits on a split's plain examples, (N, C) float32 on the CPU."""
        examples = self.task.examples(split)

        def outputs(view: int, rows: slice) -> Outputs:
            return self._forward(rung, self.task.prepare(examples.inputs[rows].to(self.device)))

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
