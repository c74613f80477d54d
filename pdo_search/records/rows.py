"""The rows of a sweep's tables: every column's name, type, unit and meaning.

Nothing else says what a column is. How tables are made of records is in ``results.schema``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pdo_search.records.columns import About, Family, Measured, Moment, Part, Row, Values
from pdo_search.records.status import TrialStatus

__all__ = [
    "PARAM",
    "RECORDS",
    "CompositeRow",
    "ConfirmationRow",
    "Cost",
    "EpochRow",
    "FullTeacher",
    "Identity",
    "Seconds",
    "StageRow",
    "TeacherRow",
    "Trained",
    "TrialRow",
]

PARAM = "param."
"""What the columns of search dimensions begin with."""

Method = Annotated[
    str | None,
    About(
        "",
        "progressive, or a baseline: scratch, one_shot or assistant",
        required=True,
        before="progressive",
    ),
]
Cause = Annotated[str | None, About("", "what broke, which limit, which rung: one line")]
Val = Annotated[Values, Measured("val_", "on validation", kept="all")]
SCORE = About(
    "",
    "the primary metric on validation; of one of which less is better its negative",
    better="max",
)
Score = Annotated[float | None, SCORE]
Phase = Annotated[str, About("", "init, stage, labels or finetune")]
Temperature = Annotated[float | None, About("", "of the divergence; null outside of stages")]
WeightDecay = Annotated[float, About("", "weight decay in force")]
Smoothing = Annotated[float, About("", "label smoothing in force")]
Dropout = Annotated[float, About("", "dropout in force")]
SPEED = About("examples/s", "training speed of the student", better="max")
WALL = About("s", "wall time in all", better="min")
EpochsDone = Annotated[int | None, About("epochs", "finished epochs")]
StartedAt = Annotated[Moment | None, About("UTC", "start of its last attempt")]
EndedAt = Annotated[Moment | None, About("UTC", "end")]
Host = Annotated[str | None, About("", "machine it ran on")]
Pid = Annotated[int | None, About("", "process it ran in")]
SavedStudent = Annotated[str | None, About("", "saved student, relative to the sweep")]
SavedComposite = Annotated[str | None, About("", "saved composite, relative to the sweep")]


@dataclass(frozen=True)
class Identity(Part):
    """Which trial a row is about: the first columns of every table."""

    trial_id: Annotated[str, About("", "name of the trial, such as t0007", required=True)]
    number: Annotated[int, About("", "number of the trial in its sweep, from 0", required=True)]


@dataclass(frozen=True)
class Cost(Part):
    """Cost of one example.

    Attributes:
        params: number of parameters.
        flops: floating-point operations of a forward pass, two per multiply-accumulate, of
            convolutions and matrix products.
        latency_ms: median milliseconds of a forward pass of one example.
    """

    params: Annotated[int, About("parameters", "size of the model", better="min")]
    flops: Annotated[float, About("FLOPs", "per example, two per multiply-add", better="min")]
    latency_ms: Annotated[float, About("ms", "median time of one example", better="min")]


@dataclass(frozen=True)
class FullTeacher(Part):
    """What the full teacher costs, and how good it is."""

    teacher_params: Annotated[int, About("parameters", "size of the full teacher")]
    teacher_flops: Annotated[float, About("FLOPs", "of the full teacher, per example")]
    teacher_latency_ms: Annotated[float, About("ms", "of the full teacher, one example")]
    teacher_score: Annotated[float, About("", "of the full teacher on validation")]


@dataclass(frozen=True)
class Seconds(Part):
    """Wall seconds by what they were spent on."""

    teacher_s: Annotated[float, About("s", "building teachers and their outputs", better="min")] = (
        0.0
    )
    student_s: Annotated[
        float, About("s", "the student's forward, backward, update", better="min")
    ] = 0.0
    evaluation_s: Annotated[float, About("s", "evaluating the student", better="min")] = 0.0
    data_s: Annotated[float, About("s", "views, batches, look-ups of outputs", better="min")] = 0.0
    waiting_s: Annotated[float, About("s", "checkpoints and the search's answer", better="min")] = (
        0.0
    )

    def __add__(self, other: Seconds) -> Seconds:
        mine, others = vars(self), vars(other)
        return Seconds(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class Trained(Part):
    """What an epoch's batches say."""

    lr: Annotated[float, About("", "learning rate of the last update")]
    admitted: Annotated[float, About("share", "examples that the curriculum admitted")]
    train_loss: Annotated[float, About("nats", "mean training loss, weighted", better="min")]
    loss_kl: Annotated[
        float, About("nats", "its divergence from the teacher, unweighted, mean over the batch")
    ]
    loss_avg: Annotated[
        float, About("nats", "of transfer labels, unweighted, over the whole batch")
    ]
    loss_init: Annotated[float, About("nats", "of train labels, unweighted, over the whole batch")]
    loss_hints: Annotated[float | None, About("", "of hints, weighted; null without any")]
    train_quality: Annotated[
        float,
        About("share", "what answers on the batches trained on were worth, mean", better="max"),
    ]


