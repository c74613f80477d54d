"""The ``trial`` section: how a student is distilled."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pdo_search.config.fields import Frozen, Seconds, Weight
from pdo_search.config.methods import METHODS, PROGRESSIVE, Method, fixed
from pdo_search.config.training import OptimizerConfig

__all__ = [
    "AdaptConfig",
    "CompositeConfig",
    "CurriculumConfig",
    "LossConfig",
    "Recipe",
    "SimplifyConfig",
]


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
