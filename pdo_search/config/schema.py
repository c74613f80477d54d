"""The experiment file as frozen models: every field with its unit, range and default's reason.

Owns names, types and rules between fields. Knows nothing of YAML, of search libraries or of torch:
a search dimension is taken out of the tree (``space``) before these models see a value.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pdo_search.base.sizes import SIZE_REMEDY, bytes_of
from pdo_search.config.methods import METHODS, PROGRESSIVE, Baseline, Method, fixed
from pdo_search.config.metrics import METRICS, TASK_METRICS, is_metric

MOST_GPUS = 1024
IMAGES = "image_classification"
COMPARING = ("agreement", "kl")
"""Metrics of a student beside its teacher, which no search is for."""

__all__ = [
    "AdaptConfig",
    "AnyTaskConfig",
    "AugmentConfig",
    "CompositeConfig",
    "CurriculumConfig",
    "DataConfig",
    "ExecutionConfig",
    "Experiment",
    "KeepConfig",
    "LimitsConfig",
    "LossConfig",
    "ModelConfig",
    "NormalizationConfig",
    "OptimizerConfig",
    "OutputConfig",
    "Recipe",
    "RecordsConfig",
    "ResourcesConfig",
    "SchedulerConfig",
    "SearchConfig",
    "SimplifyConfig",
    "SplitsConfig",
    "StudentConfig",
    "TaskConfig",
    "TeacherConfig",
    "TrainConfig",
    "TrialConfig",
    "UserTaskConfig",
]


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}


class Frozen(BaseModel):
    """Immutable, no unknown keys, no NaN; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic takes true for 1."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise ValueError(f"{str(value).lower()} is no number")
        return value


def _seconds(value: object) -> object:
    """``90``, ``"90s"``, ``"20m"``, ``"1.5h"`` as seconds; anything else is left to fail."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if not match:
            raise ValueError("a duration is a number with s, m, h or d, such as 20m")
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    return value


def _size(value: object) -> object:
    """``500MB`` as bytes; a number, or anything else, is left to succeed or fail as it is."""
    if not isinstance(value, str):
        return value
    try:
        return bytes_of(value)
    except ValueError as error:
        raise ValueError(f"{error}: {SIZE_REMEDY}") from None


def _name(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("a name is 1 to 64 letters, digits, '_', '.' or '-'; it names a directory")
    return value


def _labels(value: object) -> object:
    if not isinstance(value, bool):
        is_count = isinstance(value, int) and value >= 2
        if is_count or (isinstance(value, float) and 0 < value < 1):
            return value
    raise ValueError("must be a whole number from 2, or a share between 0 and 1")


def _gpus(value: object) -> object:
    """A number from 0, or auto; anything else is left to fail with words that name both."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_GPUS:
        raise ValueError(f"is auto, or a number of GPUs from 0 to {MOST_GPUS}")
    if 0 < value < 0.01 or (value > 1 and value != int(value)):
        raise ValueError("is a whole number of GPUs, or a share of one from 0.01 on")
    return value


