"""The one place of tables: column names, dtypes, units, meaning, keys, status words, version.

Owns what a column is called and what it means; the same words go into the Parquet files' metadata.
Knows nothing of files, and imports pyarrow only inside the functions that make its schemas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pdo_search.config.metrics import METRICS, TASK_METRICS, is_metric
from pdo_search.results.columns import Col, Column, Type
from pdo_search.results.params import (
    PARAM,
    decode_param,
    encode_param,
    param_column,
    param_types,
    params_of,
    point_of,
)
from pdo_search.results.status import Decision, TrialStatus

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "PARAM",
    "SCHEMA_VERSION",
    "IMAGE_METRICS",
    "TABLES",
    "TRIALS",
    "Col",
    "Column",
    "Decision",
    "Table",
    "TrialStatus",
    "Type",
    "VERSION_METADATA",
    "all_columns",
    "arrow_schema",
    "better_of",
    "decode_param",
    "encode_param",
    "metric_columns",
    "param_column",
    "param_types",
    "params_of",
    "point_of",
    "trial_id",
]

SCHEMA_VERSION = 4
VERSION_METADATA = "pdo_search.schema_version"
IMAGE_METRICS = TASK_METRICS["image_classification"]
"""Of a sweep that does not say: older versions knew no other task."""
MEASURED = {
    "val_": "on validation",
    "test_": "on test",
    "teacher_test_": "of the full teacher on test",
    "composite_test_": "of the composite on test",
}
"""What a metric's column is of, by its prefix."""
RENAMED = {
    "images_per_s": "examples_per_s",
    "rung": "level",
    "teacher_rung": "teacher_level",
    "train_accuracy": "train_quality",
    "teacher_accuracy": "teacher_score",
    "composite_accuracy": "composite_score",
    "accuracy_before": "score_before",
}
"""Columns of version 3 and before, by what they are called now."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its directory.
        meaning: what a row is.
        key: columns that identify a row; the first is the trial's number.
        columns: the fixed columns, in order.
        measured: what is measured of whom: prefixes of the columns of the task's metrics.
    """

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    measured: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """The fixed columns by name."""
        return {column.name: column for column in self.columns}

    def holds(self, name: str) -> bool:
        """Whether a column is one of this table's: a fixed one, or that of a metric."""
        prefixes = [prefix for prefix in self.measured if name.startswith(prefix)]
        return name in self.by_name or any(is_metric(name.removeprefix(p)) for p in prefixes)


def trial_id(number: int) -> str:
    """The name of a trial: ``t0007`` for number 7."""
    return f"t{number:04d}"


IDENTITY = (
    Column(Col.TRIAL_ID, "string", "", "name of the trial, such as t0007", required=True),
    Column(Col.NUMBER, "int64", "", "number of the trial in its sweep, from 0", required=True),
)
METHOD = Column(
    Col.METHOD, "string", "", "progressive, or a baseline: scratch, one_shot or assistant",
    required=True, before="progressive",
)  # fmt: skip
SCORE = Column(
    Col.VAL_SCORE, "float64", "", "the primary metric on validation; of one of which less is better"
    " its negative", better="max",
)  # fmt: skip
TESTED = Column(Col.TEST_EXAMPLES, "int64", "examples", "size of the test split")

COST = (
    Column(Col.PARAMS, "int64", "parameters", "size of the model", better="min"),
    Column(Col.FLOPS, "float64", "FLOPs", "per example, two per multiply-add", better="min"),
    Column(Col.LATENCY_MS, "float64", "ms", "median time of one example", better="min"),
)
FULL_TEACHER = (
    Column(Col.TEACHER_PARAMS, "int64", "parameters", "size of the full teacher"),
    Column(Col.TEACHER_FLOPS, "float64", "FLOPs", "of the full teacher, per example"),
    Column(Col.TEACHER_LATENCY_MS, "float64", "ms", "of the full teacher, one example"),
    Column(Col.TEACHER_SCORE, "float64", "", "of the full teacher on validation"),
)
SECONDS = (
    Column(Col.TEACHER_S, "float64", "s", "building teachers and their outputs", better="min"),
    Column(Col.STUDENT_S, "float64", "s", "the student's forward, backward, update", better="min"),
    Column(Col.EVALUATION_S, "float64", "s", "evaluating the student", better="min"),
    Column(Col.DATA_S, "float64", "s", "views, batches, look-ups of outputs", better="min"),
    Column(Col.WAITING_S, "float64", "s", "checkpoints and the search's answer", better="min"),
)
SPEED = Column(
    Col.EXAMPLES_PER_S, "float64", "examples/s", "training speed of the student", better="max"
)
WALL = Column(Col.WALL_S, "float64", "s", "wall time in all", better="min")
REGULARISATION = (
    Column(Col.WEIGHT_DECAY, "float64", "", "weight decay in force"),
    Column(Col.LABEL_SMOOTHING, "float64", "", "label smoothing in force"),
    Column(Col.DROPOUT, "float64", "", "dropout in force"),
)

