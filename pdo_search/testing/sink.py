"""The suite of ``search.tune.recorder.Sink``: what whoever hears of trials hears, and bears.

A sweep's recorder tells the sink of lives that trials have: to the end, paused and gone on with,
broken off, tried again. What the recorder promises is asserted with it: each event once, in order,
a start and an end only when the tables on the disk say so.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pdo_search.config import parse_experiment
from pdo_search.records import TrialRow
from pdo_search.results.schema import Decision, TrialStatus, trial_id
from pdo_search.results.writer import TableWriter
from pdo_search.search.tune.by_method import SchedulerByMethod
from pdo_search.search.tune.recorder import Recorder, Sink, Work
from pdo_search.search.tune.scheduler import Ruling
from pdo_search.trial.messages import failure_message, report_message
from pdo_search.trial.protocol import Report

__all__ = ["SinkContract"]

EXPERIMENT: dict[str, Any] = {
    "name": "sinks",
    "task": {"data": {"source": "digits"}},
    "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
    "student": {"arch": "small_convnet"},
    "trial": {"temperature": {"float": [1.0, 8.0]}},
    "search": {"num_trials": 4, "retries": 1},
}
POINT = {"temperature": 2.0}


@dataclass
class _Ear:
    """Passes on what it hears, and looks at the disk meanwhile.

    Attributes:
        sink: that is told.
        folder: of the sweep.
        table: that has the trials' rows.
        heard: event, trial, what it was, and the status on the disk at that moment.
    """

    sink: Sink
    folder: Path
    table: str
    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def started(self, name: str, row: TrialRow) -> None:
        before = copy.deepcopy(row)
        self.sink.started(name, row)
        assert row == before, "a row is the recorder's own"
        self.heard.append(("started", name, row.attempt, self._stored(name)))

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        before = copy.deepcopy(dict(metrics))
        self.sink.reported(name, metrics)
        assert metrics == before, "others hear the same metrics"
        self.heard.append(("reported", name, metrics["epoch"]))

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None:
        self.sink.ended(name, status, cause)
        self.heard.append(("ended", name, status, cause, self._stored(name)))

    def _stored(self, name: str) -> str:
        """A trial's status as another process would find it."""
        for row in TableWriter(self.folder).rows(self.table):
            if name in (row["trial_id"], f"{row['trial_id']}-seed{row.get('seed')}"):
                return str(row["status"])
        return "nowhere"


class _Rulings(SchedulerByMethod):
    """Rules as the test says."""

    def __init__(self) -> None:
        super().__init__({})
        self.by_number: dict[int, Ruling] = {}

    def ruling(self, number: int) -> Ruling | None:
        return self.by_number.get(number)


class _Sweep:
    """Trials as Tune runs them, told to a recorder.

    Args:
        folder: of the sweep.
        sink: that is to hear of them.
        table: that has the trials' rows.
    """

    def __init__(self, folder: Path, sink: Sink, table: str = "trials") -> None:
        experiment = parse_experiment(EXPERIMENT, file=folder / "e.yaml", base_dir=folder)
        self._rulings = _Rulings()
        work = Work(table, None, self._rulings, num_samples=4, num_trials=4, counts={})
        writer = TableWriter(folder / "sweep", {"temperature": "float64"})
        self.ears = [_Ear(sink, folder / "sweep", table), _Ear(_Deaf(), folder / "sweep", table)]
        self.recorder = Recorder(writer, work, experiment.experiment, self.ears)
        self._error_file = folder / "error.pkl"

    def begin(self, number: int, seed: int | None = None) -> Any:
        """Start a trial, a run of the confirmation where a seed is given; Tune's trial."""
        config = {
            "number": number, "trial_id": trial_id(number), "method": "progressive", "point": POINT
        }  # fmt: skip
        if seed is not None:
            config |= {"trial_id": f"{trial_id(number)}-seed{seed}", "seed": seed}
        trial = SimpleNamespace(
            config=config,
            temporary_state=SimpleNamespace(ray_actor=None),
            pickled_error_file=str(self._error_file),
        )
        self.recorder.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, epoch: int, *, done: bool = False) -> None:
        """Report an epoch of a trial, and its end behind the last."""
        metrics: dict[str, Any] = {
            "epoch": epoch, "stage": 0, "phase": "stage", "stage_end": done, "done": done,
            "stages_done": int(done), "val_accuracy": 0.1 * epoch,
        }  # fmt: skip
        if done:
            metrics["decision"] = Decision.COMPLETED.value
        rows = {"epochs": [{"epoch": epoch}], "trials": [{"epochs_done": epoch}]}
        self.recorder.on_trial_result(0, [], trial, report_message(Report(metrics, rows)))
        if done:
            self.recorder.on_trial_complete(0, [], trial)

    def rule(self, trial: Any, status: TrialStatus) -> None:
        """Let the scheduler end a trial, or pause it."""
        self._rulings.by_number[trial.config["number"]] = Ruling(status, Decision.ASHA, "late")
        self.recorder.on_trial_complete(0, [], trial)
        self._rulings.by_number.clear()

    def die(self, trial: Any) -> bool:
        """Kill a trial's process; whether it is tried again."""
        if trial.should_recover():
            return True
        self.recorder.on_trial_error(0, [], trial)
        return False

    def heard(self) -> list[tuple[Any, ...]]:
        """What the sink heard, which is what the one behind it did."""
        first, second = (ear.heard for ear in self.ears)
        assert first == second
        return first


