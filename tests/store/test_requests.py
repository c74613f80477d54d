"""What a trial's files cost on S3: a request for each write, two for each read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdo_search.base import remote
from pdo_search.base.storage import Storage
from pdo_search.config.model import ModelConfig
from pdo_search.models.modelfile import save_model
from pdo_search.results.schema import TABLES
from pdo_search.results.writer import TableWriter
from pdo_search.store import Store
from pdo_search.trial.checkpoints import CheckpointFile

from ..faults.object_store import BUCKET, ObjectStore, object_store
from ..pictures import build_model, picture_spec
from ..s3 import s3_settings
from .conftest import put

SWEEP = f"s3://{BUCKET}/sweeps/one"
TRIAL = {"number": 0, "trial_id": "t0000", "method": "progressive", "status": "running"}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    pytest.importorskip("moto.server")
    pytest.importorskip("boto3")
    with object_store() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_settings(found.address).items():
            patch.setenv(name, value)
        remote._filesystem.cache_clear()
        Storage(SWEEP).write("warm", b"")
        yield found
        remote._filesystem.cache_clear()


@pytest.fixture
def asked(store: ObjectStore) -> list[tuple[str, str]]:
    """The requests of this test."""
    store.requests.clear()
    return store.requests


def methods(asked: list[tuple[str, str]]) -> list[str]:
    """Methods of the requests since this was asked last."""
    found = [method for method, _ in asked]
    asked.clear()
    return found


def test_a_part_of_a_table_is_one_request(asked: list[tuple[str, str]]) -> None:
    writer = TableWriter(SWEEP, {"temperature": "float64"})
    assert methods(asked) == ["GET"] * len(TABLES), "each table is listed"
    writer.upsert("trials", {**TRIAL, "seed": 0, "attempt": 1})
    writer.flush_table("trials")
    assert methods(asked) == ["PUT"]
    writer.flush()
    assert methods(asked) == ["PUT"] * (len(TABLES) - 1), "tables without rows are tables"
    writer.upsert("trials", {**TRIAL, "status": "finished"})
    writer.flush()
    assert methods(asked) == ["PUT"]
    TableWriter(SWEEP)
    assert Counter(methods(asked)) == {"GET": 2 * len(TABLES), "HEAD": len(TABLES)}


def test_a_checkpoint_is_one_request_to_write_and_two_to_read(
    asked: list[tuple[str, str]],
) -> None:
    checkpoint = CheckpointFile(SWEEP, "checkpoints/t0000")
    assert checkpoint.read() is None
    assert methods(asked) == ["HEAD"]
    state = os.urandom(9 << 20)
    checkpoint.write(state)
    assert methods(asked) == ["PUT"]
    assert CheckpointFile(SWEEP, "checkpoints/t0000").read() == state
    assert methods(asked) == ["HEAD", "GET"]


def test_a_model_is_a_request_for_each_file(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    arch = ModelConfig(arch="small_convnet")
    model = build_model(arch, (1, 8, 8), 3, seed=0)
    save_model(tmp_path / "student", model, picture_spec(arch, (1, 8, 8), "abc"))
    Storage(SWEEP).publish(tmp_path, "models/t0000")
    assert methods(asked) == ["PUT", "PUT"], "weights, and what they are"


def test_an_artifact_that_is_built_is_looked_for_twice_and_leased(
    asked: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path))
    put(Store(f"s3://{BUCKET}/store"), key=1)
    asked.clear()
    put(Store(f"s3://{BUCKET}/store"), key=2)
    lease = ["GET", "PUT"]
    files = ["PUT"] * 3
    assert methods(asked) == ["HEAD", *lease, "HEAD", *files, "DELETE"]
