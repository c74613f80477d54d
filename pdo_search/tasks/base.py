"""What a task is: columns, heads, splits, losses, metrics. Knows no data source and no model.

Legend: N examples, B in a batch, L positions (padded), K size of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column, Taught
from pdo_search.base.safetext import one_line
from pdo_search.store.encoding import Keep
from pdo_search.tasks.inputs import AnyInputs

__all__ = [
    "IDS",
    "LABELLED",
    "PARTNER",
    "SHARE",
    "Batch",
    "Dropped",
    "Examples",
    "Head",
    "HeadKind",
    "LeftOut",
    "Meter",
    "Outputs",
    "Split",
    "Task",
    "Vocabulary",
    "mask_of",
    "target_of",
]

Outputs = dict[str, Tensor]
"""Head name to outputs: (B, K), or (B, L, K) of a head with positions."""
Batch = dict[str, Tensor]
"""Inputs by their names, (B, …) or (B, L, …); ``mask_of(name)`` (B, L) bool for ragged ones;
``target_of(name)``; ``IDS`` (B,) int64; ``LABELLED`` (B,) bool. Flat, so that moving and wrapping
are one comprehension."""

IDS = "ids"
LABELLED = "labelled"
SHARE = "share"
"""The batch's key of the share (B,) of each example that is its own, where views mix examples."""
PARTNER = "partner."
"""Before a key: what is known of the example that each is mixed with."""

_EVERYTHING = slice(None)


def mask_of(column: str) -> str:
    """The batch's key of the mask of a ragged column: True for an example's own positions."""
    return f"{column}.mask"


def target_of(name: str) -> str:
    """The batch's key of a target: usually of the head of that name."""
    return f"target.{name}"


class HeadKind(StrEnum):
    """What a head's outputs mean."""

    CATEGORICAL = "categorical"
    """One of K classes: softmax over the last axis. Targets int64, -1 for none."""
    BERNOULLI = "bernoulli"
    """Any of K labels: sigmoid. Targets 0 or 1, -1 for none."""
    REGRESSION = "regression"
    """K numbers. Targets floating, NaN for none."""
    POINTER = "pointer"
    """K pointers, each to one of the example's positions: softmax over the positions under the
    mask. Targets int64 (B, K), -1 for none."""


@dataclass(frozen=True)
class Head:
    """One named output of a model.

    Attributes:
        name: key in ``Outputs``.
        kind: how its outputs are read.
        size: K.
        positions: None for one answer per example, (B, K); else the batch's key of the mask (B, L)
            of the positions that have one, (B, L, K).
        tied: name of the input whose embedding is the head's matrix, as of vocabularies and items.
    """

    name: str
    kind: HeadKind
    size: int
    positions: str | None = None
    tied: str | None = None


