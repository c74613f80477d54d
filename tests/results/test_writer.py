"""The writer: rows in, Parquet out; resume, damage, full disks, object stores."""

from __future__ import annotations

import errno
import io
import logging
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from pdo_search.base.errors import InputError, StoreError
from pdo_search.results import writer as writer_module
from pdo_search.results.parts import encode_part, parse_part
from pdo_search.results.schema import TABLES
from pdo_search.results.writer import TableWriter

from .conftest import PARAMS, trial_row


def epoch_row(number: int, epoch: int, **columns: Any) -> dict[str, Any]:
    return {"trial_id": f"t{number:04d}", "number": number, "epoch": epoch, **columns}


def visible(sweep: Path) -> list[str]:
    return sorted(p.relative_to(sweep).as_posix() for p in sweep.rglob("*.parquet"))


def test_rows_come_back_with_their_types(tmp_path: Path) -> None:
    class Word(StrEnum):
        RUNNING = "running"

    writer = TableWriter(tmp_path, PARAMS)
    writer.upsert(
        "trials",
        trial_row(
            7,
            status=Word.RUNNING,
            params=np.int64(12),
            val_accuracy=np.float32(0.5),
            val_kl=math.inf,
            val_ece=math.nan,
            val_loss=None,
            started_at=0.25,
            ended_at=datetime(2026, 1, 2, tzinfo=UTC),
        ),
    )
    writer.flush()
    for row in (writer.get("trials", 7), TableWriter(tmp_path).get("trials", 7)):
        assert row is not None
        assert (row["status"], row["params"], row["val_accuracy"]) == ("running", 12, 0.5)
        assert math.isnan(row["val_kl"])
        assert math.isnan(row["val_ece"])
        assert row["val_loss"] is None
        assert row["started_at"] == datetime(1970, 1, 1, 0, 0, 0, 250_000, UTC)
        assert row["ended_at"] == datetime(2026, 1, 2, tzinfo=UTC)
        assert row["param.teacher_order"] == "descending"
    frame = pd.read_parquet(tmp_path / "trials")
    assert frame["number"].dtype == np.int64
    assert frame["param.curriculum.adaptive"].dtype == bool
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"


def test_an_upsert_changes_only_what_it_gives(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    writer.upsert("trials", trial_row(1, status="running", objective=0.1))
    writer.upsert("trials", {"number": 1, "status": "stopped", "objective": None})
    row = writer.get("trials", 1)
    assert row is not None
    assert (row["status"], row["objective"], row["param.temperature"]) == ("stopped", None, 2.0)
    assert len(list(writer.rows("trials"))) == 1


def test_keys_can_be_asked_for_in_any_form(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path)
    writer.upsert("epochs", epoch_row(3, 2))
    assert writer.has("epochs", (3, 2))
    assert writer.has("epochs", {"number": 3, "epoch": 2, "lr": 0.1})
    assert not writer.has("epochs", (3, 1))
    assert not writer.has("trials", 3)
    assert writer.get("epochs", (300, 1)) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"number": 1, "valaccuracy": 0.5}, "trials has no column 'valaccuracy'"),
        ({"status": "running"}, "lacks its key column 'number'"),
        ({"number": 1, "status": "running"}, "lacks the column 'trial_id'"),
        (trial_row(1, status=None), "trials.status cannot be null"),
        (trial_row(1, params=1.5), "trials.params is int64, not 1.5"),
        (trial_row(1, params=True), "trials.params is int64, not True"),
        (trial_row(1, pid=2**70), "trials.pid is int64"),
        (trial_row(1, val_loss="low"), "trials.val_loss is float64, not 'low'"),
        (trial_row(1, cause=3), "trials.cause is string, not 3"),
        (trial_row(1, started_at=datetime(2026, 1, 1)), "trials.started_at is timestamp"),
    ],
)
def test_a_bad_row_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    with pytest.raises(ValueError, match=message):
        writer.upsert("trials", row)
    assert not list(writer.rows("trials"))


def test_all_tables_can_be_read_before_they_have_rows(tmp_path: Path) -> None:
    TableWriter(tmp_path, PARAMS).flush()
    for name, table in TABLES.items():
        frame = pd.read_parquet(tmp_path / name)
        assert frame.empty
        assert {column.name for column in table.columns} <= set(frame.columns)


