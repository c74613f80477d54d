"""The ``teacher`` and ``student`` sections: models by name, their weights, what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from pdo_search.config.fields import Fraction, Frozen, Given
from pdo_search.config.training import TrainConfig

__all__ = [
    "KeepConfig",
    "ModelConfig",
    "NormalizationConfig",
    "StudentConfig",
    "TeacherConfig",
]


def _section(model: type[Frozen], value: Mapping[str, Any]) -> Frozen:
    """A section where something else may stand as well: says what is wrong with it alone."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, said = ".".join(map(str, first["loc"])), str(first["msg"])
        if first["type"] == "extra_forbidden":
            said = f"is none of {', '.join(model.model_fields)}"
        said = said.removeprefix("Value error, ")
        between = " " if said.startswith("is ") else ": "
        raise ValueError(f"{where}{between}{said}" if where else said) from None


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
    return _section(NormalizationConfig, value)


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
    return _section(KeepConfig, value)


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
