"""The examples that teachers speak about, and what they say: pool, banks, difficulty.

The pool is the train split followed by the transfer split. A level's outputs on it are computed
once per recorded view, kept in the store, and read by every trial; no teacher runs in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.config.recipe import Recipe
from pdo_search.distill.curriculum import difficulty
from pdo_search.distill.evaluate import evaluation_batches, outputs_of
from pdo_search.distill.feed import Feed
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.losses import IN_TRAIN
from pdo_search.distill.stage import plan_stages
from pdo_search.store.bank import Bank, Compute, bank, in_process
from pdo_search.store.encoding import Said, StoredHead
from pdo_search.store.plan import Outputs, Plan
from pdo_search.tasks.base import PARTNER, SHARE, Batch, Examples, Split, Task
from pdo_search.tasks.base import Outputs as ModelOutputs

__all__ = [
    "Pool",
    "Teaching",
    "bytes_of_outputs",
    "planned_views",
    "pool_of",
    "pool_outputs",
]

BATCH = 512
"""Examples that are drawn at once when a whole view is kept."""
LARGEST_VIEWS = 1 << 29
"""Bytes of drawn inputs that a process keeps; beyond, they are drawn anew in every step."""

POOL = (Split.TRAIN, Split.TRANSFER)
IMAGE_DIM = 4
"""Of tensors whose second dimension computes faster as the last."""

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
        self._views: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def serves(self, task: Task, device: torch.device) -> bool:
        """Whether this is the pool of a task on a device."""
        return self._task is task and self._device == device

    def batches(self, view: int, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Prepared batches of a view at rows (B,) of the pool, with labels and ``IN_TRAIN``; loaded
        ahead where they are not on the device."""
        for rows, raw in zip(batches, self._raw(view, batches), strict=True):
            prepared = {**raw, **self._task.prepare(raw)}
            yield {**prepared, **self._labels(view, rows), IN_TRAIN: rows < self.num_train}

    def _raw(self, view: int, batches: Sequence[Tensor]) -> Iterator[Batch]:
        if view not in self._views and not self._keep(view):
            yield from self.drawn(view, batches)
            return
        kept = self._views[view]
        for rows in batches:
            yield {name: _first_last(k.index_select(0, rows), k) for name, k in kept.items()}

    def _labels(self, view: int, rows: Tensor) -> Batch:
        """Labels at rows, and those of the examples that a view mixes them with."""
        labels = self.examples.labels(rows)
        if (mixing := self._partners(view, rows)) is None:
            return labels
        partners, shares = mixing
        others = {PARTNER + k: v for k, v in self.examples.labels(partners).items()}
        return {**labels, **others, SHARE: shares}

    def _keep(self, view: int) -> bool:
        """Draw a whole view, if there is room and examples have no positions.

        What has four dimensions is kept with the second one last, as models compute on it, so that
        an example is one piece of memory.
        """
        examples, room = self.examples, LARGEST_VIEWS // (len(self._views) + 1)
        ragged = examples.lengths() is not None
        if ragged or not self._feed.is_resident or examples.nbytes > room:
            return False
        batches = torch.split(torch.arange(len(self), device=self._device), BATCH)
        kept: Batch = {}
        for rows, drawn in zip(batches, self.drawn(view, batches), strict=True):
            for name, part in drawn.items():
                moved = part.movedim(1, -1) if part.dim() == IMAGE_DIM else part
                whole = kept.setdefault(name, moved.new_empty(len(self), *moved.shape[1:]))
                whole[rows[0] : rows[-1] + 1] = moved
        self._views[view] = kept
        return True

    def drawn(self, view: int, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Raw inputs of a view, drawn now and not kept, batch after batch."""
        mixing = [self._partners(view, rows) for rows in batches]
        wanted: list[Tensor] = []
        for rows, found in zip(batches, mixing, strict=True):
            wanted += [rows] if found is None else [rows, found[0]]
        loaded = self._feed.batches(wanted)
        for rows, found in zip(batches, mixing, strict=True):
            own = self._seen(view, rows, next(loaded))
            if found is not None:
                partners, shares = found
                own = self._task.mix(own, self._seen(view, partners, next(loaded)), shares)
            yield own

    def _seen(self, view: int, rows: Tensor, raw: Batch) -> Batch:
        return {**raw, **self._task.draw(raw, self.examples.ids[rows], view)}

    def _partners(self, view: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Partners, as rows of the pool, of the same split, and shares; None without mixing."""
        num_train, num_transfer = self.num_train, len(self) - self.num_train
        in_train = rows < num_train
        size = torch.where(in_train, num_train, num_transfer)
        found = self._task.partners(self.examples.ids[rows], view, size)
        if found is None:
            return None
        partners, shares = found
        return torch.where(in_train, partners, partners + num_train), shares


def _first_last(rows: Tensor, kept: Tensor) -> Tensor:
    """Rows of what is kept, their dimensions in their order."""
    return rows.movedim(-1, 1) if kept.dim() == IMAGE_DIM else rows


_POOLS: list[Pool] = []


def pool_of(task: Task, device: torch.device) -> Pool:
    """The pool, built once per process: a warm process keeps the last one."""
    if not (_POOLS and _POOLS[0].serves(task, device)):
        _POOLS[:] = [Pool(task, device)]
    return _POOLS[0]


def pool_outputs(task: Task, pool: Pool, model: nn.Module, view: int) -> Outputs:
    """What a teacher says about a view of the pool, batch by batch."""
    device = pool.examples.ids.device

    def outputs(rows: Tensor) -> Iterator[tuple[Tensor, Said]]:
        batches = evaluation_batches(task, pool.examples, device, rows.to(device))
        for own, raw in zip(batches, pool.drawn(view, batches), strict=True):
            batch = {**raw, **task.prepare(raw)}
            with torch.inference_mode():
                said = task.forward(model, batch)
            yield own, {**said, **_masks(task, batch)}

    return outputs


def _masks(task: Task, batch: Batch) -> Batch:
    """The masks of a batch in which heads have positions."""
    return {head.positions: batch[head.positions] for head in task.heads if head.positions}


def _lengths(task: Task, raw_batches: Iterable[Batch]) -> dict[str, Tensor]:
    """(N,) int64 positions of each example, by the mask of heads that have some."""
    if not any(head.positions for head in task.heads):
        return {}
    masks = [_masks(task, {**raw, **task.prepare(raw)}) for raw in raw_batches]
    return {name: torch.cat([m[name].sum(dim=1).cpu() for m in masks]) for name in masks[0]}


def plan_of(task: Task, count: int, raw_batches: Iterable[Batch]) -> Plan:
    """What is stored of so many examples, whose raw inputs come batch after batch."""
    heads = {head.name: StoredHead(head.size, head.positions) for head in task.heads}
    return Plan(heads, count, _lengths(task, raw_batches))


def bytes_of_outputs(task: Task, splits: Sequence[Split] = POOL) -> int:
    """Bytes that a teacher's outputs on splits take in the store, by default on a view of the
    pool."""
    parts = [task.examples(split) for split in splits]
    raw = (
        part.raw_inputs(rows)
        for part in parts
        for rows in evaluation_batches(task, part, torch.device("cpu"))
    )
    return plan_of(task, sum(map(len, parts)), raw).nbytes


def planned_views(recipe: Recipe, num_views: int) -> dict[int, list[int]]:
    """The views on which a trial will ask for stored outputs, by level, if it runs as planned."""
    views: dict[int, set[int]] = {0: {0}} if recipe.curriculum.start < 1 else {}
    epoch = 0
    for stage in plan_stages(recipe):
        if stage.level is not None and recipe.teacher_outputs == "stored":
            seen = {e % num_views for e in range(epoch, epoch + stage.epochs)}
            views[stage.level] = views.get(stage.level, set()) | seen
        epoch += stage.epochs
    return {level: sorted(found) for level, found in views.items()}


class Teaching:
    """Pool and teacher outputs of one trial.

    Args:
        threads: of the CPU that compute outputs: a part of their key; 0 for a GPU.

    Attributes:
        pool: of the task, on the device.
        num_views: recorded views per example.
    """

    def __init__(self, ladder: Ladder, recipe: Recipe, threads: int = 0) -> None:
        self.task = task = ladder.task
        self.ladder = ladder
        self.device = ladder.on.device
        self.threads = threads
        self.pool = pool_of(task, self.device)
        self.num_views = recipe.num_views if task.varies else 1
        self._banks: dict[tuple[str, int], Bank] = {}

    def pool_bank(
        self,
        level: int,
        view: int,
        *,
        compute: Compute | None = None,
        on_progress: Progress | None = None,
    ) -> Bank:
        """A level's outputs on a view of the pool, built if nobody has.

        Args:
            level: which teacher.
            view: which recorded view.
            compute: how to build it; None computes here.
            on_progress: told how far it is, if it is built now.
        """
        key = (self.ladder.level(level).key, view)
        if key not in self._banks:

            def outputs(rows: Tensor) -> Iterable[tuple[Tensor, Said]]:
                return pool_outputs(self.task, self.pool, self.ladder.model(level), view)(rows)

            rows = torch.arange(len(self.pool), device=self.device)
            batches = evaluation_batches(self.task, self.pool.examples, self.device, rows)
            self._banks[key] = self._bank(
                level,
                "train+transfer",
                view,
                plan_of(self.task, len(self.pool), self.pool.drawn(view, batches)),
                compute or in_process(outputs),
                on_progress,
            ).to(self.device)
        return self._banks[key]

    def split_bank(self, level: int, split: Split, *, on_progress: Progress | None = None) -> Bank:
        """A level's outputs on a split's plain examples, built if nobody has."""
        examples = self.task.examples(split)

        def outputs(rows: Tensor) -> Iterator[tuple[Tensor, Said]]:
            part, model = examples.select(rows), self.ladder.model(level)
            for own, batch, said in outputs_of(self.task, model, part, self.device):
                yield rows[own], {**said, **_masks(self.task, batch)}

        raw = map(examples.raw_inputs, evaluation_batches(self.task, examples, self.device))
        plan = plan_of(self.task, len(examples), raw)
        return self._bank(level, split.value, 0, plan, in_process(outputs), on_progress)

    def taught(
        self, bank: Bank, rows: Tensor, batch: Batch, temperature: float = 1.0
    ) -> dict[str, Taught]:
        """What a teacher says about rows (B,) of a bank's examples, by head, on the device.

        Args:
            bank: of the teacher.
            rows: of the examples.
            batch: what they hold, with the masks of heads that have positions.
            temperature: at which outputs will be softened.
        """
        said = {}
        for head in self.task.heads:
            found = bank.take(head.name, rows, temperature).to(self.device)
            said[head.name] = (
                found if head.positions is None else found.placed(batch[head.positions])
            )
        return said

    def _stored(self, bank: Bank, examples: Examples) -> Iterator[tuple[Batch, ModelOutputs]]:
        """What plain examples hold, and a bank's outputs, batch after batch."""
        with_masks = any(head.positions for head in self.task.heads)
        for rows in evaluation_batches(self.task, examples, self.device):
            batch = examples.labels(rows)
            if with_masks:
                raw = examples.raw_inputs(rows)
                batch = {**raw, **self.task.prepare(raw), **batch}
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            yield batch, self.dense(bank, rows, batch)

    def dense(self, bank: Bank, rows: Tensor, batch: Batch) -> ModelOutputs:
        """Stored outputs at rows (B,), every class of them, by head."""
        said = self.taught(bank, rows, batch)
        return {head.name: said[head.name].dense(head.size) for head in self.task.heads}

    def difficulty(self, kind: str, student: nn.Module | None = None) -> Tensor:
        """How hard (N,) the pool's examples are, on the CPU.

        By the full teacher's outputs on the first view, which are stored anyway, or on plain
        examples where views are mixed, since difficulty is about one example.

        Args:
            kind: see ``curriculum.difficulty``.
            student: judges plain examples in the teacher's place; for ``student_loss``.
        """
        judged = (
            [(self.split_bank(0, s), self.task.examples(s)) for s in POOL]
            if self.mixes
            else [(self.pool_bank(0, 0), self.pool.examples)]
        )
        scores = []
        for opened, examples in judged:
            if student is None:
                for batch, said in self._stored(opened, examples):
                    scores.append(difficulty(self.task, kind, said, batch, said))
                continue
            for rows, batch, said in outputs_of(self.task, student, examples, self.device):
                teacher = self.dense(opened, rows, batch)
                scores.append(difficulty(self.task, kind, said, batch, teacher))
        return torch.cat(scores).cpu()

    @property
    def mixes(self) -> bool:
        """Whether views mix examples."""
        first = torch.ones(1, dtype=torch.int64)
        return self.task.partners(first, 0, first) is not None

    def _bank(
        self,
        level: int,
        split: str,
        view: int,
        plan: Plan,
        compute: Compute,
        on_progress: Progress | None,
    ) -> Bank:
        return bank(
            self.ladder.on.store,
            plan,
            teacher_key=self.ladder.level(level).key,
            task_fingerprint=self.task.fingerprint,
            threads=self.threads,
            split_name=split,
            view=view,
            compute=compute,
            on_progress=on_progress,
        )