@dataclass(frozen=True, kw_only=True)
class TrialRow(Row):
    """What is known of a trial by now."""

    TABLE = "trials"
    KEY = ("number",)
    MEANING = "one trial; validation columns are of its last evaluated epoch"
    GROWS = True

    method: Method = None
    status: Annotated[
        TrialStatus | None, About("", "running, finished, stopped, …", required=True)
    ] = None
    decision: Annotated[str | None, About("", "why it ended")] = None
    cause: Cause = None
    attempt: Annotated[
        int | None, About("", "how often it was started, from 1; not by promotion")
    ] = None
    seed: Annotated[int | None, About("", "seed of initialisation and data order")] = None
    point: Annotated[Mapping[str, Any], Family(PARAM)] = field(default_factory=dict)
    epochs_done: EpochsDone = None
    stages_done: Annotated[
        int | None, About("stages", "finished stages, init and fine-tune included")
    ] = None
    objective: Annotated[
        float | None, About("", "what the search optimises, at the trial's end")
    ] = None
    val: Val = field(default_factory=dict)
    val_score: Score = None
    cost: Cost | None = None
    teacher: FullTeacher | None = None
    composite_mode: Annotated[str | None, About("", "mode of the composite that was chosen")] = None
    composite_score: Annotated[
        float | None, About("", "of the composite on validation", better="max")
    ] = None
    composite_flops: Annotated[
        float | None, About("FLOPs", "of the composite, mean per example", better="min")
    ] = None
    started_at: StartedAt = None
    first_step_at: Annotated[Moment | None, About("UTC", "first update of the student")] = None
    ended_at: EndedAt = None
    wall_s: Annotated[float | None, WALL] = None
    seconds: Seconds | None = None
    examples_per_s: Annotated[float | None, SPEED] = None
    end_index: Annotated[int | None, About("", "how many trials had ended before it")] = None
    rung_reached: Annotated[
        int | None, About("", "milestone of the highest scheduler rung it reached")
    ] = None
    host: Host = None
    pid: Pid = None
    model: SavedStudent = None
    composite: SavedComposite = None


@dataclass(frozen=True, kw_only=True)
class EpochRow(Row):
    """An epoch that has ended."""

    TABLE = "epochs"
    KEY = ("number", "epoch")
    MEANING = "one epoch of a trial"

    epoch: Annotated[int, About("", "from 1, over the whole trial", required=True)]
    stage: Annotated[int, About("", "0 init, 1 to N stages, N + 1 fine-tune")]
    phase: Phase
    temperature: Temperature
    weight_decay: WeightDecay
    label_smoothing: Smoothing
    dropout: Dropout
    trained: Trained
    val: Val
    val_score: Score
    examples_per_s: Annotated[float, SPEED]
    seconds: Seconds
    wall_s: Annotated[float, WALL]
    reported_at: Annotated[Moment, About("UTC", "when the epoch was reported")]


@dataclass(frozen=True, kw_only=True)
class StageRow(Row):
    """A stage that has ended."""

    TABLE = "stages"
    KEY = ("number", "stage")
    MEANING = "one finished stage of a trial"

    stage: Annotated[int, About("", "0 init, 1 to N stages, N + 1 fine-tune", required=True)]
    phase: Phase
    teacher_level: Annotated[int | None, About("", "level of the ladder that taught; null without")]
    first_epoch: Annotated[int, About("", "its first epoch, from 1")]
    last_epoch: Annotated[int, About("", "its last epoch")]
    ended_by: Annotated[str, About("", "plan, adaptive or target")]
    temperature: Temperature
    val: Val
    val_score: Score
    cost: Cost
    lr_scale: Annotated[float, About("", "factor on the learning rate from here on")]
    weight_decay: WeightDecay
    label_smoothing: Smoothing
    dropout: Dropout
    adaptation: Annotated[str, About("", "what was changed after it, and why")]
    examples_per_s: Annotated[float, SPEED]
    seconds: Seconds
    wall_s: Annotated[float, WALL]


