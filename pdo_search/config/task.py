"""The ``task`` section: what is learnt, from which data, in which splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from pdo_search.config.fields import Frozen, Given, Seed
from pdo_search.config.metrics import METRICS, TASK_METRICS, is_metric

__all__ = [
    "IMAGES",
    "USER_TASK",
    "AnyTaskConfig",
    "AugmentConfig",
    "DataConfig",
    "RecordsConfig",
    "SplitsConfig",
    "TaskConfig",
    "UserTaskConfig",
]

IMAGES = "image_classification"
USER_TASK = "user"


def _labels(value: object) -> object:
    if not isinstance(value, bool):
        is_count = isinstance(value, int) and value >= 2
        if is_count or (isinstance(value, float) and 0 < value < 1):
            return value
    raise ValueError("must be a whole number from 2, or a share between 0 and 1")


Labels = Annotated[int | float, BeforeValidator(_labels)]


class DataConfig(Frozen):
    """Where examples come from."""

    source: str
    """``digits``, ``fashion_mnist``, ``cifar10``, ``cifar100``, ``image_folder``, or
    ``module:function`` that returns the data."""
    path: Given | None = None
    """Folder of files; used when present instead of a download. Relative to the experiment file.
    An image_folder has CLASS/picture.png, or train/CLASS, val/CLASS and test/CLASS, which are then
    used as they are; a share of train stands in for a val or test that it lacks."""
    download: bool = True
    """Whether a torchvision source may be fetched from the network when no folder holds it."""
    size: int | None = Field(default=None, ge=4, le=1024)
    """Edge of the square picture in pixels; None keeps the source's own (64 for image_folder)."""
    limit: int | None = Field(default=None, ge=10)
    """Use only this many examples, stratified and seeded: for quick looks."""
    labelled: bool = True
    """False hides the labels, for a transfer source that has none; an image_folder then needs no
    folders of classes."""
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of an image_folder's pictures that cannot be read: ``raise`` refuses them and
    names the first, ``skip`` leaves them out and says so."""
    args: dict[str, Any] = {}
    """Keyword arguments of the ``module:function`` factory."""


class RecordsConfig(Frozen):
    """Where rows of named columns come from: texts, tables, sequences, measurements."""

    source: str = "files"
    """``files``, or ``module:function`` that returns a torch ``Dataset``, a data set of Hugging
    Face, a frame of pandas or polars, a mapping of columns, a list of rows, or such by split."""
    path: Given | dict[Literal["train", "validation", "test", "transfer"], Given] | None = None
    """Parquet, CSV, TSV, JSON or JSON lines: a file, a folder of parts, a pattern such as
    ``part-*.parquet``; or the folder of a data set that Hugging Face's library saved to disk.
    Relative to the experiment file. Parts or folders named train, validation, test are used as
    such splits; or give each split its own: ``{train: a.csv, test: b.csv}``."""
    format: Literal["parquet", "csv", "tsv", "json", "arrow"] | None = None
    """Of the files; None tells it by their names. JSON is one list, or one object per line."""
    columns: dict[str, str | int] = {}
    """What the source calls the task's columns, such as ``{text: sentence, label: y}``; those left
    out have the task's names. Whole numbers are places in rows that are tuples."""
    limit: int | None = Field(default=None, ge=10)
    """Use only this many rows of what is not split yet, drawn by the task's seed: for quick
    looks."""
    labelled: bool = True
    """False reads no labels, for a transfer source that has none."""
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of rows without an input: ``raise`` refuses them and names the first, ``skip``
    leaves them out and says so. Rows without a label stay; they are unlabelled."""
    args: dict[str, Any] = {}
    """Keyword arguments of the ``module:function`` factory."""


def _column(value: object) -> object:
    """A name, false or null; true is left out, with words that say what is meant."""
    if value is None or value is False or (isinstance(value, str) and value):
        return value
    raise ValueError("is a name, or false")


Column = Annotated[str | Literal[False] | None, BeforeValidator(_column)]


class SplitsConfig(Frozen):
    """Shares of the four disjoint, stratified splits; what is left is the train split."""

    transfer: float = Field(default=0.15, ge=0, lt=1)
    """Examples on which the teacher's outputs supervise the student beyond the train split.
    0 only where ``transfer_data`` or ``labels`` gives the split its examples."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    """Selects and stops; never trains. Ignored where the source has one of its own."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Touched by ``confirm`` only. Ignored where the source has a test split of its own."""
    labels: Labels | None = None
    """How many labelled examples there are to learn from: a whole number from the number of classes
    to the size of the train split, or a share of the train split between 0 and 1; stratified and
    seeded. The rest of train joins the transfer split, which then has no label at all, its own
    included, whatever the method; validation and test keep theirs, because they select and
    measure. None uses every label."""
    group: str | None = None
    """A column such as user, document or speaker: all rows with the same value come into the same
    split, which then has about its share, and ``labels`` go to whole groups. Not for pictures."""
    stratify: Column = None
    """Which head's classes have their shares in every split. None is the first categorical head of
    whole examples; false balances nothing. Not for pictures, which are balanced by their class."""
    leave_one_out: Column = False
    """A column of times or of other numbers that say what came first: of each ``group``'s examples
    the last one is for test and the last but one for validation, whose shares do not count then;
    ``transfer`` is a share of the others. Groups of one or two are never measured. Not for
    pictures."""

    @model_validator(mode="after")
    def _last_of_what(self) -> SplitsConfig:
        if self.leave_one_out and self.group is None:
            raise ValueError("leave_one_out takes the last example of each group: give group, too")
        return self

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitsConfig:
        if self.transfer + self.validation + self.test >= 1:
            raise ValueError("transfer + validation + test must leave a share for train (sum < 1)")
        return self