def _home(value: object) -> object:
    """A path with the home directory in the place of ``~``."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("is no path")
    path = os.path.expanduser(value)
    if path.startswith("~"):
        raise ValueError(f"the home directory {path.partition('/')[0]} is not known")
    return path


Given = Annotated[str, BeforeValidator(_home)]
"""A path or URI that a user gave."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
"""What a column of whole numbers holds."""
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Name = Annotated[str, BeforeValidator(_name)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
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
        if splits.group is not None:
            raise ValueError("splits.group needs columns, and pictures have none: leave it out")
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


USER_TASK = "user"


def _tag_of(task: object) -> str:
    """Which of the tasks' models a section is of: by its kind."""
    kind = task.get("kind") if isinstance(task, dict) else getattr(task, "kind", None)
    return USER_TASK if isinstance(kind, str) and ":" in kind else IMAGES


AnyTaskConfig = Annotated[
    Annotated[TaskConfig, Tag(IMAGES)] | Annotated[UserTaskConfig, Tag(USER_TASK)],
    Discriminator(_tag_of),
]
"""A task of one of the domains, by its ``kind``."""


class OptimizerConfig(Frozen):
    """How weights are updated."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    lr: float = Field(default=0.05, gt=0, le=10)
    """Peak learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; first beta of AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    batch_size: int = Field(default=128, ge=2)
    """Examples per update, over all workers."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the whole budget: cosine to zero, or constant."""
    warmup: Fraction = 0.05
    """Share of the budget with a linear warm-up."""
    label_smoothing: Fraction = 0.0
    """Label smoothing of the hard-label losses."""
    clip_norm: float | None = Field(default=5.0, gt=0)
    """Largest gradient norm; None for no clipping."""


class TrainConfig(OptimizerConfig):
    """Training of the teacher by the experiment itself, on the train split with labels."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the train split."""


def _numbers(value: object) -> object:
    """One number as a list of one."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return (value,) if plain else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers), Field(min_length=1)]


class NormalizationConfig(Frozen):
    """Mean and standard deviation per channel, of pictures whose bytes are divided by 255."""

    mean: Numbers
    """One number per channel, or one for all; of grey pictures three are averaged."""
    std: Numbers
    """Above 0; one number per channel, or one for all; of grey pictures three are averaged."""

    @model_validator(mode="after")
    def _divides(self) -> NormalizationConfig:
        if min(self.std) <= 0:
            raise ValueError(f"std divides the pictures: {min(self.std):g} is not above 0")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: give both per channel"
            )
        return self


def _normalization(value: object) -> object:
    """A name or a mapping; anything else is left to fail with words that name both."""
    if value is None or value in ("data", "imagenet") or isinstance(value, NormalizationConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError("is data, imagenet, or {mean: [...], std: [...]}")
    try:
        return NormalizationConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{where}: {said}" if where else said) from None


class ModelConfig(Frozen):
    """A model by name or factory."""

    arch: str
    """``small_resnet``, ``small_convnet``, a torchvision classifier (``resnet50``, ``vgg16``,
    ``mobilenet_v2``, ``shufflenet_v2_x1_0``…), or ``module:function`` returning an nn.Module. For
    ids and frames ``small_transformer``, or ``transformers``: a model of that library, from the
    local directory that ``weights`` names."""
    width: int | None = Field(default=None, ge=1, le=4096)
    """Channels of the first stage of the small models; of ``small_transformer`` those of all."""
    depth: int | None = Field(default=None, ge=1, le=256)
    """Blocks per stage of the small models; layers of ``small_transformer``."""
    dropout: Fraction = 0.0
    """Dropout before the head, where the model has it."""
    weights: Given | None = None
    """A checkpoint (.pt, .pth, .safetensors, an index of shards or their directory) relative to
    the experiment file, or the name of torchvision weights such as ``IMAGENET1K_V2``. Of several
    sets of weights in a file the average (EMA) is taken; ``file.pt#model`` names another."""
    args: dict[str, Any] = {}
    """Further keyword arguments of the model's constructor or factory; a student's may be
    dimensions."""
    normalization: Annotated[
        Literal["data", "imagenet"] | NormalizationConfig | None, BeforeValidator(_normalization)
    ] = None
    """Mean and standard deviation that the weights were trained with: ``data`` (those of the train
    split), ``imagenet``, or ``{mean: [...], std: [...]}`` of pictures whose bytes are divided by
    255 (of a source of floats: in its own values). None takes those of named torchvision weights,
    or of the timm model that a factory returns, and ``data`` for all else."""


class TeacherConfig(ModelConfig):
    """The big model: pre-trained weights, or trained by the experiment."""

    train: TrainConfig | None = None
    """Train it (after loading ``weights``, if any). Once per content, kept in the store."""
    force: bool = False
    """Use a teacher that is given, not trained here, though it is no better than chance on
    validation."""

    @model_validator(mode="after")
    def _has_knowledge(self) -> TeacherConfig:
        # A factory may load weights itself; that it did is measured.
        if self.weights is None and self.train is None and ":" not in self.arch:
            raise ValueError("a teacher needs `weights` or `train`: an untrained one teaches noise")
        return self

    @property
    def is_given(self) -> bool:
        """Whether nothing trains it: it teaches what it brings."""
        return self.train is None


def _amount(value: object) -> object:
    """A share, or a number; anything else is left to fail with words that name both."""
    if value is not None and not isinstance(value, bool):
        is_count = isinstance(value, int) and value >= 1
        if is_count or (isinstance(value, float) and 0 < value < 1):
            return value
    raise ValueError("is a share between 0 and 1, or how many stay, a whole number from 1")


Amount = Annotated[float | int, BeforeValidator(_amount)]
Share = Annotated[float, Field(gt=0, lt=1)]


class KeepConfig(Frozen):
    """What stays of a model, by unit: a share below 1, or a number. What is not named stays whole.

    Convolutional networks have channels and blocks, transformers the others.
    """

    channels: Share | None = None
    """Share of every layer's channels, those of the largest norms."""
    blocks: Amount | None = None
    """Residual blocks that keep their input's shape, those that change the outputs most."""
    layers: Amount | None = None
    """Layers, those that change the outputs most."""
    heads: Amount | None = None
    """Attention heads of every layer, those that add most; what shares its keys goes together."""
    ffn: Amount | None = None
    """Neurons of every layer's feed-forward network, the most active ones."""
    vocab: Amount | None = None
    """Rows of the embedding, those of the most frequent ids of train and transfer; all other ids
    read the unknown one's."""

    @model_validator(mode="after")
    def _not_empty(self) -> KeepConfig:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"names no unit: give {', '.join(KeepConfig.model_fields)}")
        return self