def test_only_changed_blocks_are_rewritten(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    for number in (0, 64, 200):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    parts = [tmp_path / "trials" / f"part-0000{block}.parquet" for block in (0, 1, 3)]
    assert sorted((tmp_path / "trials").iterdir()) == parts
    before = [part.stat().st_ino for part in parts]
    writer.upsert("trials", {"number": 64, "status": "failed"})
    writer.flush()
    after = [part.stat().st_ino for part in parts]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert pd.read_parquet(tmp_path / "trials")["status"].tolist() == [
        "finished",
        "failed",
        "finished",
    ]


def test_an_unforced_flush_waits_for_its_turn(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS, interval_s=60)
    assert writer.flush(force=False)
    writer.upsert("trials", trial_row(0))
    assert not writer.flush(force=False)
    assert pd.read_parquet(tmp_path / "trials").empty
    assert writer.flush()
    assert len(pd.read_parquet(tmp_path / "trials")) == 1


def test_resume_finds_everything_and_goes_on(tmp_path: Path) -> None:
    first = TableWriter(tmp_path, PARAMS)
    for number in range(0, 640, 32):
        first.upsert("trials", trial_row(number))
        for epoch in (2, 1):
            first.upsert("epochs", epoch_row(number, epoch, val_accuracy=0.5))
    first.flush()
    second = TableWriter(tmp_path)
    assert list(second.rows("trials")) == list(first.rows("trials"))
    assert [(r["number"], r["epoch"]) for r in second.rows("epochs")] == [
        (number, epoch) for number in range(0, 640, 32) for epoch in (1, 2)
    ]
    second.upsert("epochs", epoch_row(32, 3, val_accuracy=0.6))
    second.upsert("epochs", epoch_row(0, 1, val_accuracy=0.7))
    second.flush()
    frame = pd.read_parquet(tmp_path / "epochs")
    assert len(frame) == 41
    assert not frame.duplicated(["number", "epoch"]).any()
    assert frame.set_index(["number", "epoch"]).loc[(0, 1), "val_accuracy"] == 0.7


def test_old_blocks_leave_memory_and_come_back(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    for number in range(0, 64 * 30, 64):
        writer.upsert("trials", trial_row(number))
        writer.flush()
    assert len(writer._blocks["trials"]) <= writer_module.BLOCKS_KEPT
    writer.upsert("trials", {"number": 64, "status": "failed"})
    writer.flush()
    frame = pd.read_parquet(tmp_path / "trials")
    assert len(frame) == 30
    assert frame.loc[frame["number"] == 64, "param.temperature"].item() == 65.0


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    TableWriter(tmp_path, PARAMS).flush()
    leftover = tmp_path / ".trials-part-00000.parquet.tmp-4711"
    leftover.write_bytes(b"PAR1 half")
    TableWriter(tmp_path)
    assert not leftover.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"\x00" * 4096, b"{}", None],
    ids=["empty", "short", "zeros", "json", "truncated"],
)
def test_a_damaged_block_is_set_aside_and_the_others_stay(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    first = TableWriter(tmp_path, PARAMS)
    for number in (0, 64, 128):
        first.upsert("trials", trial_row(number))
    first.flush()
    part = tmp_path / "trials" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20] if content is None else content)
    kept = part.read_bytes()
    with caplog.at_level(logging.WARNING):
        second = TableWriter(tmp_path, PARAMS)
    assert second.damaged == [".damaged-trials-part-00001.parquet"]
    assert (tmp_path / second.damaged[0]).read_bytes() == kept
    assert "part-00001.parquet is damaged" in caplog.text
    assert [row["number"] for row in second.rows("trials")] == [0, 128]
    second.upsert("trials", trial_row(64))
    second.flush()
    assert pd.read_parquet(tmp_path / "trials")["number"].tolist() == [0, 64, 128]
    # A second one of the same name does not overwrite the first.
    part.write_bytes(b"again")
    assert TableWriter(tmp_path).damaged == [".damaged-trials-part-00001.parquet.2"]
    assert (tmp_path / ".damaged-trials-part-00001.parquet").read_bytes() == kept