class AugmentConfig(Frozen):
    """Recorded augmentation: view v of example i is a pure function of (seed, i, v), so that the
    teacher and the student see the same picture (Beyer et al. 2022, section 3)."""

    crop: int = Field(default=0, ge=0, le=32)
    """Random crop after zero padding by this many pixels."""
    flip: bool = False
    """Random horizontal flip."""
    color: float = Field(default=0.0, ge=0, lt=1)
    """Strength s of the jitter of brightness, contrast and, of three channels, saturation: each is
    scaled by a factor drawn from 1 - s to 1 + s; 0.4 is usual. 0 is off."""
    mixup: float = Field(default=0.0, ge=0, le=10)
    """Alpha of mixup (Zhang et al. 2018): pictures are mixed with another of their split, at a
    share drawn from Beta(alpha, alpha), and labels with them; 0.2 to 1 is usual. Mixes what teacher
    and student see in distillation, not the teacher's own training. 0 is off."""

    @property
    def varies(self) -> bool:
        """Whether one view of an example differs from another."""
        return bool(self.crop or self.flip or self.color or self.mixup)


class TaskConfig(Frozen):
    """What is learnt, from which data."""

    kind: Literal["image_classification"] = "image_classification"
    """The domain."""
    data: DataConfig
    """The labelled source."""
    transfer_data: DataConfig | None = None
    """Another, possibly unlabelled source for the transfer split (cross-domain distillation). Its
    pictures that are in the labelled source, too, are left out."""
    splits: SplitsConfig = SplitsConfig()
    """Shares of the splits."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of train and transfer pictures."""
    seed: Seed = 0
    """Seed of the splits; apart from the search's seed, so that sweeps share them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it measures, the primary metric first."""
        return TASK_METRICS[self.kind]

    @model_validator(mode="after")
    def _has_transfer(self) -> TaskConfig:
        splits = self.splits
        if self.transfer_data is None and splits.transfer == 0 and splits.labels is None:
            raise ValueError("splits.transfer is 0 and there is no transfer_data: give one of them")
        for name in ("group", "leave_one_out"):
            if getattr(splits, name):
                raise ValueError(
                    f"splits.{name} needs columns, and pictures have none: leave it out"
                )
        if splits.stratify is not None:
            raise ValueError("pictures are balanced by their one class: leave splits.stratify out")
        return self


class UserTaskConfig(Frozen):
    """A task of one's own: data, heads, losses and metrics from a function."""

    kind: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    """``module:function`` that returns the task, usually a ``pdo_search.tasks.task.BaseTask``."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    """What it measures, the primary metric first: the sweep's columns."""
    args: dict[str, Any] = {}
    """Keyword arguments of the function."""
    seed: Seed = 0
    """Seed of splits and views, given to a function that takes one."""

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if not is_metric(name)]
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; known are {', '.join(METRICS)}")
        return names


def _tag_of(task: object) -> str:
    """Which of the tasks' models a section is of: by its kind."""
    kind = task.get("kind") if isinstance(task, dict) else getattr(task, "kind", None)
    return USER_TASK if isinstance(kind, str) and ":" in kind else IMAGES


AnyTaskConfig = Annotated[
    Annotated[TaskConfig, Tag(IMAGES)] | Annotated[UserTaskConfig, Tag(USER_TASK)],
    Discriminator(_tag_of),
]
"""A task of one of the domains, by its ``kind``."""