class Split(StrEnum):
    """The four parts of the data, disjoint by ids and by contents."""

    TRAIN = "train"
    """Trains teacher and student, with labels."""
    TRANSFER = "transfer"
    """Teacher outputs supervise the student beyond train; may be unlabelled, and is where
    ``splits.labels`` is given."""
    VALIDATION = "validation"
    """Selects and stops; never trains."""
    TEST = "test"
    """Touched by the final confirmation alone."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N examples. Their inputs stay where the source has them until they are asked for.

    Attributes:
        inputs: columns by name, each of M >= N rows.
        targets: by head, or by whatever else the task's label loss reads.
        rows: (N,) int64 row of each example in the columns, on the CPU; None where example i is
            row i.
        ids: (N,) int64, unique over all splits of a task.
        labelled: (N,) bool, whether the targets may be used.
        digest: of the source, where it is known without reading all of it.
    """

    inputs: Mapping[str, Column]
    targets: Mapping[str, Column]
    rows: Tensor | None
    ids: Tensor
    labelled: Tensor
    digest: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Size of the inputs of these examples."""
        everything = torch.arange(len(self)) if self.rows is None else self.rows
        return sum(column.nbytes(everything) for column in self.inputs.values())

    def lengths(self) -> Tensor | None:
        """(N,) int64, positions of each example's longest input; None where none has positions."""
        rows = _EVERYTHING if self.rows is None else self.rows
        found = [c.lengths(rows) for c in self.inputs.values() if c.is_ragged]
        return torch.stack(found).amax(dim=0) if found else None

    def raw_inputs(self, index: Tensor | slice = _EVERYTHING) -> Batch:
        """Inputs as the source has them, and their masks, at an index (B,) or a range."""
        return _taken(self.inputs, index if self.rows is None else self.rows[index])

    def labels(self, index: Tensor | slice = _EVERYTHING) -> Batch:
        """Targets and their masks, ``IDS`` and ``LABELLED``, at an index (B,) or a range."""
        rows: Tensor | slice = index
        if self.rows is not None and self.targets:
            device = next(iter(self.targets.values())).values.device
            rows = self.rows[index].to(device)
        taken = _taken({target_of(name): c for name, c in self.targets.items()}, rows)
        return {**taken, IDS: self.ids[index], LABELLED: self.labelled[index]}

    def batch(self, index: Tensor | slice = _EVERYTHING) -> Batch:
        """All that is known of examples."""
        return {**self.raw_inputs(index), **self.labels(index)}

    def select(self, index: Tensor) -> Examples:
        """The examples at an index (B,); copies no columns."""
        rows = index if self.rows is None else self.rows[index]
        return replace(self, rows=rows, ids=self.ids[index], labelled=self.labelled[index])

    def unlabelled(self) -> Examples:
        """The same examples, their labels hidden."""
        return replace(self, labelled=torch.zeros_like(self.labelled))

    def followed_by(self, other: Examples) -> Examples:
        """These examples, then others of the same columns; copies them only where they are two."""
        ids = torch.cat([self.ids, other.ids])
        labelled = torch.cat([self.labelled, other.labelled])
        same = self.inputs is other.inputs and self.targets is other.targets
        if same and self.rows is not None and other.rows is not None:
            rows = torch.cat([self.rows, other.rows])
            return Examples(self.inputs, self.targets, rows, ids, labelled, self.digest)
        first, second = self._compact(), other._compact()
        inputs = {n: c.followed_by(second.inputs[n]) for n, c in first.inputs.items()}
        targets = {n: c.followed_by(second.targets[n]) for n, c in first.targets.items()}
        return Examples(inputs, targets, None, ids, labelled)

    def to(self, device: torch.device) -> Examples:
        """The same examples on a device, their rows of the columns and no others."""
        own = self._compact()
        inputs = {name: column.to(device) for name, column in own.inputs.items()}
        return replace(own, inputs=inputs).labels_to(device)

    def labels_to(self, device: torch.device) -> Examples:
        """The same examples, all but their inputs on a device."""
        targets = {name: column.to(device) for name, column in self.targets.items()}
        ids, labelled = self.ids.to(device), self.labelled.to(device)
        return replace(self, targets=targets, ids=ids, labelled=labelled)

    def _compact(self) -> Examples:
        """The same examples in columns of their own rows alone."""
        if self.rows is None:
            return self
        rows = self.rows
        inputs = {name: column.select(rows) for name, column in self.inputs.items()}
        targets = {name: column.select(rows) for name, column in self.targets.items()}
        return replace(self, inputs=inputs, targets=targets, rows=None)


def _taken(columns: Mapping[str, Column], rows: Tensor | slice) -> Batch:
    """Entries of columns at rows, by name, and the masks of ragged ones."""
    taken = {name: column.take(rows) for name, column in columns.items()}
    masks = {mask_of(name): c.mask(rows) for name, c in columns.items() if c.is_ragged}
    return {**taken, **masks}


class Meter(Protocol):
    """Metrics of a model on many examples, batch after batch."""

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch; ``taught`` is what the full teacher says about it, by head."""

    def compute(self) -> dict[str, float]:
        """Values by name: those of the task's ``metrics``, ``agreement`` and ``kl`` with a teacher
        alone."""


@dataclass(frozen=True)
class Dropped:
    """Examples that a split lost, because another one has the same contents.

    Attributes:
        split: what they were left out of.
        held_by: the split that keeps these contents.
        count: how many they are.
    """

    split: Split
    held_by: Split
    count: int


@dataclass(frozen=True)
class LeftOut:
    """Files of a source that are no examples, or of whose use a user should know.

    Attributes:
        where: the folder, the link or the files; empty where they lie all over.
        what: what they are, and what became of them.
        count: how many.
    """

    where: str
    what: str
    count: int

    def __str__(self) -> str:
        return one_line(f"{self.count:,} {self.what}{f' ({self.where})' if self.where else ''}")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of an input, such as those of a tokenizer.

    Attributes:
        counts: (V,) int64, how often each occurs in train and transfer.
        unknown: the one that stands for others.
    """

    counts: Tensor
    unknown: int