def _keep(value: object) -> object:
    """A share or a mapping; anything else is left to fail with words that name both."""
    if value is None or isinstance(value, KeepConfig):
        return value
    if not isinstance(value, dict):
        if isinstance(value, float) and 0 < value < 1:
            return value
        raise ValueError("is a share between 0 and 1, or {layers: 2, heads: 0.5, vocab: 4500}")
    try:
        return KeepConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = f"is none of {', '.join(KeepConfig.model_fields)}"
        raise ValueError(f"{first['loc'][0]} {said}" if first["loc"] else said) from None


class StudentConfig(ModelConfig):
    """The small model. ``arch: teacher`` is the teacher itself, less what ``keep`` leaves out."""

    keep: Annotated[float | KeepConfig | None, BeforeValidator(_keep)] = None
    """With ``arch: teacher``: what stays of it before distillation starts, by unit; a bare share is
    of the channels, or of a transformer's attention heads and feed-forward neurons. Of any other
    architecture only ``vocab``."""
    shrink: float | None = Field(default=None, gt=0, lt=1)
    """With ``arch: teacher``: share of channels removed; ``shrink: 0.3`` is ``keep: {channels:
    0.7}``."""

    @model_validator(mode="after")
    def _shrink_with_teacher(self) -> StudentConfig:
        if self.shrink is not None and self.keep is not None:
            raise ValueError("`shrink` and `keep` say the same: give `keep` alone")
        is_cut = self.shrink is not None or self.keep is not None
        if self.arch == "teacher" and not is_cut:
            raise ValueError("`keep` and `arch: teacher` belong together")
        if self.arch != "teacher" and self.shrink is not None:
            raise ValueError("`shrink` and `arch: teacher` belong together")
        if self.arch != "teacher" and not self._keeps_vocabulary_alone():
            raise ValueError("`keep` of all but `vocab` and `arch: teacher` belong together")
        if self.arch == "teacher" and self.normalization is not None:
            raise ValueError(
                "a shrunk teacher takes its inputs as the teacher does:"
                " normalization belongs to `teacher`"
            )
        return self

    @property
    def is_cut(self) -> bool:
        """Whether it is cut from the teacher."""
        return self.arch == "teacher"

    def _keeps_vocabulary_alone(self) -> bool:
        if self.keep is None:
            return True
        given = {} if isinstance(self.keep, float) else self.keep.model_dump(exclude_none=True)
        return set(given) == {"vocab"}


class LossConfig(Frozen):
    """L = kl · L_KL(teacher ‖ student; τ) + avg · L_hard(transfer) + init · L_hard(train).

    Each term is a mean over the whole batch, to which an example without the label in question adds
    nothing: with ``avg`` = ``init`` all labels count alike, and with the default splits, of whose
    examples 77% are train and 23% transfer ones, the defaults weigh the means of the two splits by
    0.5 and 0.3.
    """

    kl: Weight = 0.7
    """Weight of the divergence from the teacher's outputs."""
    avg: Weight = 1.3
    """Weight of the hard-label loss on the transfer split (0 in effect where it has no labels)."""
    init: Weight = 0.65
    """Weight of the hard-label loss on the train split."""
    kl_form: Literal["categorical", "bernoulli"] = "categorical"
    """Softmax at τ scaled by τ² (Hinton et al. 2015), or a sum over classes of Bernoulli terms."""
    standardize: bool = False
    """Standardise logits before the softmax (Sun et al. 2024), so that τ is less delicate."""
    heads: dict[str, Weight] | Literal["learned"] = {}
    """Weight of each head of a task of several, 1 where none is given; ``learned`` gives each the
    inverse of its loss in the epoch before (Kendall et al. 2018)."""
    reduce: Literal["example", "position"] = "example"
    """Whether every example weighs alike, whatever its length, or every position, as is usual for
    language models."""

    @model_validator(mode="after")
    def _weighs_something(self) -> LossConfig:
        if self.kl + self.avg + self.init <= 0:
            raise ValueError("the weights kl, avg and init sum to nothing: nothing would be learnt")
        return self


