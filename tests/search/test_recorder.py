"""What the recorder makes of deaths: rows, and whether a trial is tried again. No cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayActorError
from rich.console import Console

from pdo_search.base.clock import SteadyClock
from pdo_search.results.schema import TrialStatus
from pdo_search.results.writer import TableWriter
from pdo_search.search.progress import Progress
from pdo_search.search.retries import Retries
from pdo_search.search.tune.by_method import SchedulerByMethod
from pdo_search.search.tune.recorder import Recorder

GONE = RayActorError(error_msg="The actor is dead because its node has died. Node Id: 0a")


class Trial:
    """As much of Tune's trial as the recorder looks at."""

    should_recover: Any = None

    def __init__(self, error: Exception, folder: Path) -> None:
        self.config = {"number": 0, "trial_id": "t0000", "method": "progressive", "point": {}}
        self.temporary_state = SimpleNamespace(ray_actor=None)
        self.pickled_error_file = str(folder / "error.pkl")
        Path(self.pickled_error_file).write_bytes(cloudpickle.dumps(error))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    progress = Progress(Console(quiet=True), num_trials=1, metric="val_accuracy", mode="max")
    scheduler = SchedulerByMethod({})
    return Recorder(
        TableWriter(tmp_path), progress, scheduler, metric="val_accuracy", seed=0, end_index=0,
        retries=Retries(1), clock=SteadyClock(),
    )  # fmt: skip


def test_a_trial_has_a_row_before_anything_hangs_on_it(recorder: Recorder, tmp_path: Path) -> None:
    recorder.on_trial_start(0, [], Trial(ActorDiedError(), tmp_path))
    # As a driver finds it that comes after a killed one.
    (row,) = TableWriter(tmp_path).rows("trials")
    assert (row["number"], row["status"]) == (0, "running")


def test_the_screen_says_finished_when_the_disk_does(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(ActorDiedError(), tmp_path)
    recorder.on_trial_start(0, [], trial)
    said = []

    def ended(number: int, status: TrialStatus, cause: str | None) -> None:
        (row,) = TableWriter(tmp_path).rows("trials")
        said.append((number, status, row["status"]))

    monkeypatch.setattr(recorder._progress, "ended", ended)
    recorder.on_trial_result(0, [], trial, {"status": "finished"})
    assert said == [(0, "finished", "finished")]


def row_of(recorder: Recorder) -> dict[str, Any]:
    row = recorder.writer.get("trials", 0)
    assert row is not None
    return row


def test_a_trial_that_dies_again_and_again_fails_with_all_its_causes(
    recorder: Recorder, tmp_path: Path
) -> None:
    trial = Trial(ActorDiedError(), tmp_path)
    for attempt, again in ((1, True), (2, False)):
        recorder.on_trial_start(0, [], trial)
        assert row_of(recorder)["attempt"] == attempt
        assert trial.should_recover() is again
    recorder.on_trial_error(0, [], trial)
    row = row_of(recorder)
    assert (row["status"], row["decision"]) == ("failed", "process_died")
    assert row["cause"].count("died unexpectedly") == 2
    assert trial.should_recover() is False
    assert row["wall_s"] >= 0


def test_a_trial_that_said_its_last_word_is_not_started_again(
    recorder: Recorder, tmp_path: Path
) -> None:
    trial = Trial(GONE, tmp_path)
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, {"status": "finished", "ended": True})
    assert trial.should_recover() is False
    recorder.on_trial_error(0, [], trial)
    row = row_of(recorder)
    assert (row["status"], row["cause"]) == ("finished", None)


def test_a_trial_for_which_no_process_came_up_waits_for_the_next_run(
    recorder: Recorder, tmp_path: Path
) -> None:
    recorder.on_trial_error(0, [], Trial(GONE, tmp_path))
    row = row_of(recorder)
    assert (row["status"], row["ended_at"]) == ("interrupted", None)
    assert "went away" in row["cause"]


def test_waiting_after_a_setback_is_not_counted_as_running(
    recorder: Recorder, tmp_path: Path
) -> None:
    trial = Trial(GONE, tmp_path)
    recorder.on_trial_start(0, [], trial)
    assert trial.should_recover() is True
    spent = row_of(recorder)["wall_s"]
    recorder.interrupt()
    row = row_of(recorder)
    assert (row["status"], row["wall_s"]) == ("interrupted", spent)
    assert "went away" in row["cause"]