class Task(Protocol):
    """Data, heads, and how examples become a model's inputs and outputs become numbers.

    Attributes:
        seed: of views and splits.
        heads: of every model of the task.
        metrics: names in ``config.metrics.METRICS``; the first is the primary one.
        fingerprint: digest of all that a model's training sees of the task.
        varies: whether recorded views of an example differ from each other.
        train_inputs: the train split as it is before ``splits.labels`` takes labels away, for what
            needs inputs alone.
        epoch_examples: how many examples an epoch of distillation has: as many as these.
        dropped: what was left out, so that no two splits share a content.
        left_out: files of the source that are no examples, or of whose use a user should know.
        kept: how teachers' outputs are stored, by head; what is not named is stored whole, or its
            largest outputs.
        uncombined: why no composite of its models is made; empty where one is.
    """

    seed: int
    heads: tuple[Head, ...]
    metrics: tuple[str, ...]
    fingerprint: str
    varies: bool
    train_inputs: Examples
    epoch_examples: int
    dropped: tuple[Dropped, ...]
    left_out: tuple[LeftOut, ...]
    kept: Mapping[str, Keep]
    uncombined: str

    def examples(self, split: Split) -> Examples:
        """Examples of train, transfer or validation.

        Raises:
            PdoError: for the test split, which a search must not read.
        """

    def test_examples(self) -> Examples:
        """Examples of the test split, for the final confirmation alone."""

    def draw(self, raw: Batch, ids: Tensor, view: int) -> Batch:
        """Raw inputs as a view shows them: a pure function of (task seed, id, view)."""

    def partners(
        self, ids: Tensor, view: int, num_partners: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Whom a view mixes each example with, from 0 to (B,) ``num_partners`` - 1, and the share
        (B,) that stays its own; None where views mix nothing."""

    def mix(self, raw: Batch, partners: Batch, shares: Tensor) -> Batch:
        """Raw inputs mixed with their partners' at shares (B,) of their own."""

    def prepare(self, raw: Batch) -> Batch:
        """Raw inputs as models take them."""

    def forward(self, model: nn.Module, prepared: Batch) -> Outputs:
        """A model's outputs by head."""

    def label_loss(
        self, outputs: Outputs, batch: Batch, smoothing: float = 0.0
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Loss of outputs on labels, by head: (B,) in nats or the head's unit, 0 where there is no
        label, and (B,) bool whether there is one."""

    def divergence(
        self,
        head: Head,
        student: Tensor,
        taught: Taught,
        batch: Batch,
        temperature: float,
        form: str = "categorical",
    ) -> Tensor:
        """How far (B,) a student's outputs are from a teacher's, softened and times τ²; ``form`` is
        of categorical heads."""

    def meter(self) -> Meter:
        """A meter that has counted nothing."""

    def quality(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each answer (B,) is worth to the user: 0 to 1, higher is better, NaN without label.
        With ``confidence`` and the label loss it is all that curriculum, cascade and ensemble know
        of outputs."""

    def confidence(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How sure each answer (B,) is, 0 to 1."""

    def objection(self, model: nn.Module, batch: Batch) -> tuple[str, str] | None:
        """Why a model is none of the task though its outputs have the right form, and what to do
        about it; None where nothing is wrong. ``batch`` is prepared, the model in evaluation
        mode."""

    def inputs(self) -> AnyInputs:
        """What its models take, to be kept with each."""

    def vocabulary(self) -> Vocabulary | None:
        """The ids of its inputs, by which models with rows of an embedding for each of them can be
        made smaller; None where inputs are no ids."""

    def example(self) -> Batch:
        """One prepared example of typical length, for cost, export and surgery."""
