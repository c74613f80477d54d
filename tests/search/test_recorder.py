"""What the recorder makes of deaths: rows, and whether a trial is tried again. No cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayActorError

from pdo_search.config import parse_experiment
from pdo_search.distill.protocol import Report
from pdo_search.records import TrialRow
from pdo_search.results.schema import TABLES, TrialStatus
from pdo_search.results.writer import TableWriter
from pdo_search.search.tune.by_method import SchedulerByMethod
from pdo_search.search.tune.recorder import Recorder, Work
from pdo_search.trial.messages import report_message

from ..conftest import TINY

GONE = RayActorError(error_msg="The actor is dead because its node has died. Node Id: 0a")


class Trial:
    """As much of Tune's trial as the recorder looks at."""

    should_recover: Any = None

    def __init__(self, error: Exception, folder: Path) -> None:
        self.config = {"number": 0, "trial_id": "t0000", "method": "progressive", "point": {}}
        self.temporary_state = SimpleNamespace(ray_actor=None)
        self.pickled_error_file = str(folder / "error.pkl")
        Path(self.pickled_error_file).write_bytes(cloudpickle.dumps(error))


class Heard:
    """A sink that remembers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[Any, ...]] = []

    def started(self, name: str, row: TrialRow) -> None:
        self.told.append(("started", name, row.method, row.seed))

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        self.told.append(("reported", name, metrics["epoch"]))

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None:
        stored = [row["status"] for row in TableWriter(self.folder).rows("trials")]
        self.told.append(("ended", name, status, cause, stored))


def recorder_of(folder: Path, table: str, *sinks: Any) -> Recorder:
    experiment = parse_experiment(TINY, file=Path("tiny.yaml"), base_dir=folder).experiment
    work = Work(table, None, SchedulerByMethod({}), num_samples=1, num_trials=1, counts={})
    writer = TableWriter(folder, {"temperature": "float64"})
    return Recorder(writer, work, experiment, sinks)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return recorder_of(tmp_path, "trials")


def test_a_trial_has_a_row_before_anything_hangs_on_it(recorder: Recorder, tmp_path: Path) -> None:
    recorder.on_trial_start(0, [], Trial(ActorDiedError(), tmp_path))
    # As a driver finds it that comes after a killed one.
    (row,) = TableWriter(tmp_path).rows("trials")
    assert (row["number"], row["status"]) == (0, "running")


def test_sinks_hear_that_a_trial_finished_when_the_disk_says_so(tmp_path: Path) -> None:
    sinks = Heard(tmp_path), Heard(tmp_path)
    recorder = recorder_of(tmp_path, "trials", *sinks)
    trial = Trial(ActorDiedError(), tmp_path)
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, {"status": "finished"})
    assert (
        sinks[0].told
        == sinks[1].told
        == [
            ("started", "t0000", "progressive", 0),
            ("ended", "t0000", "finished", None, ["finished"]),
        ]
    )


class Again(Trial):
    """A run of a confirmation, under its own name."""

    def __init__(self, folder: Path, error: Exception) -> None:
        super().__init__(error, folder)
        self.config |= {"trial_id": "t0000-seed17", "seed": 17, "point": {"temperature": 2.0}}


REPORT = report_message(
    Report(
        {"epoch": 4, "stages_done": 1, "stage_end": True, "done": True, "val_accuracy": 0.5},
        {
            "epochs": [{"epoch": 4, "val_accuracy": 0.5}],
            "trials": [{"epochs_done": 4, "model": "student"}],
            "confirmations": [{"test_accuracy": 0.4}],
        },
    )
)


def test_a_confirming_run_has_one_row_in_its_own_table(tmp_path: Path) -> None:
    heard = Heard(tmp_path)
    recorder = recorder_of(tmp_path, "confirmations", heard)
    run = Again(tmp_path, GONE)
    recorder.on_trial_start(0, [], run)
    assert run.should_recover() is True, "its node went away"
    recorder.on_trial_start(0, [], run)
    recorder.on_trial_result(0, [], run, REPORT)
    recorder.close()
    writer = TableWriter(tmp_path)
    (row,) = writer.rows("confirmations")
    assert (row["number"], row["seed"], row["trial_id"]) == (0, 17, "t0000")
    assert (row["status"], row["attempt"], row["epochs_done"]) == ("finished", 2, 4)
    assert (row["test_accuracy"], row["model"]) == (0.4, "models/t0000-seed17/student")
    assert "went away" in row["cause"]
    assert [*writer.rows("trials"), *writer.rows("epochs")] == []
    started = ("started", "t0000-seed17", "progressive", 17)
    reported = ("reported", "t0000-seed17", 4)
    ended = ("ended", "t0000-seed17", "finished", None, list[str]())
    assert heard.told == [started, started, reported, ended]


def test_a_confirming_run_that_failed_begins_anew(tmp_path: Path) -> None:
    run = Again(tmp_path, GONE)
    for attempt in (1, 2):
        recorder = recorder_of(tmp_path, "confirmations")
        recorder.on_trial_start(0, [], run)
        (row,) = recorder.writer.rows("confirmations")
        assert (row["status"], row["attempt"], row["cause"]) == ("running", attempt, None)
        assert row["ended_at"] is None or row["started_at"] > row["ended_at"]
        recorder.on_trial_result(0, [], run, {"status": "failed", "cause": "no such operator"})


@pytest.mark.parametrize(("status", "same"), [("paused", True), ("interrupted", False)])
def test_a_trial_starts_with_its_last_attempt(
    recorder: Recorder, tmp_path: Path, status: str, same: bool
) -> None:
    trial = Trial(GONE, tmp_path)
    recorder.on_trial_start(0, [], trial)
    first = row_of(recorder)
    recorder.writer.upsert("trials", {"number": 0, "trial_id": "t0000", "status": status})
    recorder.on_trial_start(0, [], trial)
    again = row_of(recorder)
    assert (again["started_at"] == first["started_at"]) is same
    assert again["attempt"] == (1 if same else 2)


@pytest.mark.parametrize("table", ["trials", "confirmations"])
def test_an_attempt_after_a_setback_is_when_a_row_says_it_started(
    tmp_path: Path, table: str
) -> None:
    recorder, run = recorder_of(tmp_path, table), Again(tmp_path, GONE)
    found: list[dict[str, Any]] = []
    for _ in range(2):
        recorder.on_trial_start(0, [], run)
        assert run.should_recover() is True
        found += recorder.writer.rows(table)
    assert [row["attempt"] for row in found] == [1, 2]
    assert found[1]["started_at"] > found[0]["started_at"]
    assert TABLES[table].by_name["started_at"].meaning == "start of its last attempt"


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