class CurriculumConfig(Frozen):
    """Which examples are admitted when."""

    difficulty: Literal["teacher_confidence", "teacher_loss", "student_loss"] = "teacher_confidence"
    """The score: 1 - p_max of the teacher, the teacher's loss on the label, or the student's loss
    after init. Unlabelled examples are scored against the teacher's own top class."""
    order: Literal["easy_first", "hard_first", "random"] = "easy_first"
    """``random`` is the control: same pacing, shuffled scores (Wu et al. 2021)."""
    start: float = Field(default=1.0, gt=0, le=1)
    """Share of examples admitted at first; 1 switches the curriculum off."""
    pacing: Literal["linear", "root", "step", "exponential"] = "root"
    """How the share grows to 1 over the stages' epochs."""
    adaptive: bool = False
    """End a stage when the primary metric stops improving; its epochs go to the later stages."""
    patience: int = Field(default=2, ge=1)
    """Epochs without improvement that end an adaptive stage."""
    min_delta: float = Field(default=0.001, ge=0, lt=1)
    """Smallest gain in the primary metric that counts as improvement; relative where it is no
    share."""


class AdaptConfig(Frozen):
    """What changes after a stage, from recorded metrics alone."""

    enabled: bool = True
    """False keeps learning rate and regularisation as configured."""
    plateau_delta: float = Field(default=0.002, ge=0, lt=1)
    """A stage that gained less of the primary metric than this is a plateau; relative where it is
    no share."""
    lr_factor: float = Field(default=0.7, gt=0, le=1)
    """Learning rate is multiplied by this on a plateau."""
    lr_min_scale: float = Field(default=0.1, gt=0, le=1)
    """The product of these factors never falls below this."""
    gap_high: float = Field(default=0.05, gt=0, lt=1)
    """What answers are worth on train minus validation above this: regularise more."""
    gap_low: float = Field(default=0.01, ge=0, lt=1)
    """Below this: regularise less, not below what is configured."""
    weight_decay_factor: float = Field(default=2.0, ge=1)
    """Step of weight decay, up or down."""
    weight_decay_max: float = Field(default=1e-2, gt=0)
    """Upper bound of weight decay."""
    smoothing_step: float = Field(default=0.02, ge=0, lt=1)
    """Step of label smoothing."""
    smoothing_max: float = Field(default=0.1, ge=0, lt=1)
    """Upper bound of label smoothing."""
    dropout_step: float = Field(default=0.05, ge=0, lt=1)
    """Step of dropout, where the model has it."""
    dropout_max: float = Field(default=0.3, ge=0, lt=1)
    """Upper bound of dropout."""

    @model_validator(mode="after")
    def _ordered(self) -> AdaptConfig:
        if self.gap_low >= self.gap_high:
            raise ValueError("gap_low must be below gap_high")
        return self


class SimplifyConfig(Frozen):
    """How a teacher becomes the next, simpler one. Rungs are shared by all trials that agree."""

    drop_blocks: int = Field(default=0, ge=0, le=16)
    """Whole residual blocks, or layers of a transformer, removed per level, the least important
    first."""
    round_to: int = Field(default=4, ge=1)
    """Channel counts are kept a multiple of this."""
    recovery_epochs: float = Field(default=1.0, ge=0)
    """Passes over the train split of self-distillation from the previous teacher."""
    recovery_lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the recovery (SGD, cosine)."""
    max_drop: float = Field(default=0.03, ge=0, le=1)
    """A level that loses more of the primary metric than this against its parent is refused;
    relative where it is no share."""
    backoffs: int = Field(default=2, ge=0, le=5)
    """How often a refused ratio is halved and tried again, before the parent is kept."""
    timeout: Seconds = 600.0
    """Longest time for the pruning of one level; some architectures hang in dependency tracing."""


class CompositeConfig(Frozen):
    """The model made of the light teacher and the student."""

    modes: tuple[Literal["student", "teacher", "ensemble", "cascade"], ...] = (
        "student",
        "teacher",
        "ensemble",
        "cascade",
    )
    """Modes that are fitted and compared."""
    finetune_epochs: int = Field(default=1, ge=0)
    """Passes over the train split that fine-tune the student inside the composite."""
    max_flops: float | None = Field(default=None, gt=0)
    """Cost budget: mean FLOPs per example of the chosen mode, as a share of the full teacher's."""

    @model_validator(mode="after")
    def _not_empty(self) -> CompositeConfig:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ValueError("modes needs at least one mode, each once")
        return self