@dataclass(frozen=True, kw_only=True)
class TeacherRow(Row):
    """A level of the ladder."""

    TABLE = "teachers"
    KEY = ("number", "level")
    MEANING = "one level of the ladder that a trial used; trials that agree share them"

    level: Annotated[int, About("", "0 is the full teacher", required=True)]
    key: Annotated[str, About("", "digest of its artifact")]
    parent_key: Annotated[str | None, About("", "digest of the level it was made from")]
    status: Annotated[str, About("", "full, pruned or kept_parent")]
    ratio_asked: Annotated[float, About("share", "channels to be removed")]
    ratio_applied: Annotated[float, About("share", "channels removed, after backing off")]
    backoffs: Annotated[int, About("", "ratios that were refused")]
    blocks_dropped: Annotated[int, About("blocks", "whole blocks removed")]
    cost: Cost
    score_before: Annotated[float | None, About("", "validation, before recovery")]
    val: Annotated[Values, Measured("val_", "on validation", kept="primary")]
    val_score: Score
    build_s: Annotated[float, About("s", "time to build it, whoever did")]
    cached: Annotated[bool, About("", "whether the store had it already")]


@dataclass(frozen=True, kw_only=True)
class CompositeRow(Row):
    """A mode of the composite; which one is chosen is known when all have been measured."""

    TABLE = "composites"
    KEY = ("number", "mode")
    MEANING = "one way to combine a trial's student with its light teacher"

    mode: Annotated[str, About("", "student, teacher, ensemble or cascade", required=True)]
    weight: Annotated[float | None, About("share", "of the teacher in an ensemble")]
    threshold: Annotated[float | None, About("share", "confidence below which a cascade defers")]
    calibration: Annotated[float | None, About("", "temperature of the cascade's confidence")]
    val: Annotated[Values, Measured("val_", "on validation")]
    val_score: Annotated[float, SCORE]
    flops: Annotated[float, About("FLOPs", "mean per example", better="min")]
    latency_ms: Annotated[float, About("ms", "mean time of one example", better="min")]
    deferred: Annotated[float, About("share", "validation examples the teacher answers")]
    finetuned: Annotated[bool, About("", "whether fine-tuning inside it helped and was kept")] = (
        False
    )
    chosen: Annotated[bool, About("", "the most accurate within the budget")] = False
    within_budget: Annotated[bool, About("", "whether it keeps to composite.max_flops")] = False


@dataclass(frozen=True, kw_only=True)
class ConfirmationRow(Row):
    """What is known of a run of a confirmation by now; its seed belongs to its identity."""

    TABLE = "confirmations"
    KEY = ("number", "seed")
    MEANING = (
        "one configuration trained anew with a fresh seed and measured on the test split, once"
    )
    GROWS = True

    method: Method = None
    seed: Annotated[
        int | None, About("", "fresh seed of initialisation and order", required=True)
    ] = None
    status: Annotated[
        TrialStatus | None, About("", "running, finished, failed, …", required=True)
    ] = None
    cause: Annotated[str | None, About("", "what broke: one line")] = None
    attempt: Annotated[int | None, About("", "how often it was started, from 1")] = None
    epochs_done: EpochsDone = None
    val: Val = field(default_factory=dict)
    test: Annotated[Values, Measured("test_", "on test")] = field(default_factory=dict)
    teacher_test: Annotated[
        Values, Measured("teacher_test_", "of the full teacher on test", judged=False)
    ] = field(default_factory=dict)
    composite_test: Annotated[
        Values, Measured("composite_test_", "of the composite on test", judged=False)
    ] = field(default_factory=dict)
    val_score: Score = None
    test_examples: Annotated[int | None, About("examples", "size of the test split")] = None
    cost: Cost | None = None
    teacher: FullTeacher | None = None
    composite_mode: Annotated[
        str | None, About("", "mode of its composite; null where it has none")
    ] = None
    composite_score: Annotated[float | None, About("", "of its composite on validation")] = None
    composite_flops: Annotated[
        float | None, About("FLOPs", "of its composite, mean per test example")
    ] = None
    composite_deferred: Annotated[
        float | None, About("share", "test examples its light teacher answers")
    ] = None
    started_at: StartedAt = None
    ended_at: EndedAt = None
    wall_s: Annotated[float | None, WALL] = None
    seconds: Seconds | None = None
    host: Host = None
    pid: Pid = None
    model: SavedStudent = None
    composite: SavedComposite = None


RECORDS: tuple[type[Row], ...] = (
    TrialRow,
    EpochRow,
    StageRow,
    TeacherRow,
    CompositeRow,
    ConfirmationRow,
)
"""One per table."""
