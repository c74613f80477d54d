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
    VAL_ACCURACY = "val_accuracy"
    VAL_PRECISION = "val_precision"
    VAL_RECALL = "val_recall"
    VAL_F1 = "val_f1"
    VAL_LOSS = "val_loss"
    VAL_ECE = "val_ece"
    VAL_AGREEMENT = "val_agreement"
    VAL_KL = "val_kl"
    TEST_ACCURACY = "test_accuracy"
    TEST_PRECISION = "test_precision"
    TEST_RECALL = "test_recall"
    TEST_F1 = "test_f1"
    TEST_LOSS = "test_loss"
    TEST_ECE = "test_ece"
    TEST_EXAMPLES = "test_examples"
    TEACHER_TEST_ACCURACY = "teacher_test_accuracy"
    TEACHER_TEST_PRECISION = "teacher_test_precision"
    TEACHER_TEST_RECALL = "teacher_test_recall"
    TEACHER_TEST_F1 = "teacher_test_f1"
    TEACHER_TEST_LOSS = "teacher_test_loss"
    TEACHER_TEST_ECE = "teacher_test_ece"
    COMPOSITE_TEST_ACCURACY = "composite_test_accuracy"
    COMPOSITE_TEST_PRECISION = "composite_test_precision"
    COMPOSITE_TEST_RECALL = "composite_test_recall"
    COMPOSITE_TEST_F1 = "composite_test_f1"
    COMPOSITE_TEST_LOSS = "composite_test_loss"
    COMPOSITE_TEST_ECE = "composite_test_ece"
    PARAMS = "params"
    FLOPS = "flops"
    LATENCY_MS = "latency_ms"
    TEACHER_PARAMS = "teacher_params"
    TEACHER_FLOPS = "teacher_flops"
    TEACHER_LATENCY_MS = "teacher_latency_ms"
    TEACHER_ACCURACY = "teacher_accuracy"
    COMPOSITE_MODE = "composite_mode"
    COMPOSITE_ACCURACY = "composite_accuracy"
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
    IMAGES_PER_S = "images_per_s"
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
    TRAIN_ACCURACY = "train_accuracy"
    TEACHER_RUNG = "teacher_rung"
    FIRST_EPOCH = "first_epoch"
    LAST_EPOCH = "last_epoch"
    ENDED_BY = "ended_by"
    ADAPTATION = "adaptation"
    RUNG = "rung"
    KEY = "key"
    PARENT_KEY = "parent_key"
    RATIO_ASKED = "ratio_asked"
    RATIO_APPLIED = "ratio_applied"
    BACKOFFS = "backoffs"
    BLOCKS_DROPPED = "blocks_dropped"
    ACCURACY_BEFORE = "accuracy_before"
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