TRIALS = Table(
    "trials",
    "one trial; validation columns are of its last evaluated epoch",
    (Col.NUMBER,),
    (
        *IDENTITY,
        METHOD,
        Column(Col.STATUS, "string", "", "running, finished, stopped, …", required=True),
        Column(Col.DECISION, "string", "", "why it ended"),
        Column(Col.CAUSE, "string", "", "what broke, which limit, which rung: one line"),
        Column(Col.ATTEMPT, "int64", "", "how often it was started, from 1; not by promotion"),
        Column(Col.SEED, "int64", "", "seed of initialisation and data order"),
        Column(Col.EPOCHS_DONE, "int64", "epochs", "finished epochs"),
        Column(Col.STAGES_DONE, "int64", "stages", "finished stages, init and fine-tune included"),
        Column(Col.OBJECTIVE, "float64", "", "what the search optimises, at the trial's end"),
        SCORE,
        *COST,
        *FULL_TEACHER,
        Column(Col.COMPOSITE_MODE, "string", "", "mode of the composite that was chosen"),
        Column(
            Col.COMPOSITE_SCORE, "float64", "", "of the composite on validation", better="max"
        ),
        Column(
            Col.COMPOSITE_FLOPS, "float64", "FLOPs", "of the composite, mean per example",
            better="min",
        ),
        Column(Col.STARTED_AT, "timestamp", "UTC", "start of its last attempt"),
        Column(Col.FIRST_STEP_AT, "timestamp", "UTC", "first update of the student"),
        Column(Col.ENDED_AT, "timestamp", "UTC", "end"),
        WALL,
        *SECONDS,
        SPEED,
        Column(Col.END_INDEX, "int64", "", "how many trials had ended before it"),
        Column(Col.RUNG_REACHED, "int64", "", "milestone of the highest scheduler rung it reached"),
        Column(Col.HOST, "string", "", "machine it ran on"),
        Column(Col.PID, "int64", "", "process it ran in"),
        Column(Col.MODEL, "string", "", "saved student, relative to the sweep"),
        Column(Col.COMPOSITE, "string", "", "saved composite, relative to the sweep"),
    ),
    ("val_",),
)  # fmt: skip
EPOCHS = Table(
    "epochs",
    "one epoch of a trial",
    (Col.NUMBER, Col.EPOCH),
    (
        *IDENTITY,
        Column(Col.EPOCH, "int64", "", "from 1, over the whole trial", required=True),
        Column(Col.STAGE, "int64", "", "0 init, 1 to N stages, N + 1 fine-tune"),
        Column(Col.PHASE, "string", "", "init, stage, labels or finetune"),
        Column(Col.LR, "float64", "", "learning rate of the last update"),
        Column(Col.TEMPERATURE, "float64", "", "of the divergence; null outside of stages"),
        *REGULARISATION,
        Column(Col.ADMITTED, "float64", "share", "examples that the curriculum admitted"),
        Column(Col.TRAIN_LOSS, "float64", "nats", "mean training loss, weighted", better="min"),
        Column(
            Col.LOSS_KL,
            "float64",
            "nats",
            "its divergence from the teacher, unweighted, mean over the batch",
        ),
        Column(
            Col.LOSS_AVG, "float64", "nats", "of transfer labels, unweighted, over the whole batch"
        ),
        Column(
            Col.LOSS_INIT, "float64", "nats", "of train labels, unweighted, over the whole batch"
        ),
        Column(
            Col.TRAIN_QUALITY,
            "float64",
            "share",
            "what answers on the batches trained on were worth, mean",
            better="max",
        ),
        SCORE,
        SPEED,
        *SECONDS,
        WALL,
        Column(Col.REPORTED_AT, "timestamp", "UTC", "when the epoch was reported"),
    ),
    ("val_",),
)
STAGES = Table(
    "stages",
    "one finished stage of a trial",
    (Col.NUMBER, Col.STAGE),
    (
        *IDENTITY,
        Column(Col.STAGE, "int64", "", "0 init, 1 to N stages, N + 1 fine-tune", required=True),
        Column(Col.PHASE, "string", "", "init, stage, labels or finetune"),
        Column(Col.TEACHER_LEVEL, "int64", "", "level of the ladder that taught; null without"),
        Column(Col.FIRST_EPOCH, "int64", "", "its first epoch, from 1"),
        Column(Col.LAST_EPOCH, "int64", "", "its last epoch"),
        Column(Col.ENDED_BY, "string", "", "plan, adaptive or target"),
        Column(Col.TEMPERATURE, "float64", "", "of the divergence; null outside of stages"),
        SCORE,
        *COST,
        Column(Col.LR_SCALE, "float64", "", "factor on the learning rate from here on"),
        *REGULARISATION,
        Column(Col.ADAPTATION, "string", "", "what was changed after it, and why"),
        SPEED,
        *SECONDS,
        WALL,
    ),
    ("val_",),
)
TEACHERS = Table(
    "teachers",
    "one level of the ladder that a trial used; trials that agree share them",
    (Col.NUMBER, Col.LEVEL),
    (
        *IDENTITY,
        Column(Col.LEVEL, "int64", "", "0 is the full teacher", required=True),
        Column(Col.KEY, "string", "", "digest of its artifact"),
        Column(Col.PARENT_KEY, "string", "", "digest of the level it was made from"),
        Column(Col.STATUS, "string", "", "full, pruned or kept_parent"),
        Column(Col.RATIO_ASKED, "float64", "share", "channels to be removed"),
        Column(Col.RATIO_APPLIED, "float64", "share", "channels removed, after backing off"),
        Column(Col.BACKOFFS, "int64", "", "ratios that were refused"),
        Column(Col.BLOCKS_DROPPED, "int64", "blocks", "whole blocks removed"),
        *COST,
        Column(Col.SCORE_BEFORE, "float64", "", "validation, before recovery"),
        SCORE,
        Column(Col.BUILD_S, "float64", "s", "time to build it, whoever did"),
        Column(Col.CACHED, "bool", "", "whether the store had it already"),
    ),
    ("val_",),
)
COMPOSITES = Table(
    "composites",
    "one way to combine a trial's student with its light teacher",
    (Col.NUMBER, Col.MODE),
    (
        *IDENTITY,
        Column(Col.MODE, "string", "", "student, teacher, ensemble or cascade", required=True),
        Column(Col.WEIGHT, "float64", "share", "of the teacher in an ensemble"),
        Column(Col.THRESHOLD, "float64", "share", "confidence below which a cascade defers"),
        Column(Col.CALIBRATION, "float64", "", "temperature of the cascade's confidence"),
        SCORE,
        Column(Col.FLOPS, "float64", "FLOPs", "mean per example", better="min"),
        Column(Col.LATENCY_MS, "float64", "ms", "mean time of one example", better="min"),
        Column(Col.DEFERRED, "float64", "share", "validation examples the teacher answers"),
        Column(Col.FINETUNED, "bool", "", "whether fine-tuning inside it helped and was kept"),
        Column(Col.CHOSEN, "bool", "", "the most accurate within the budget"),
        Column(Col.WITHIN_BUDGET, "bool", "", "whether it keeps to composite.max_flops"),
    ),
    ("val_",),
)
CONFIRMATIONS = Table(
    "confirmations",
    "one configuration trained anew with a fresh seed and measured on the test split, once",
    (Col.NUMBER, Col.SEED),
    (
        *IDENTITY,
        METHOD,
        Column(Col.SEED, "int64", "", "fresh seed of initialisation and order", required=True),
        Column(Col.STATUS, "string", "", "running, finished, failed, …", required=True),
        Column(Col.CAUSE, "string", "", "what broke: one line"),
        Column(Col.ATTEMPT, "int64", "", "how often it was started, from 1"),
        Column(Col.EPOCHS_DONE, "int64", "epochs", "finished epochs"),
        SCORE,
        TESTED,
        *COST,
        *FULL_TEACHER,
        Column(Col.COMPOSITE_MODE, "string", "", "mode of its composite; null where it has none"),
        Column(Col.COMPOSITE_SCORE, "float64", "", "of its composite on validation"),
        Column(Col.COMPOSITE_FLOPS, "float64", "FLOPs", "of its composite, mean per test example"),
        Column(
            Col.COMPOSITE_DEFERRED, "float64", "share", "test examples its light teacher answers"
        ),
        Column(Col.STARTED_AT, "timestamp", "UTC", "start of its last attempt"),
        Column(Col.ENDED_AT, "timestamp", "UTC", "end"),
        WALL,
        *SECONDS,
        Column(Col.HOST, "string", "", "machine it ran on"),
        Column(Col.PID, "int64", "", "process it ran in"),
        Column(Col.MODEL, "string", "", "saved student, relative to the sweep"),
        Column(Col.COMPOSITE, "string", "", "saved composite, relative to the sweep"),
    ),
    tuple(MEASURED),
)