def test_good_parquet_that_is_no_part_of_the_table_is_set_aside(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    writer.upsert("trials", trial_row(5))
    writer.upsert("epochs", epoch_row(5, 1))
    writer.flush()
    (tmp_path / "trials" / "part-00000.parquet").rename(tmp_path / "trials" / "part-00007.parquet")
    parquet.write_table(pa.table({"number": ["five"]}), tmp_path / "epochs" / "part-00000.parquet")
    again = TableWriter(tmp_path)
    assert sorted(again.damaged) == [
        ".damaged-epochs-part-00000.parquet",
        ".damaged-trials-part-00007.parquet",
    ]
    assert not list(again.rows("trials"))


def test_tables_of_a_newer_version_are_not_rewritten(tmp_path: Path) -> None:
    TableWriter(tmp_path, PARAMS).flush()
    part = tmp_path / "stages" / "part-00000.parquet"
    table = parquet.read_table(part)
    newer = {**table.schema.metadata, b"pdo_search.schema_version": b"99"}
    parquet.write_table(table.replace_schema_metadata(newer), part)
    with pytest.raises(InputError, match=r"part-00000.parquet.*newer version") as caught:
        TableWriter(tmp_path)
    assert "upgrade" in str(caught.value)
    extra = table.append_column("invented", pa.array([], pa.int64()))
    parquet.write_table(extra, part)
    with pytest.raises(InputError, match="invented"):
        TableWriter(tmp_path)


def test_rows_without_a_trial_are_kept_apart(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    for number in (0, 1, 70):
        writer.upsert("epochs", epoch_row(number, 1))
    for number in (0, 70):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    again = TableWriter(tmp_path)
    assert again.drop_orphans() == [".orphans-epochs-part-00000.parquet"]
    again.flush()
    assert again.drop_orphans() == []
    kept = tmp_path / ".orphans-epochs-part-00000.parquet"
    whole = parse_part(TABLES["epochs"], kept.read_bytes())
    assert whole["number"].to_pylist() == [0, 1]
    assert sorted(row["number"] for row in TableWriter(tmp_path).rows("epochs")) == [0, 70]


def test_another_experiment_is_refused(tmp_path: Path) -> None:
    TableWriter(tmp_path, {"temperature": "float64"}).flush()
    with pytest.raises(InputError, match="temperature is float64 there"):
        TableWriter(tmp_path, {"temperature": "string"})


def test_parts_of_an_older_schema_are_brought_to_the_present_one(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    for number in (0, 64):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    part = tmp_path / "trials" / "part-00000.parquet"
    parquet.write_table(parquet.read_table(part).drop_columns(["val_kl"]), part)
    again = TableWriter(tmp_path)
    again.flush()
    schemas = [parquet.read_schema(p) for p in (tmp_path / "trials").iterdir()]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    writer.upsert("trials", trial_row(0, status="running"))
    writer.flush()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.upsert("trials", {"number": 0, "status": "finished"})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"trials/part-00000.parquet.*No space left.*resume"):
            writer.flush()
    assert pd.read_parquet(tmp_path / "trials")["status"].tolist() == ["running"]
    assert not list(tmp_path.glob(".*"))
    assert writer.flush()
    assert pd.read_parquet(tmp_path / "trials")["status"].tolist() == ["finished"]


def test_a_file_uri_is_a_local_path(tmp_path: Path) -> None:
    sweep = tmp_path / "with space"
    writer = TableWriter(sweep.as_uri(), PARAMS)
    writer.upsert("trials", trial_row(0))
    writer.flush()
    assert len(pd.read_parquet(sweep / "trials")) == 1


def test_an_object_store_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fs._MockFileSystem()
    opener = SimpleNamespace(from_uri=lambda uri: (store, uri.partition("://")[2]))
    monkeypatch.setattr(fs, "FileSystem", opener)
    writer = TableWriter("mock://bucket/sweep/", PARAMS)
    for number in (0, 64):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    again = TableWriter("mock://bucket/sweep", PARAMS)
    assert list(again.rows("trials")) == list(writer.rows("trials"))
    again.upsert("trials", {"number": 0, "status": "failed"})
    again.flush()
    stored = []
    for part in ("part-00000", "part-00001"):
        with store.open_input_file(f"bucket/sweep/trials/{part}.parquet") as file:
            stored += parquet.ParquetFile(file).read()["status"].to_pylist()
    assert stored == ["failed", "finished"]
    with store.open_output_stream("bucket/sweep/trials/part-00001.parquet") as stream:
        stream.write(b"garbage")
    assert TableWriter("mock://bucket/sweep").damaged == [".damaged-trials-part-00001.parquet"]


def test_an_unusable_uri_is_the_users_error() -> None:
    with pytest.raises(InputError, match="nosuch://bucket"):
        TableWriter("nosuch://bucket/sweep", PARAMS)


def test_duckdb_reads_the_same(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    writer = TableWriter(tmp_path, PARAMS)
    for number in (0, 64, 65):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    query = f"select count(*), max(number), sum(params) from '{tmp_path}/trials/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(3, 65, 1000 + 65_000 + 66_000)]


def test_polars_reads_the_same(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    writer = TableWriter(tmp_path, PARAMS)
    for number in (0, 64, 65):
        writer.upsert("trials", trial_row(number))
    writer.flush()
    assert polars.read_parquet(tmp_path / "trials")["number"].to_list() == [0, 64, 65]


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_any_flipped_bit_is_noticed(tmp_path: Path, table: str) -> None:
    writer = TableWriter(tmp_path)
    for number in range(20):
        identity = {"trial_id": f"t{number:04d}", "number": number}
        trial = {**identity, "status": "running", "method": "progressive"}
        writer.upsert("trials", {**trial, "val_accuracy": number / 7})
        writer.upsert("epochs", {**identity, "epoch": 1, "lr": number / 7, "val_accuracy": 0.5})
    writer.flush()
    whole = (tmp_path / table / "part-00000.parquet").read_bytes()
    key = whole.index(b"pdo_search.sha256")
    for place in (*range(0, len(whole), 37), len(whole) - 1):
        if key <= place < key + len("pdo_search.sha256"):
            continue  # The one place that no digest covers: the name under which it stands.
        content = bytearray(whole)
        content[place] ^= 4
        (tmp_path / table / "part-00000.parquet").write_bytes(content)
        assert TableWriter(tmp_path).damaged, place


def test_trials_of_twenty_thousand_epochs_can_be_read_back() -> None:
    trials, epochs = 64, 20_000
    numbers = np.repeat(np.arange(trials), epochs)
    columns = {
        "trial_id": pa.array([f"t{number:04d}" for number in range(trials)]).take(numbers),
        "number": pa.array(numbers),
        "epoch": pa.array(np.tile(np.arange(1, epochs + 1), trials)),
        "phase": pa.repeat("stage", trials * epochs),
    }
    data = encode_part(pa.table(columns))
    assert parquet.ParquetFile(io.BytesIO(data)).metadata.num_row_groups == 1
    assert parse_part(TABLES["epochs"], data).equals(pa.table(columns))


def test_a_part_of_endless_columns_is_refused_before_it_is_parsed() -> None:
    names = [f"param.{number:05d}" for number in range(60_000)]
    part = pa.table({name: pa.array([], pa.int64()) for name in names})
    data = io.BytesIO()
    parquet.write_table(part, data)
    with pytest.raises(ValueError, match="its footer claims"):
        parse_part(TABLES["trials"], data.getvalue())


def test_a_part_of_more_columns_than_dimensions_can_be_is_refused() -> None:
    part = pa.table({f"c{n}": pa.array([1]) for n in range(2_001)})
    data = io.BytesIO()
    parquet.write_table(part, data)
    with pytest.raises(ValueError, match="it has 2,001 columns, more than 2,000"):
        parse_part(TABLES["trials"], data.getvalue())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_stands_in_the_place_of_a_part_is_told(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    writer = TableWriter(tmp_path, PARAMS)
    writer.upsert("trials", trial_row(0))
    writer.flush()
    part = tmp_path / "trials" / "part-00001.parquet"
    make(part)
    with pytest.raises(InputError, match="is no regular file") as caught:
        TableWriter(tmp_path, PARAMS)
    assert str(part) in str(caught.value)
    assert "move it away, then resume" in str(caught.value)
    part.rmdir() if part.is_dir() else part.unlink()
    assert TableWriter(tmp_path, PARAMS).damaged == []