class Recipe(Frozen):
    """One trial's distillation: the file's ``trial`` section at one point of the search space."""

    method: Method = PROGRESSIVE
    """``progressive``, or a baseline at the same epochs: ``scratch`` (every label of train and
    transfer counts alike, no teacher), ``one_shot`` (the full teacher throughout, Hinton et al.
    2015) or ``assistant`` (level 1 of the ladder throughout, Mirzadeh et al. 2020). A baseline sets
    the fields that it fixes, such as ``num_stages``, whatever is given for them. No search
    dimension: ``search.baselines`` runs several methods."""
    epochs: int = Field(default=12, ge=1)
    """Student passes over the train split in all, whatever the number of stages; over as many
    examples as it has before ``splits.labels`` takes labels away."""
    init_epochs: int = Field(default=1, ge=0)
    """Epochs of the budget spent on labels alone before the first stage."""
    finetune_epochs: int = Field(default=0, ge=0)
    """Epochs of the budget spent on labels alone after the last stage."""
    num_stages: int = Field(default=2, ge=1, le=32)
    """Stages that the rest of the budget is divided into."""
    temperature: float = Field(default=4.0, gt=0, le=100)
    """Temperature of the first stage."""
    temperature_end: float | None = Field(default=None, gt=0, le=100)
    """Temperature of the last stage; None keeps it constant."""
    annealing: Literal["linear", "exponential"] = "linear"
    """How the temperature goes from first to last stage."""
    prune_ratio: float = Field(default=0.2, ge=0, lt=0.95)
    """Share of the teacher's channels, or of a transformer's attention heads and neurons, removed
    per level of the ladder."""
    teacher_order: Literal["descending", "ascending"] = "descending"
    """Full teacher first and simpler each stage, or the lightest first."""
    teacher_outputs: Literal["stored", "online"] = "stored"
    """Whether teachers' outputs are computed once and read by all trials, or in every step: for
    what is too large to be stored. Online ones cost a forward pass of the teacher per update."""
    num_views: int = Field(default=2, ge=1, le=64)
    """Recorded augmentation views per example; 1 means the plain picture only where the task
    augments nothing. View v is the same picture whatever the number, so that trials with more
    views use the teacher's outputs of trials with fewer."""
    loss: LossConfig = LossConfig()
    """The three weighted terms."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The student's updates."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """Order and pacing of examples."""
    adapt: AdaptConfig = AdaptConfig()
    """Adaptation after each stage."""
    simplify: SimplifyConfig = SimplifyConfig()
    """Teacher simplification after each stage."""
    composite: CompositeConfig | None = CompositeConfig()
    """The combined model; null to leave it out."""
    target: float | None = Field(default=None, gt=0)
    """Stop when the primary metric reaches this, in its own unit and direction."""
    target_of_teacher: float | None = Field(default=None, gt=0)
    """Stop when the primary metric reaches this share of the full teacher's."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_method_has_it(cls, given: Any) -> Any:
        method = given.get("method", PROGRESSIVE) if isinstance(given, dict) else None
        return {**given, **fixed(method)} if method in METHODS else given

    @property
    def stage_epochs(self) -> int:
        """Epochs left for the stages, in all."""
        return self.epochs - self.init_epochs - self.finetune_epochs

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        if self.stage_epochs < self.num_stages:
            raise ValueError(
                f"more stages than epochs: epochs {self.epochs} - init_epochs {self.init_epochs}"
                f" - finetune_epochs {self.finetune_epochs} leaves {self.stage_epochs} for"
                f" {self.num_stages} stages; each needs at least one"
            )
        return self


StudentCost = Literal["params", "flops", "latency_ms"]
STUDENT_COSTS: tuple[StudentCost, ...] = get_args(StudentCost)