TABLES: Mapping[str, Table] = {
    "trials": TRIALS,
    "epochs": EPOCHS,
    "stages": STAGES,
    "teachers": TEACHERS,
    "composites": COMPOSITES,
    "confirmations": CONFIRMATIONS,
}


def better_of(column: str) -> Literal["max", "min"] | None:
    """Which direction of a trial's column is better; None where neither is, or for no column."""
    found = TRIALS.by_name.get(column)
    if found is None and column.startswith("val_"):
        found = _metric_column("val_", column.removeprefix("val_"))
    return found.better if found else None


def _metric_column(prefix: str, metric: str) -> Column | None:
    """The column of a metric; None of a name that is none."""
    known = METRICS.get(metric.rpartition(".")[2])
    if known is None:
        return None
    better = known.mode if prefix in ("val_", "test_") else None
    meaning = f"{known.meaning}, {MEASURED[prefix]}"
    return Column(f"{prefix}{metric}", "float64", known.unit, meaning, better=better)


def metric_columns(table: Table, metrics: Sequence[str]) -> tuple[Column, ...]:
    """The columns of a task's metrics in a table.

    Agreement and divergence are of a student and its teacher, and of no others.
    """
    columns = []
    for prefix in table.measured:
        own = metrics[:1] if table is TEACHERS else metrics
        for metric in own:
            compares = metric.rpartition(".")[2] in ("agreement", "kl")
            if (prefix == "val_" and table is not COMPOSITES) or not compares:
                columns.append(_metric_column(prefix, metric))
    return tuple(column for column in columns if column is not None)