class _Deaf:
    """A sink that does nothing."""

    def started(self, name: str, row: TrialRow) -> None: ...

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None: ...

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None: ...


class SinkContract:
    """Tests of a sink; the fixture ``sink`` gives one that has heard nothing yet.

    It raises nothing whatever it hears: what a sink raises ends the sweep.
    """

    def test_a_trial_is_heard_of_from_its_start_to_its_end(
        self, sink: Sink, tmp_path: Path
    ) -> None:
        """With one that runs beside it."""
        sweep = _Sweep(tmp_path, sink)
        one, other = sweep.begin(0), sweep.begin(1)
        sweep.report(one, 1)
        sweep.report(other, 1)
        sweep.report(one, 2, done=True)
        sweep.rule(other, TrialStatus.STOPPED)
        assert sweep.heard() == [
            ("started", "t0000", 1, "running"),
            ("started", "t0001", 1, "running"),
            ("reported", "t0000", 1),
            ("reported", "t0001", 1),
            ("reported", "t0000", 2),
            ("ended", "t0000", "finished", None, "finished"),
            ("ended", "t0001", "stopped", "late", "stopped"),
        ]

    def test_a_paused_trial_starts_again_in_the_same_attempt(
        self, sink: Sink, tmp_path: Path
    ) -> None:
        """Its epochs go on where they were."""
        sweep = _Sweep(tmp_path, sink)
        trial = sweep.begin(0)
        sweep.report(trial, 1)
        sweep.rule(trial, TrialStatus.PAUSED)
        again = sweep.begin(0)
        sweep.report(again, 2, done=True)
        assert sweep.heard() == [
            ("started", "t0000", 1, "running"),
            ("reported", "t0000", 1),
            ("ended", "t0000", "paused", "late", "paused"),
            ("started", "t0000", 1, "running"),
            ("reported", "t0000", 2),
            ("ended", "t0000", "finished", None, "finished"),
        ]

    def test_a_trial_that_is_tried_again_starts_anew_and_ends_once(
        self, sink: Sink, tmp_path: Path
    ) -> None:
        """A death is no end while the trial is tried again."""
        sweep = _Sweep(tmp_path, sink)
        assert sweep.die(sweep.begin(0))
        assert not sweep.die(sweep.begin(0))
        *starts, (event, name, status, cause, stored) = sweep.heard()
        assert starts == [("started", "t0000", n, "running") for n in (1, 2)]
        assert (event, name, status, stored) == ("ended", "t0000", "failed", "failed")
        assert "the process died" in cause

    def test_a_trial_may_end_before_its_first_epoch(self, sink: Sink, tmp_path: Path) -> None:
        """Where its model is broken, say: the cause is of one line or of several."""
        sweep = _Sweep(tmp_path, sink)
        for number, words in enumerate(("no such layer", "two\nlines", "")):
            trial = sweep.begin(number)
            sweep.recorder.on_trial_result(0, [], trial, failure_message(ValueError(words)))
        ends = [event for event in sweep.heard() if event[0] == "ended"]
        assert [(name, status) for _, name, status, _, _ in ends] == [
            (trial_id(number), "failed") for number in range(3)
        ]
        assert "no such layer" in ends[0][3]

    def test_what_runs_when_the_sweep_is_cut_off_is_interrupted_once(
        self, sink: Sink, tmp_path: Path
    ) -> None:
        """What has ended is not heard of again."""
        sweep = _Sweep(tmp_path, sink)
        done, cut = sweep.begin(0), sweep.begin(1)
        sweep.report(done, 1, done=True)
        sweep.report(cut, 1)
        sweep.recorder.interrupt()
        sweep.recorder.interrupt()
        sweep.recorder.close()
        ends = [event for event in sweep.heard() if event[0] == "ended"]
        assert ends == [
            ("ended", "t0000", "finished", None, "finished"),
            ("ended", "t0001", "interrupted", None, "interrupted"),
        ]

    def test_runs_of_a_confirmation_are_heard_of_by_their_own_names(
        self, sink: Sink, tmp_path: Path
    ) -> None:
        """A trial's number and a seed."""
        sweep = _Sweep(tmp_path, sink, "confirmations")
        for seed in (17, 18):
            sweep.report(sweep.begin(3, seed), 1, done=True)
        assert sweep.heard() == [
            event
            for name in ("t0003-seed17", "t0003-seed18")
            for event in (
                ("started", name, 1, "running"),
                ("reported", name, 1),
                ("ended", name, "finished", None, "finished"),
            )
        ]