class SearchConfig(Frozen):
    """What the sampler does."""

    num_trials: int = Field(default=16, ge=1)
    """Configurations in all; early-stopped ones count. Trials of baselines come on top."""
    baselines: tuple[Baseline, ...] = ()
    """Methods that are searched beside the progressive one at the same epochs, each by the same
    sampler and scheduler among its own trials, over the dimensions that have an effect on it:
    ``scratch``, ``one_shot``, ``assistant``. What each is: ``trial.method``."""
    baseline_trials: int | None = Field(default=None, ge=1)
    """Trials of each baseline; None is a quarter of num_trials and at least 4: a baseline has
    fewer dimensions to tune, and one trial alone would lose by a bad learning rate."""
    metric: str = "val_accuracy"
    """What is optimised, on the validation split: ``val_`` and one of the task's metrics. By
    default the primary one, ``val_accuracy`` of image classification."""
    mode: Literal["max", "min"] = "max"
    """Direction: the metric's own, by default."""
    minimize: tuple[StudentCost, ...] = ()
    """Costs of the student to keep low as well: rungs prefer what no other trial beats in all of
    them, and TPE draws for ever other trade-offs. Needs a dimension of the student.
    ``latency_ms`` is measured, so a search by it does not repeat to the bit."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Tree-structured Parzen estimator, uniform, or exactly the given ``points``."""
    multivariate: bool = False
    """TPE over joint instead of independent dimensions."""
    startup_trials: int = Field(default=8, ge=1)
    """Random trials before TPE models anything. Those of ``warm_start`` count as Optuna counts
    them: with as many finished, stopped or infeasible ones, the first draw comes from a model."""
    points: tuple[dict[str, Any], ...] = ()
    """Points tried first (all there is, for grid): dimension path to value. Of the progressive
    trials: baselines are sampled, by TPE where the sampler is grid."""
    warm_start: tuple[Given, ...] = ()
    """Directories of earlier sweeps (relative to the experiment file, or URIs) whose trials TPE
    learns from where they are points of this experiment: same task, teacher, fixed values and
    metric. They are no trials of this sweep, in no table, and may be run again in it."""
    seed: Seed = 0
    """Seed of the sampler and of every trial's initialisation and data order."""
    retries: int = Field(default=1, ge=0)
    """How often a trial whose process died is started again from its checkpoint; a node that went
    away does not count."""

    @property
    def trials_per_baseline(self) -> int:
        """Trials of each baseline."""
        return self.baseline_trials or max(4, self.num_trials // 4)

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError("a baseline stands twice")
        if len(set(self.minimize)) != len(self.minimize):
            raise ValueError("a cost to minimize stands twice")
        known = METRICS.get(self.metric.removeprefix("val_").rpartition(".")[2])
        if known is None or not self.metric.startswith("val_"):
            raise ValueError(f"unknown metric {self.metric!r}: it is val_ and a metric of the task")
        if known.mode != self.mode:
            raise ValueError(f"mode {self.mode!r} is the wrong direction for {self.metric!r}")
        if self.sampler == "grid" and not self.points:
            raise ValueError("sampler grid needs `points`")
        if self.sampler != "tpe" and self.warm_start:
            raise ValueError(f"sampler {self.sampler} learns nothing: warm_start is for tpe")
        return self


class SchedulerConfig(Frozen):
    """Early stopping between trials."""

    kind: Literal["asha_promotion", "asha", "median", "none"] = "asha_promotion"
    """asha_promotion: asynchronous successive halving (Li et al. 2020), a trial pauses at every
    rung, and goes on from its checkpoint when it is among the best there and a slot is free; asha:
    its stopping variant, a trial that is not among the best so far stops for good, so more of them
    finish, for more compute; median: a trial stops when its best value is below the median of the
    others' means so far (Golovin et al. 2017); none."""
    clock: Literal["epoch", "stage"] = "epoch"
    """What a rung's milestone counts: epochs, or finished stages. With ``stage`` a student is
    evaluated at its stages' ends only, unless it needs more: ``adaptive`` stages or a target."""
    grace: int = Field(default=2, ge=1)
    """Milestone of the lowest rung: no trial is stopped before it. Early values say little of the
    last one; where trials stop for good (asha) 3 is better (experiments/LOG.md)."""
    reduction: int = Field(default=3, ge=2)
    """One of this many goes on at each rung; milestones grow by the same factor."""
    brackets: int = Field(default=1, ge=1, le=8)
    """Brackets with ever later first rungs, among which trials are shared out by seed."""
    min_peers: int = Field(default=1, ge=1)
    """Trials that a rung needs before it stops or promotes any; for median, others that have come
    as far."""

    @property
    def pauses(self) -> bool:
        """Whether trials pause at rungs."""
        return self.kind == "asha_promotion"

    def milestones(self, end: int) -> tuple[int, ...]:
        """Milestones of all brackets below a time, ascending."""
        found = []
        milestone = self.grace
        while milestone < end:
            found.append(milestone)
            milestone *= self.reduction
        return tuple(found)

    @model_validator(mode="after")
    def _consistent(self) -> SchedulerConfig:
        if self.brackets > 1 and self.kind not in ("asha", "asha_promotion"):
            raise ValueError(f"brackets are of rungs, which kind {self.kind!r} has none of")
        if "reduction" in self.model_fields_set and self.kind == "median":
            raise ValueError("reduction is of rungs, which kind 'median' has none of")
        return self


class LimitsConfig(Frozen):
    """What a student may cost and a sweep may take. A trial over a limit is infeasible."""

    params: int | None = Field(default=None, ge=1)
    """Most parameters of the student."""
    flops: float | None = Field(default=None, gt=0)
    """Most FLOPs per example (two per multiply-accumulate)."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Most milliseconds for one example on the trial's device."""
    wall: Seconds | None = None
    """No new trial starts after this, and no paused one goes on; running ones end and are kept."""
    trial_timeout: Seconds | None = None
    """A trial that takes longer fails, also where it hangs; each start of it has as long."""
    storage_timeout: Seconds = 300.0
    """How long driver and trials wait for an object store that does not answer, before the sweep
    ends as interrupted."""


class ResourcesConfig(Frozen):
    """What a trial gets."""

    cpus: float = Field(default=1, ge=0.01)
    """CPUs per worker; whole numbers give as many threads."""
    teacher_cpus: int | None = Field(default=None, ge=1)
    """Threads with which the experiment trains its teacher, where it does so on a CPU; None is as
    many as a trial has. Part of the teacher's key: other numbers of threads round otherwise, and
    training makes another teacher of that."""
    gpus: Annotated[float | Literal["auto"], BeforeValidator(_gpus)] = "auto"
    """GPUs per worker; below 1 several trials share one. auto is one where there are GPUs for every
    worker of a trial, else none: the trial runs on CPUs. Other accelerators are not used."""
    workers: int = Field(default=1, ge=1)
    """Processes per trial that train together (DDP)."""
    sync_batch_norm: bool = False
    """Whether several workers on GPUs take batch norm's statistics over the whole batch (torch's
    SyncBatchNorm); else each takes them over its share, as if the batch were that small."""
    backend: Literal["auto", "inprocess", "train"] = "auto"
    """In the trial's own warm process, or by Ray Train; auto takes Ray Train for workers > 1."""
    max_concurrent: int | Literal["auto"] = "auto"
    """Trials at once; auto fills the machine or cluster."""

    @property
    def num_gpus(self) -> float:
        """GPUs per worker; none for an auto that ``search.cluster.with_gpus`` has not resolved."""
        return 0.0 if self.gpus == "auto" else self.gpus

    @property
    def uses_train(self) -> bool:
        """Whether a trial runs its workers by Ray Train."""
        return self.backend == "train" or self.workers > 1

    @property
    def threads(self) -> int:
        """Threads of a worker."""
        return max(1, int(self.cpus))

    @property
    def teacher_threads(self) -> int:
        """Threads with which the teacher is trained."""
        return self.teacher_cpus or self.threads

    @model_validator(mode="after")
    def _consistent(self) -> ResourcesConfig:
        if self.sync_batch_norm and not (self.workers > 1 and self.gpus):
            raise ValueError("sync_batch_norm is for several workers on GPUs: torch has it there")
        if self.backend == "inprocess" and self.workers > 1:
            raise ValueError("backend inprocess has one worker; leave backend out for more")
        if isinstance(self.max_concurrent, int) and self.max_concurrent < 1:
            raise ValueError("max_concurrent must be at least 1, or auto")
        return self


class ExecutionConfig(Frozen):
    """How updates are computed. What a trial may use is in ``resources``."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Forward passes of training in this precision, by autocast; weights, losses and evaluation
    stay fp32. auto is bf16 on GPUs that compute in it, and fp32 elsewhere: on a CPU with AVX-512
    bf16 instructions bf16 took twice the time."""
    compile: bool = False
    """Train students through torch.compile: on a GPU with CUDA graphs. Pays where a trial lasts
    long and its kernels are many and small; compiling takes 20 to 40 s per trial, and on CPUs the
    compiled step was a tenth slower than the plain one."""
    deterministic: bool = True
    """On a GPU: only algorithms of cuDNN that repeat to the bit. False lets it try which ones are
    fastest, and take those."""


class OutputConfig(Frozen):
    """Where results go."""

    root: Given = "results"
    """Directory or object-store URI; the sweep is ``<root>/<name>``. Relative to where you run."""
    store: Given | None = None
    """Artifacts shared by sweeps (teachers, ladders, banks); None is ``<root>/.store``."""
    max_bank: Bytes | None = None
    """Most bytes, such as ``20GB``, of the teachers' outputs that one trial has the store keep: of
    all its teachers, on all its views. None is a quarter of what is free on the store's disk, or on
    that of its cache, where the outputs that are kept there already count as free."""

    @property
    def store_root(self) -> str:
        """Where artifacts lie."""
        return self.store or f"{self.root.rstrip('/')}/.store"


class TrialConfig(Frozen):
    """Everything that determines one trial: an experiment at one point of its space."""

    task: AnyTaskConfig
    """What is learnt."""
    teacher: TeacherConfig
    """From whom."""
    student: StudentConfig
    """By whom."""
    recipe: Recipe
    """How."""
    limits: LimitsConfig = LimitsConfig()
    """Within what."""
    resources: ResourcesConfig = ResourcesConfig()
    """On what."""
    execution: ExecutionConfig = ExecutionConfig()
    """In which precision."""
    evaluation: Literal["epoch", "stage"] = "epoch"
    """After which of them the student is evaluated: the scheduler's clock."""
    seed: int = 0
    """Seed of initialisation and data order."""
    save_after: tuple[int, ...] = ()
    """Epochs after which the state is saved for certain: the scheduler may pause the trial there.
    They leave the trial's results as they are."""
    teacher_seed: int = 0
    """Seed of teacher and ladder: the search's, so that fresh seeds of a student find its
    teachers."""
    confirms: bool = False
    """Whether the finished student is measured on the test split, once: no trial of a search is."""


class Experiment(Frozen):
    """An experiment file. ``trial`` and ``student`` stay trees here: their leaves may be search
    dimensions, which ``space`` takes out and ``resolve`` fills in."""

    name: Name
    """Name of the sweep and of its directory."""
    task: AnyTaskConfig
    """What is learnt."""
    teacher: TeacherConfig
    """The big model."""
    student: dict[str, Any]
    """The small model (``StudentConfig``); leaves may be dimensions."""
    trial: dict[str, Any] = {}
    """The distillation (``Recipe``); leaves may be dimensions."""
    search: SearchConfig = SearchConfig()
    """Sampler and budget."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """Early stopping."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of cost and time."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial gets."""
    execution: ExecutionConfig = ExecutionConfig()
    """How updates are computed."""
    output: OutputConfig = OutputConfig()
    """Where results go."""

    @model_validator(mode="before")
    @classmethod
    def _searches_by_the_tasks_metric(cls, given: Any) -> Any:
        """Metric and mode, where they are not given, are those of the task."""
        if not isinstance(given, dict):
            return given
        task, search = given.get("task"), given.get("search") or {}
        if not isinstance(task, dict) or not isinstance(search, dict):
            return given
        own = TASK_METRICS.get(str(task.get("kind", IMAGES)), task.get("metrics"))
        filled = dict(search)
        if isinstance(own, list | tuple) and own:
            filled.setdefault("metric", f"val_{own[0]}")
        known = METRICS.get(str(filled.get("metric")).removeprefix("val_").rpartition(".")[2])
        if known is not None:
            filled.setdefault("mode", known.mode)
        return {**given, "search": filled}

    @model_validator(mode="after")
    def _metric_is_the_tasks(self) -> Experiment:
        named = [m for m in self.task.metrics if m.rpartition(".")[2] not in COMPARING]
        if self.search.metric.removeprefix("val_") not in named:
            raise ValueError(
                f"search.metric {self.search.metric!r} is none of the task's:"
                f" {', '.join(f'val_{name}' for name in named)}"
            )
        return self

    @property
    def method(self) -> Method:
        """What the search is about: the method of the trials that are no baselines."""
        method: Method = self.trial.get("method", PROGRESSIVE)
        return method

    @property
    def num_trials(self) -> dict[Method, int]:
        """Trials by method, the search's own first."""
        search = self.search
        return {
            self.method: search.num_trials,
            **dict.fromkeys(search.baselines, search.trials_per_baseline),
        }
