"""Whether a machine sees a sweep's folders, and what is said if it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.search.tune.recorder import cannot_write
from pdo_search.trial import shared
from pdo_search.trial.messages import failure_message
from pdo_search.trial.shared import NotShared, check_visible, exchange, note, remove


def test_a_sweep_that_is_not_there_interrupts_and_says_what_to_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PATIENCE_S", 0.0)
    with pytest.raises(NotShared) as caught:
        check_visible(str(tmp_path))
    message = failure_message(caught.value)
    assert message["status"] == "interrupted"
    said = str(cannot_write("t0003", message["cause"]))
    assert str(tmp_path) in said
    assert "mount one folder at this path on every machine" in said
    assert "make space" not in said
    (tmp_path / "sweep.json").touch()
    check_visible(str(tmp_path))
    check_visible("s3://bucket/sweeps/one")


def test_notes_are_exchanged_in_folders_that_are_shared_alone(tmp_path: Path) -> None:
    here, elsewhere = str(tmp_path / "a folder"), str(tmp_path / "other")
    note(here, "driver")
    wrong = exchange([here, elsewhere], "driver", "worker")
    assert set(wrong) == {elsewhere}
    assert remove(here, "worker")
    assert not remove(here, "worker")
    assert not remove(elsewhere, "worker")
    assert not Path(elsewhere).exists()
    assert remove(here, "driver")
    assert list(Path(here).iterdir()) == []
