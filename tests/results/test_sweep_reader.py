"""Opening a sweep as a user does: DataFrames, best, front, model paths, bad directories."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import pdo_search
from pdo_search.analysis.sweep import open_sweep
from pdo_search.base.errors import InputError, PdoError
from pdo_search.results.writer import TableWriter

from .conftest import PARAMS, trial_row

MakeSweep = Callable[..., Path]


def test_the_package_opens_sweeps(make_sweep: MakeSweep) -> None:
    sweep = pdo_search.open_sweep(make_sweep(trial_row(0), trial_row(1)))
    assert sweep.trials["trial_id"].tolist() == ["t0000", "t0001"]
    assert repr(sweep).endswith("sweep', 2 of 8 trials)")
    assert sweep.info.metric == "val_accuracy"
    assert sweep.info.seeds == {"search": 3, "task": 0}


def test_types_are_numpys_where_complete_and_nullable_elsewhere(make_sweep: MakeSweep) -> None:
    rows = trial_row(0), trial_row(64, params=None, **{"param.curriculum.adaptive": None})
    trials = open_sweep(make_sweep(*rows)).trials
    assert trials["number"].dtype == np.int64
    assert trials["param.num_stages"].dtype == np.int64
    assert trials["params"].dtype == pd.Int64Dtype()
    assert trials["params"].tolist() == [1000, pd.NA]
    assert trials["param.curriculum.adaptive"].dtype == pd.BooleanDtype()
    assert trials["val_kl"].dtype == np.float64
    assert str(trials["started_at"].dtype) == "datetime64[us, UTC]"
    assert (trials["status"] == "finished").all()
    at = trials.columns.get_loc("seed")
    assert isinstance(at, int)
    assert trials.columns[at + 1] == "param.temperature"


def test_a_sweep_without_rows_can_be_opened(make_sweep: MakeSweep) -> None:
    sweep = open_sweep(make_sweep())
    for frame in (sweep.trials, sweep.epochs, sweep.stages, sweep.teachers, sweep.composites):
        assert frame.empty
    assert sweep.leaderboard().empty
    assert sweep.pareto().empty
    with pytest.raises(PdoError, match="no trial has finished yet"):
        sweep.best()


def test_a_sweep_without_tables_can_be_opened(make_sweep: MakeSweep) -> None:
    path = make_sweep()
    for part in path.rglob("*.parquet"):
        part.unlink()
    assert "objective" in open_sweep(path).trials.columns


def test_it_follows_a_running_sweep(make_sweep: MakeSweep) -> None:
    path = make_sweep(trial_row(0, status="running", objective=None))
    sweep = open_sweep(path)
    with pytest.raises(PdoError, match=r"\(1 running\)"):
        sweep.best()
    writer = TableWriter(path)
    writer.upsert("trials", {"number": 0, "status": "finished", "objective": 0.5})
    writer.flush()
    assert sweep.trials["status"].tolist() == ["running"]
    assert sweep.refresh().best()["trial_id"] == "t0000"


def test_best_and_leaderboard_go_by_the_sweeps_mode(make_sweep: MakeSweep) -> None:
    rows = trial_row(0), trial_row(5), trial_row(2), trial_row(9, status="failed")
    highest = open_sweep(make_sweep(*rows))
    assert highest.best().name == "t0005"
    assert highest.best()["param.temperature"] == 6.0
    assert highest.leaderboard(2)["trial_id"].tolist() == ["t0005", "t0002"]
    assert "param.teacher_order" in highest.leaderboard()
    lowest = open_sweep(make_sweep(*rows, metric="val_loss", mode="min"))
    assert lowest.best().name == "t0000"


def test_the_best_is_of_all_methods_or_of_the_one_that_is_asked_for(make_sweep: MakeSweep) -> None:
    rows = trial_row(0), trial_row(7, method="one_shot"), trial_row(5)
    sweep = open_sweep(make_sweep(*rows, baselines={"one_shot": 2, "scratch": 2}))
    assert (sweep.best().name, sweep.best()["method"]) == ("t0007", "one_shot")
    assert sweep.best(method="one_shot").name == "t0007"
    assert sweep.best(method="progressive").name == "t0005"
    assert sweep.leaderboard()["trial_id"].tolist() == ["t0007", "t0005", "t0000"]
    assert sweep.leaderboard(method="one_shot")["method"].tolist() == ["one_shot"]
    assert sweep.pareto()["trial_id"].tolist() == ["t0000", "t0005", "t0007"]
    assert sweep.pareto(method="progressive")["trial_id"].tolist() == ["t0000", "t0005"]
    assert repr(sweep).endswith("3 of 12 trials)")
    with pytest.raises(PdoError, match=r"no trial of scratch has finished yet"):
        sweep.best(method="scratch")
    with pytest.raises(InputError, match=r"no trials of this method.*assistant.*\n.*one_shot"):
        sweep.best(method="assistant")


def test_a_sweep_of_the_first_version_reads_as_progressive(make_sweep: MakeSweep) -> None:
    path = make_sweep(trial_row(0), trial_row(1))
    part = path / "trials" / "part-00000.parquet"
    old = parquet.read_table(part).drop_columns(["method"])
    stamp = {**old.schema.metadata, b"pdo_search.schema_version": b"1"}
    parquet.write_table(old.replace_schema_metadata(stamp), part)
    content = json.loads((path / "sweep.json").read_text())
    for key in ("method", "baselines"):
        del content[key]
    (path / "sweep.json").write_text(json.dumps({**content, "schema_version": 1}))
    sweep = open_sweep(path)
    assert set(sweep.trials["method"]) == {"progressive"}
    assert sweep.best().name == "t0001"
    assert sweep.confirmations.empty
    # Whoever writes again writes the new version, and no row is lost.
    writer = TableWriter(path, PARAMS)
    writer.flush()
    assert parquet.read_table(part)["method"].to_pylist() == ["progressive"] * 2
    # A file of this version that lacks the column is damaged.
    parquet.write_table(parquet.read_table(part).drop_columns(["method"]), part)
    with pytest.raises(InputError, match="the column method is missing"):
        _ = open_sweep(path).trials


def test_a_confirmation_of_an_older_version_lacks_the_teacher_and_the_composite(
    make_sweep: MakeSweep,
) -> None:
    path = make_sweep(trial_row(0))
    writer = TableWriter(path, PARAMS)
    row = {"number": 0, "trial_id": "t0000", "method": "progressive", "status": "finished"}
    writer.upsert("confirmations", {**row, "seed": 5, "test_accuracy": 0.5, "student_s": 1.0})
    writer.flush()
    part = path / "confirmations" / "part-00000.parquet"
    new = parquet.read_table(part)
    lacking = [n for n in new.column_names if n.startswith(("teacher_", "composite"))]
    old = new.drop_columns([n for n in lacking if n != "teacher_s"])
    stamp = {**old.schema.metadata, b"pdo_search.schema_version": b"2"}
    parquet.write_table(old.replace_schema_metadata(stamp), part)
    found = open_sweep(path).confirmations
    assert found["test_accuracy"].tolist() == [0.5]
    assert found["teacher_test_accuracy"].isna().all()
    # More seeds are added to it by this version.
    writer = TableWriter(path, PARAMS)
    more = {"seed": 6, "test_accuracy": 0.6, "teacher_test_accuracy": 0.9, "student_s": 1.0}
    writer.upsert("confirmations", {**row, **more})
    writer.flush()
    assert open_sweep(path).confirmations["teacher_test_accuracy"].notna().tolist() == [False, True]


def test_pareto_by_any_two_columns(make_sweep: MakeSweep) -> None:
    rows = [
        trial_row(0, latency_ms=1.0, val_ece=0.3),
        trial_row(1, latency_ms=2.0, val_ece=0.1),
        trial_row(2, latency_ms=3.0, val_ece=0.2),
    ]
    sweep = open_sweep(make_sweep(*rows))
    assert sweep.pareto()["trial_id"].tolist() == ["t0000", "t0001", "t0002"]
    assert sweep.pareto("latency_ms", "val_ece")["trial_id"].tolist() == ["t0000", "t0001"]
    with pytest.raises(InputError, match="did you mean 'latency_ms'"):
        sweep.pareto(x="latency")


def test_model_paths(make_sweep: MakeSweep) -> None:
    path = make_sweep(
        trial_row(0, model="models/t0000/student"),
        trial_row(1, status="stopped"),
        trial_row(2, model="../../etc"),
    )
    sweep = open_sweep(path)
    assert sweep.model_path("t0000") == f"{path}/models/t0000/student"
    with pytest.raises(InputError, match="t0001, stopped, has saved no model"):
        sweep.model_path("t0001")
    with pytest.raises(InputError, match="t0000, finished, has saved no composite"):
        sweep.model_path("t0000", "composite")
    with pytest.raises(InputError, match="no such trial"):
        sweep.model_path("t0009")
    with pytest.raises(InputError, match="outside of the sweep"):
        sweep.model_path("t0002")


def test_a_uri_opens_the_same(make_sweep: MakeSweep) -> None:
    assert len(open_sweep(make_sweep(trial_row(0)).as_uri()).trials) == 1


def test_no_sweep_is_the_users_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(InputError, match=r"no sweep directory.*\n.*pdo-search run"):
            open_sweep(path)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code from the sweep's directory was run",))


@pytest.mark.parametrize(
    "content",
    [b"", b"not JSON", b"[1]", b"\xff\xfe", b"[" * 100_000, pickle.dumps(Harmful()), b"{}"],
    ids=["empty", "text", "list", "binary", "deep", "pickle", "object"],
)
def test_a_damaged_sweep_file_is_named(make_sweep: MakeSweep, content: bytes) -> None:
    path = make_sweep()
    (path / "sweep.json").write_bytes(content)
    with pytest.raises(InputError, match=r"sweep\.json: is damaged"):
        open_sweep(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "'name' is not of type str"),
        ({"num_trials": True}, "'num_trials' is not of type int"),
        ({"resolved": []}, "'resolved' is not of type dict"),
        ({"mode": "up"}, "'mode' is max or min"),
        ({"baselines": {"scratch": "four"}}, "'baselines' is no mapping"),
        ({"schema_version": 99}, "newer version"),
    ],
)
def test_a_sweep_file_with_wrong_fields_is_refused(
    make_sweep: MakeSweep, change: dict[str, Any], message: str
) -> None:
    path = make_sweep()
    content = json.loads((path / "sweep.json").read_text())
    (path / "sweep.json").write_text(json.dumps({**content, "from_later": 1}))
    assert open_sweep(path).info.name == "digits"
    (path / "sweep.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=message):
        open_sweep(path)


@pytest.mark.parametrize("content", [b"", b"PAR1garbagePAR1", pickle.dumps(Harmful())])
def test_a_damaged_part_is_named(make_sweep: MakeSweep, content: bytes) -> None:
    path = make_sweep(trial_row(0))
    (path / "trials" / "part-00001.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"part-00001\.parquet: is damaged.*\n.*resume"):
        _ = open_sweep(path).trials


def test_parts_of_something_else_are_named(make_sweep: MakeSweep) -> None:
    path = make_sweep(trial_row(0))
    for table in (
        pa.table({"number": ["zero"], "trial_id": ["t0000"], "status": ["finished"]}),
        pa.table({"anything": [1]}),
        pa.table([pa.array([1]), pa.array([1])], names=["number", "number"]),
    ):
        parquet.write_table(table, path / "trials" / "other.parquet")
        with pytest.raises(InputError, match=r"other\.parquet: is damaged"):
            _ = open_sweep(path).trials
    clash = pa.table(
        {"number": [64], "trial_id": ["t0064"], "status": ["x"], "param.temperature": ["hot"]}
    )
    parquet.write_table(clash, path / "trials" / "other.parquet")
    with pytest.raises(InputError, match="contradict each other"):
        _ = open_sweep(path).trials


def test_columns_of_an_older_version_are_filled_with_nulls(make_sweep: MakeSweep) -> None:
    path = make_sweep(trial_row(0))
    part = path / "trials" / "part-00000.parquet"
    parquet.write_table(parquet.read_table(part).drop_columns(["objective", "pid"]), part)
    trials = open_sweep(path).trials
    assert trials["objective"].isna().all()
    assert trials["pid"].isna().all()


def test_the_order_of_rows_is_that_of_keys(tmp_path: Path, make_sweep: MakeSweep) -> None:
    path = make_sweep()
    writer = TableWriter(path, PARAMS)
    for number, epoch in [(70, 1), (2, 2), (2, 1), (1, 10)]:
        writer.upsert("epochs", {"trial_id": f"t{number:04d}", "number": number, "epoch": epoch})
    writer.flush()
    epochs = open_sweep(path).epochs
    keys = list(zip(epochs["number"], epochs["epoch"], strict=True))
    assert keys == [(1, 10), (2, 1), (2, 2), (70, 1)]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_stands_in_the_place_of_a_part_is_told(
    make: Callable[[Path], None], make_sweep: MakeSweep
) -> None:
    path = make_sweep(trial_row(0))
    part = path / "trials" / "part-00001.parquet"
    make(part)
    with pytest.raises(InputError, match="is no regular file") as caught:
        _ = open_sweep(path).trials
    assert str(part) in str(caught.value)
    assert "move it away" in str(caught.value)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["file", "pipe"])
def test_what_stands_in_the_place_of_a_table_is_told(
    make: Callable[[Path], None], make_sweep: MakeSweep
) -> None:
    path = make_sweep(trial_row(0))
    (path / "trials").rename(path / "kept")
    make(path / "trials")
    with pytest.raises(InputError, match="trials: cannot be read: Not a directory"):
        _ = open_sweep(path).trials
