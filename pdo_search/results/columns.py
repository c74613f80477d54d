"""What a column is, and the names of the tables' fixed columns as constants.

Code spells no column as a literal of its own; what each means is in ``schema``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Col", "Column", "Type"]

Type = Literal["int64", "float64", "bool", "string", "timestamp"]
"""``timestamp`` is microseconds since 1970 in UTC; everything else is what it says."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as in the files.
        dtype: see ``Type``.
        unit: such as ``s`` or ``FLOPs``; empty for names, counts and plain numbers.
        meaning: one line.
        required: whether a row cannot be begun without it; such a column is never null.
        better: which direction is better, for what may be an axis of a Pareto front.
        before: its value in files of a version that did not have it yet, where it is required now.
    """

    name: str
    dtype: Type
    unit: str
    meaning: str
    required: bool = False
    better: Literal["max", "min"] | None = None
    before: str | None = None


class Col:
    """Names of the fixed columns of all tables."""

    TRIAL_ID = "trial_id"
    NUMBER = "number"
    METHOD = "method"
    STATUS = "status"
    DECISION = "decision"
    CAUSE = "cause"
    ATTEMPT = "attempt"
    SEED = "seed"
    EPOCHS_DONE = "epochs_done"
    STAGES_DONE = "stages_done"
    OBJECTIVE = "objective"
    VAL_SCORE = "val_score"
    TEST_EXAMPLES = "test_examples"
    PARAMS = "params"
    FLOPS = "flops"
    LATENCY_MS = "latency_ms"
    TEACHER_PARAMS = "teacher_params"
    TEACHER_FLOPS = "teacher_flops"
    TEACHER_LATENCY_MS = "teacher_latency_ms"
    TEACHER_SCORE = "teacher_score"
    COMPOSITE_MODE = "composite_mode"
    COMPOSITE_SCORE = "composite_score"
    COMPOSITE_FLOPS = "composite_flops"
    COMPOSITE_DEFERRED = "composite_deferred"
    STARTED_AT = "started_at"
    FIRST_STEP_AT = "first_step_at"
    ENDED_AT = "ended_at"
    REPORTED_AT = "reported_at"
    WALL_S = "wall_s"
    TEACHER_S = "teacher_s"
    STUDENT_S = "student_s"
    EVALUATION_S = "evaluation_s"
    DATA_S = "data_s"
    WAITING_S = "waiting_s"
    EXAMPLES_PER_S = "examples_per_s"
    END_INDEX = "end_index"
    RUNG_REACHED = "rung_reached"
    HOST = "host"
    PID = "pid"
    MODEL = "model"
    COMPOSITE = "composite"
    EPOCH = "epoch"
    STAGE = "stage"
    PHASE = "phase"
    LR = "lr"
    LR_SCALE = "lr_scale"
    TEMPERATURE = "temperature"
    WEIGHT_DECAY = "weight_decay"
    LABEL_SMOOTHING = "label_smoothing"
    DROPOUT = "dropout"
    ADMITTED = "admitted"
    TRAIN_LOSS = "train_loss"
    LOSS_KL = "loss_kl"
    LOSS_AVG = "loss_avg"
    LOSS_INIT = "loss_init"
    TRAIN_QUALITY = "train_quality"
    TEACHER_LEVEL = "teacher_level"
    FIRST_EPOCH = "first_epoch"
    LAST_EPOCH = "last_epoch"
    ENDED_BY = "ended_by"
    ADAPTATION = "adaptation"
    LEVEL = "level"
    KEY = "key"
    PARENT_KEY = "parent_key"
    RATIO_ASKED = "ratio_asked"
    RATIO_APPLIED = "ratio_applied"
    BACKOFFS = "backoffs"
    BLOCKS_DROPPED = "blocks_dropped"
    SCORE_BEFORE = "score_before"
    BUILD_S = "build_s"
    CACHED = "cached"
    MODE = "mode"
    WEIGHT = "weight"
    THRESHOLD = "threshold"
    CALIBRATION = "calibration"
    DEFERRED = "deferred"
    FINETUNED = "finetuned"
    CHOSEN = "chosen"
    WITHIN_BUDGET = "within_budget"
