"""A store and a trial's files on S3, as moto emulates it over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

import pdo_search
from pdo_search.base.storage import Storage
from pdo_search.config.model import ModelConfig
from pdo_search.models.modelfile import InferenceModel, save_model
from pdo_search.store import Store, artifacts
from pdo_search.trial.checkpoints import CheckpointFile
from pdo_search.trial.shared import exchange, note, remove

from ..pictures import build_model, picture_spec


def test_what_one_machine_builds_another_fetches(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "data").write_text("content")

    found = []
    for machine in ("first", "second"):
        monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / machine))
        monkeypatch.setattr(artifacts, "_VERIFIED", set())
        found.append(Store(f"{bucket}/.store").get_or_build("thing", {"a": 1}, build))
    assert [one.built for one in found] == [True, False]
    assert (found[1].path / "inner" / "data").read_text() == "content"


def test_checkpoints_and_models(bucket: str, tmp_path: Path) -> None:
    checkpoint = CheckpointFile(bucket, "checkpoints/t0000")
    assert checkpoint.read() is None
    checkpoint.write(b"state")
    assert CheckpointFile(bucket, "checkpoints/t0000").read() == b"state"
    arch = ModelConfig(arch="small_convnet")
    model = build_model(arch, (1, 8, 8), 3, seed=0)
    spec = picture_spec(arch, (1, 8, 8), "abc")
    save_model(tmp_path / "out" / "student", model, spec)
    Storage(bucket).publish(tmp_path / "out", "models/t0000")
    loaded = pdo_search.load_model(f"{bucket}/models/t0000/student")
    assert isinstance(loaded, InferenceModel)
    assert loaded.spec.class_names == ("a", "b", "c")


def test_machines_exchange_notes_in_a_bucket_and_leave_none(bucket: str) -> None:
    elsewhere = "s3://another-bucket/sweeps"
    note(bucket, "driver")
    wrong = exchange([bucket, elsewhere], "driver", "worker")
    assert set(wrong) == {elsewhere}
    assert remove(bucket, "worker")
    assert remove(bucket, "driver")
    assert not remove(bucket, "driver")
