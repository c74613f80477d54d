"""The examples that teachers speak about, and what they say: pool, banks, difficulty.

The pool is the train split followed by the transfer split. A rung's outputs on it are computed once
per recorded view, kept in the store, and read by every trial; the teacher never runs in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pdo_search.config.schema import Recipe
from pdo_search.distill.evaluate import evaluation_batch, outputs_of
from pdo_search.distill.feed import Feed
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.losses import Mixed
from pdo_search.distill.stage import Phase, plan_stages
from pdo_search.store import Store
from pdo_search.store.bank import BATCH, Bank, Compute, Outputs, bank, in_process
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.images.augment import mixed, mixing

__all__ = ["Pool", "Teaching", "pool_of", "pool_outputs", "views_of_full_teacher"]

LARGEST_VIEWS = 1 << 29
"""Bytes of augmented pictures that a process keeps; beyond, they are drawn anew in every step."""

Progress = Callable[[int, int], None]
"""Called with examples done and in all."""


class Pool:
    """The examples of the train split, then those of the transfer split, and their recorded views.

    Attributes:
        examples: of both; on the device but for inputs that do not fit there.
        num_train: how many of them are train examples.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        train, transfer = task.examples(Split.TRAIN), task.examples(Split.TRANSFER)
        self.num_train = len(train)
        self._feed = Feed(train.followed_by(transfer), device)
        self.examples = self._feed.examples
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
        return next(self.batches(view, [rows]))

    def batches(self, view: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """``inputs`` of batch after batch, loaded ahead where they are not on the device."""
        if view in self._views or self._keep(view):
            kept = self._views[view]
            for rows in batches:
                yield self._task.prepare(kept.index_select(0, rows).permute(0, 3, 1, 2))
            return
        for drawn in self.drawn(view, batches):
            yield self._task.prepare(drawn)

    def mixed(self, view: int, rows: Tensor) -> Mixed | None:
        """Labels of the partners whose pictures are in those of a view; None without mixup."""
        if not self._task.config.augment.mixup:
            return None
        partners, shares = self._mixing(view, rows)
        return Mixed(self.examples.targets[partners], shares)

    def _keep(self, view: int) -> bool:
        """Draw a whole view, if there is room: pixel last, so that a row is one piece of memory."""
        size = self.examples.nbytes
        if not self._feed.is_resident or (len(self._views) + 1) * size > LARGEST_VIEWS:
            return False
        _, channels, height, width = self.examples.source.shape
        shape = (len(self), height, width, channels)
        kept = torch.empty(shape, dtype=self.examples.source.dtype, device=self._device)
        batches = torch.split(torch.arange(len(self), device=self._device), BATCH)
        for rows, drawn in zip(batches, self.drawn(view, batches), strict=True):
            kept[rows[0] : rows[-1] + 1] = drawn.permute(0, 2, 3, 1)
        self._views[view] = kept
        return True

    def drawn(self, view: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Raw pictures of a view (B, C, H, W), drawn now and not kept, batch after batch."""
        if not self._task.config.augment.mixup:
            for rows, raw in zip(batches, self._feed.batches(batches), strict=True):
                yield self._augmented(view, rows, raw)
            return
        mixing = [self._mixing(view, rows) for rows in batches]
        both = [rows for own, (partners, _) in zip(batches, mixing, strict=True)
                for rows in (own, partners)]  # fmt: skip
        raw_pictures = self._feed.batches(both)
        for own, (partners, shares) in zip(batches, mixing, strict=True):
            first = self._augmented(view, own, next(raw_pictures))
            yield mixed(first, self._augmented(view, partners, next(raw_pictures)), shares)

    def _augmented(self, view: int, rows: Tensor, raw: Tensor) -> Tensor:
        return self._task.augment(raw, self.examples.ids[rows], view)

    def _mixing(self, view: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Partners, as rows of the pool, of the same split; and shares."""
        config = self._task.config
        num_train, num_transfer = self.num_train, len(self) - self.num_train
        in_train = rows < num_train
        size = torch.where(in_train, num_train, num_transfer)
        ids = self.examples.ids[rows]
        partners, shares = mixing(ids, view, size, config.augment.mixup, config.seed)
        return torch.where(in_train, partners, partners + num_train), shares


_POOLS: list[Pool] = []


def pool_of(task: Task, device: torch.device) -> Pool:
    """The pool, built once per process: a warm process keeps the last one."""
    if not (_POOLS and _POOLS[0].serves(task, device)):
        _POOLS[:] = [Pool(task, device)]
    return _POOLS[0]


def pool_outputs(task: Task, pool: Pool, model: nn.Module, view: int) -> Outputs:
    """What a teacher says about a view of the pool, batch by batch."""
    device = pool.examples.ids.device

    def outputs(rows: slice) -> dict[str, Tensor]:
        index = torch.arange(rows.start, rows.stop, device=device)
        batches = torch.split(index, evaluation_batch(device))
        with torch.inference_mode():
            said = [task.forward(model, task.prepare(x)) for x in pool.drawn(view, batches)]
        return joined(said)

    return outputs


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Outputs of batches, one after the other, by head."""
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def views_of_full_teacher(recipe: Recipe, num_views: int) -> list[int]:
    """The views on which a trial will ask for the full teacher's outputs, if it runs as planned."""
    views = {0} if recipe.curriculum.start < 1 else set()
    epoch = 0
    for stage in plan_stages(recipe):
        if stage.phase is Phase.STAGE and stage.rung == 0:
            views |= {e % num_views for e in range(epoch, epoch + stage.epochs)}
        epoch += stage.epochs
    return sorted(views)


class Teaching:
    """Pool and teacher outputs of one trial.

    Args:
        threads: of the CPU that compute outputs: a part of their key; 0 for a GPU.

    Attributes:
        pool: of the task, on the device.
        num_views: recorded views per example.
    """

    def __init__(
        self,
        task: Task,
        ladder: Ladder,
        store: Store,
        recipe: Recipe,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        self.task = task
        self.ladder = ladder
        self.store = store
        self.device = device
        self.threads = threads
        self.pool = pool_of(task, device)
        self.num_views = recipe.num_views if task.config.augment.varies else 1
        self._banks: dict[tuple[str, int], Bank] = {}

    def pool_bank(
        self,
        rung: int,
        view: int,
        *,
        compute: Compute | None = None,
        on_progress: Progress | None = None,
    ) -> Bank:
        """A rung's outputs on a view of the pool, built if nobody has.

        Args:
            rung: which teacher.
            view: which recorded view.
            compute: how to build it; None computes here.
            on_progress: told how far it is, if it is built now.
        """
        key = (self.ladder.rung(rung).key, view)
        if key not in self._banks:

            def outputs(rows: slice) -> dict[str, Tensor]:
                model = self.ladder.model(rung)
                return dict(pool_outputs(self.task, self.pool, model, view)(rows))

            self._banks[key] = self._bank(
                rung,
                "train+transfer",
                view,
                len(self.pool),
                compute or in_process(outputs),
                on_progress,
            ).to(self.device)
        return self._banks[key]

    def split_logits(
        self, rung: int, split: Split, *, on_progress: Progress | None = None
    ) -> Tensor:
        """A rung's logits on a split's plain examples, (N, C) float32 on the CPU."""
        examples = self.task.examples(split)

        def outputs(rows: slice) -> dict[str, Tensor]:
            model = self.ladder.model(rung)
            part = examples.select(torch.arange(rows.start, rows.stop))
            return outputs_of(self.task, model, part, self.device)

        count = len(examples)
        opened = self._bank(rung, split.value, 0, count, in_process(outputs), on_progress)
        return opened.rows(self.task.heads[0].name, torch.arange(count))

    def validation_logits(self, *, on_progress: Progress | None = None) -> Tensor:
        """The full teacher's logits on validation, (N, C) float32 on the CPU."""
        return self.split_logits(0, Split.VALIDATION, on_progress=on_progress)

    def difficulty_logits(self) -> Tensor:
        """The full teacher's logits by which the pool's difficulty is judged, (N, C) on the CPU.

        On the first view, which is stored anyway; on plain pictures where views are mixed, since
        difficulty is about one example.
        """
        if self.task.config.augment.mixup:
            return torch.cat([self.split_logits(0, s) for s in (Split.TRAIN, Split.TRANSFER)])
        everything = torch.arange(len(self.pool))
        return self.pool_bank(0, 0).rows(self.task.heads[0].name, everything).cpu()

    def _bank(
        self,
        rung: int,
        split: str,
        view: int,
        count: int,
        compute: Compute,
        on_progress: Progress | None,
    ) -> Bank:
        return bank(
            self.store,
            teacher_key=self.ladder.rung(rung).key,
            task_fingerprint=self.task.fingerprint,
            threads=self.threads,
            split_name=split,
            view=view,
            num_examples=count,
            heads={head.name: head.size for head in self.task.heads},
            compute=compute,
            on_progress=on_progress,
        )
