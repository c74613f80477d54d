"""The tables' schema: complete, consistent, and the same in code and files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdo_search.config.metrics import TASK_METRICS
from pdo_search.config.search import SearchConfig
from pdo_search.config.space import Dimension, Space
from pdo_search.results.schema import (
    TABLES,
    Col,
    all_columns,
    arrow_schema,
    better_of,
    decode_param,
    encode_param,
    param_types,
    point_of,
)

ROOT = Path(__file__).parents[2]


def choice(*values: Any) -> Dimension:
    return Dimension("x", "choice", choices=values)


def test_every_column_has_one_name_and_a_meaning() -> None:
    for table in TABLES.values():
        assert len(table.by_name) == len(table.columns)
        assert all(column.meaning for column in table.columns)
        assert table.key[0] == Col.NUMBER
        assert all(table.by_name[name].required for name in table.key)


CODE = sorted(
    p for top in ("pdo_search", "tests", "experiments") for p in (ROOT / top).rglob("*.py")
)


def test_every_constant_in_the_code_names_a_column() -> None:
    """The constants are made of the records' fields: a type checker cannot tell a misspelt one."""
    asked = {
        name for path in CODE for name in re.findall(r"\bCol\.([A-Z][A-Z_]*)", path.read_text())
    }
    assert {getattr(Col, name) for name in asked} == {name.lower() for name in asked}
    assert Col.VAL_SCORE == "val_score"
    with pytest.raises(AttributeError, match="no table has a column 'val_scor'"):
        Col.__getattr__("VAL_SCOR")


def test_metadata_explains_a_field_to_whoever_reads_the_file() -> None:
    schema = arrow_schema(TABLES["trials"], {"temperature": "float64"})
    assert schema.field("latency_ms").metadata == {
        b"unit": b"ms",
        b"meaning": b"median time of one example",
    }
    assert schema.metadata[b"pdo_search.schema_version"] == b"4"
    assert schema.names.index("param.temperature") == schema.names.index("seed") + 1
    assert (
        "param.temperature" not in arrow_schema(TABLES["epochs"], {"temperature": "float64"}).names
    )


def test_the_metrics_that_the_loop_evaluates_have_columns() -> None:
    for table in ("trials", "epochs", "stages", "confirmations"):
        columns = {column.name for column in all_columns(TABLES[table], {}, ("mae", "a.accuracy"))}
        assert {"val_mae", "val_a.accuracy", "val_score"} <= columns
        assert "val_accuracy" not in columns
    tested = {column.name for column in all_columns(TABLES["confirmations"], {})}
    assert {"test_f1", "teacher_test_f1", "composite_test_f1"} <= tested
    assert not {"test_agreement", "teacher_test_kl"} & tested
    assert {f"val_{n}" for n in TASK_METRICS["image_classification"]} <= tested


@pytest.mark.parametrize("metric", ["val_accuracy", "val_f1", "val_loss", "val_ece"])
def test_directions_agree_with_the_search(metric: Any) -> None:
    assert SearchConfig(metric=metric, mode=better_of(metric) or "max").mode == better_of(metric)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (Dimension("x", "int", 1, 4), "int64"),
        (Dimension("x", "float", 1, 4), "float64"),
        (choice(1, 2, None), "int64"),
        (choice(1, 2.5), "float64"),
        (choice(True, False), "bool"),
        (choice("a", "b"), "string"),
        (choice(None, 2.0, "auto"), "string"),
        (choice(True, 1), "string"),
        (choice(None), "string"),
    ],
)
def test_a_dimension_has_the_friendliest_type(dimension: Dimension, expected: str) -> None:
    assert param_types([dimension]) == {"x": expected}


@pytest.mark.parametrize(
    "values", [(1, 2, None), (1, 2.5), (True, False), (None, 2.0, "auto"), (True, 1, "1x")]
)
def test_a_choice_comes_back_as_it_was(values: tuple[Any, ...]) -> None:
    dimension = choice(*values)
    kind = param_types([dimension])["x"]
    for value in values:
        stored = encode_param(value, kind)
        if kind == "float64" and stored is not None:
            stored = float(stored)
        back = decode_param(dimension, stored)
        assert (type(back), back) == (type(value), value)


def test_a_null_choice_survives_pandas() -> None:
    assert decode_param(choice(1, None), float("nan")) is None


def test_a_point_comes_back_from_a_row() -> None:
    space = Space((Dimension("loss.kl", "float", 0, 1), choice("a", 1)))
    assert point_of({"param.loss.kl": 0.5, "param.x": "1", "number": 3}, space) == {
        "loss.kl": 0.5,
        "x": 1,
    }
    with pytest.raises(ValueError, match="choices"):
        point_of({"param.loss.kl": 0.5, "param.x": "c"}, space)


def test_results_import_neither_torch_nor_ray_nor_what_is_slow() -> None:
    code = (
        "import sys, pdo_search, pdo_search.results.schema, pdo_search.results.reader,"
        " pdo_search.results.writer, pdo_search.results.sweepfile;"
        "print([m for m in ('torch', 'ray', 'pandas', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
