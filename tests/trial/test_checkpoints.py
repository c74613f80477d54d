"""Where a trial's bytes go, on a disk and behind a URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.base.errors import StoreError
from pdo_search.base.storage import Storage
from pdo_search.trial.checkpoints import CheckpointFile


@pytest.fixture(params=["path", "uri"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "sweep"
    return str(folder) if request.param == "path" else folder.as_uri()


def test_a_checkpoint_is_replaced_and_read(place: str) -> None:
    file = CheckpointFile(place, "t0001")
    assert file.read() is None
    for data in (b"first", b"second"):
        file.write(data)
        assert CheckpointFile(place, "t0001").read() == data


def test_one_that_cannot_be_used_is_kept_aside(place: str, tmp_path: Path) -> None:
    file = CheckpointFile(place, "t0001")
    file.write(b"torn")
    file.set_aside(ValueError("torn"))
    assert file.read() is None
    (aside,) = tmp_path.rglob("damaged-*.ckpt")
    assert aside.read_bytes() == b"torn"


def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CheckpointFile(str(tmp_path), "t0001")
    file.write(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space"):
        file.write(b"new")
    assert file.read() == b"old"
    assert [p.name for p in tmp_path.rglob("*")] == ["t0001", "state.ckpt"]


def test_models_are_published_and_replaced(place: str, tmp_path: Path) -> None:
    for text in ("one", "two"):
        source = tmp_path / text
        (source / "student").mkdir(parents=True)
        (source / "student" / "model.json").write_text(text)
        Storage(place).publish(source, "t0001")
    published = tmp_path / "sweep" / "t0001"
    assert (published / "student" / "model.json").read_text() == "two"
    assert [p.name for p in published.parent.iterdir()] == ["t0001"]
