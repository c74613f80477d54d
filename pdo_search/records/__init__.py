"""Typed rows: distillation fills them, the driver adds whose they are, ``results`` stores them.

On the ground: knows metrics, and neither files nor torch.
"""

from pdo_search.records.columns import (
    Column,
    Family,
    Measured,
    Part,
    Row,
    Type,
    columns_of,
    tables_of,
)
from pdo_search.records.rows import (
    PARAM,
    RECORDS,
    CompositeRow,
    ConfirmationRow,
    Cost,
    EpochRow,
    FullTeacher,
    Identity,
    Seconds,
    StageRow,
    TeacherRow,
    Trained,
    TrialRow,
)
from pdo_search.records.status import Decision, TrialStatus

__all__ = [
    "PARAM",
    "RECORDS",
    "Column",
    "CompositeRow",
    "ConfirmationRow",
    "Cost",
    "Decision",
    "EpochRow",
    "Family",
    "FullTeacher",
    "Identity",
    "Measured",
    "Part",
    "Row",
    "Seconds",
    "StageRow",
    "TeacherRow",
    "Trained",
    "TrialRow",
    "TrialStatus",
    "Type",
    "columns_of",
    "tables_of",
]