def all_columns(
    table: Table, params: Mapping[str, Type], metrics: Sequence[str] = IMAGE_METRICS
) -> tuple[Column, ...]:
    """A table's columns: in ``trials`` with one per search dimension, after the seed; those of the
    metrics stand before ``val_score``.

    Args:
        table: one of ``TABLES``.
        params: type by dimension path, from ``param_types``.
        metrics: of the sweep's task.
    """
    at = table.columns.index(SCORE)
    columns = table.columns[:at] + metric_columns(table, metrics) + table.columns[at:]
    if table is not TRIALS:
        return columns
    after = columns.index(table.by_name[Col.SEED]) + 1
    searched = tuple(
        Column(param_column(path), kind, "", f"value of the search dimension {path}")
        for path, kind in params.items()
    )
    return columns[:after] + searched + columns[after:]


def arrow_schema(
    table: Table, params: Mapping[str, Type], metrics: Sequence[str] = IMAGE_METRICS
) -> pa.Schema:
    """The Parquet schema: unit and meaning per field, table and version on the schema."""
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    fields = [
        pa.field(
            column.name,
            kinds[column.dtype],
            nullable=not column.required,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in all_columns(table, params, metrics)
    ]
    about = {
        VERSION_METADATA: str(SCHEMA_VERSION),
        "pdo_search.table": table.name,
        "pdo_search.meaning": table.meaning,
        "pdo_search.key": ",".join(table.key),
    }
    return pa.schema(fields, metadata=about)
