"""What a task is: heads, examples, splits. Knows no data source and no model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor, nn

from pdo_search.base.safetext import one_line
from pdo_search.config.schema import TaskConfig

__all__ = ["Dropped", "Examples", "Head", "HeadKind", "LeftOut", "Outputs", "Split", "Task"]

_EVERYTHING = slice(None)

Outputs = dict[str, Tensor]
"""Head name to logits (N, size)."""


class HeadKind(StrEnum):
    """What a head's outputs mean."""

    CATEGORICAL = "categorical"
    """One of ``size`` classes: softmax."""
    BERNOULLI = "bernoulli"
    """Any of ``size`` labels: sigmoid."""
    REGRESSION = "regression"
    """``size`` numbers."""


@dataclass(frozen=True)
class Head:
    """One named output of a model.

    Attributes:
        name: key in ``Outputs``.
        kind: how its logits are read.
        size: number of outputs.
    """

    name: str
    kind: HeadKind
    size: int


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


@dataclass(frozen=True)
class Examples:
    """N examples. Their inputs stay where the source has them until they are asked for.

    Attributes:
        source: (M, C, H, W) uint8 or float32, M >= N: in memory, on a device, or a mapped file that
            is larger than memory.
        rows: (N,) int64 position of each example in the source, on the CPU; None where example i is
            row i.
        targets: (N,) int64 class indices, -1 for no label.
        ids: (N,) int64, unique over all splits of a task.
        digest: of the source, where it is known without reading all of it.
    """

    source: Tensor
    rows: Tensor | None
    targets: Tensor
    ids: Tensor
    digest: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether every example has a label."""
        return bool((self.targets >= 0).all())

    @property
    def nbytes(self) -> int:
        """Size of the inputs of these examples."""
        return len(self) * self.source[0].nbytes

    def inputs(self, index: Tensor | slice = _EVERYTHING) -> Tensor:
        """Raw inputs (B, C, H, W) at an index (B,) or a range: by default all of them."""
        return self.source[index if self.rows is None else self.rows[index]]

    def select(self, index: Tensor) -> Examples:
        """The examples at an index (M,); copies no inputs."""
        rows = index if self.rows is None else self.rows[index]
        return Examples(self.source, rows, self.targets[index], self.ids[index], self.digest)

    def followed_by(self, other: Examples) -> Examples:
        """These examples, then others; copies inputs only where their sources are two."""
        targets, ids = torch.cat([self.targets, other.targets]), torch.cat([self.ids, other.ids])
        if self.source is other.source and self.rows is not None and other.rows is not None:
            rows = torch.cat([self.rows, other.rows])
            return Examples(self.source, rows, targets, ids, self.digest)
        return Examples(torch.cat([self.inputs(), other.inputs()]), None, targets, ids)

    def to(self, device: torch.device) -> Examples:
        """The same examples on a device, their inputs and no others."""
        inputs = self.inputs().to(device)
        return Examples(inputs, None, self.targets.to(device), self.ids.to(device))


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


class Task(Protocol):
    """Data, heads, and how examples become a model's inputs.

    Attributes:
        config: what was asked for.
        heads: of every model of the task.
        input_shape: (C, H, W).
        class_names: by label.
        fingerprint: digest of all that a model's training sees of the task.
        train_inputs: the train split as it is before ``splits.labels`` takes labels away, for what
            needs inputs alone.
        epoch_examples: how many examples an epoch of distillation has: as many as these.
        dropped: what was left out, so that no two splits share a content.
        left_out: files of the source that are no examples, or of whose use a user should know.
    """

    config: TaskConfig
    heads: tuple[Head, ...]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str
    train_inputs: Examples
    epoch_examples: int
    dropped: tuple[Dropped, ...]
    left_out: tuple[LeftOut, ...]

    def examples(self, split: Split) -> Examples:
        """Examples of train, transfer or validation.

        Raises:
            PdoError: for the test split, which a search must not read.
        """

    def test_examples(self) -> Examples:
        """Examples of the test split, for the final confirmation alone."""

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw inputs (N, C, H, W) as normalised float32, channels last."""

    def augment(self, inputs: Tensor, ids: Tensor, view: int) -> Tensor:
        """Raw augmented inputs: a pure function of (task seed, id, view)."""

    def view(self, inputs: Tensor, ids: Tensor, view: int) -> Tensor:
        """Augmented and prepared inputs."""

    def forward(self, model: nn.Module, prepared: Tensor) -> Outputs:
        """A model's outputs by head."""

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the raw train inputs."""
