"""The driver's ear: turns what trials report into rows, through the one writer.

Owns when rows are written: a trial's end at once, everything else each second. A row whose key is
there already is not written again, so that a trial that goes on may report its past.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from pdo_search.results.schema import TABLES, TrialStatus, param_column
from pdo_search.results.writer import TableWriter
from pdo_search.safetext import presentable
from pdo_search.search.by_method import SchedulerByMethod
from pdo_search.search.progress import Progress

__all__ = ["Forgetful", "Recorder"]

READ_BY_TUNE = ("done", "node_ip", "pid", "should_checkpoint", "training_iteration", "trial_id")


class Recorder(Callback):
    """Writes tables while trials run.

    Args:
        writer: of the sweep's tables.
        progress: is told what happens.
        scheduler: knows why a trial was stopped.
        metric: of the search.
        seed: of the trials.
        end_index: index of the next trial to end.
    """

    def __init__(
        self,
        writer: TableWriter,
        progress: Progress,
        scheduler: SchedulerByMethod,
        *,
        metric: str,
        seed: int,
        end_index: int,
    ) -> None:
        self.writer = writer
        self._progress = progress
        self._scheduler = scheduler
        self._metric = metric
        self._seed = seed
        self._end_index = end_index
        self._running: dict[int, dict[str, Any]] = {}
        self._attempt_at: dict[int, float] = {}
        self._wall_s: dict[int, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that this product does not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        suggestion = trial.config
        number, now = suggestion["number"], time.time()
        before = self.writer.get("trials", number) or {}
        row: dict[str, Any] = {
            "number": number,
            "trial_id": suggestion["trial_id"],
            "method": suggestion["method"],
            "status": TrialStatus.RUNNING.value,
            "seed": self._seed,
            "attempt": (before.get("attempt") or 0) + 1,
            **{param_column(str(path)): value for path, value in suggestion["point"].items()},
        }
        if not before:
            row["started_at"] = now
        self._attempt_at[number] = now
        self._wall_s[number] = before.get("wall_s") or 0.0
        self._running[number] = row
        self.writer.upsert("trials", row)
        self._progress.started(row)
        self.writer.flush(force=False)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial reports an epoch, or its end."""
        identity = self._identity(trial)
        number = identity["number"]
        update: dict[str, Any] = dict(identity)
        decision = None
        if "payload" in result:
            payload = json.loads(result["payload"])
            metrics = payload["metrics"]
            for table, rows in payload["rows"].items():
                for row in rows:
                    full = {**row, **identity}
                    if table == "trials":
                        update.update(_relative(full, identity["trial_id"]))
                    elif not self.writer.has(table, full):
                        self.writer.upsert(table, full)
            if self._metric in metrics:
                update["objective"] = metrics[self._metric]
            decision = metrics.get("decision")
            self._progress.reported(number, metrics)
        self.writer.upsert("trials", update)
        if "status" in result:
            if "traceback" in result:
                self._keep_traceback(identity["trial_id"], result["traceback"])
            self._end(
                identity, TrialStatus(result["status"]), decision or "raised", result.get("cause")
            )
        self.writer.flush(force=False)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over; where it has not said so itself, the scheduler stopped or paused it."""
        identity = self._identity(trial)
        number = identity["number"]
        if number not in self._running:
            return
        ruling = self._scheduler.ruling(number)
        if ruling is not None:
            self._end(identity, ruling.status, ruling.decision.value, ruling.cause)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died more often than it may be tried again."""
        identity = self._identity(trial)
        if identity["number"] in self._running:
            cause = str(trial.get_pickled_error() or "the process died").strip().splitlines()[0]
            self._end(identity, TrialStatus.FAILED, "process_died", cause)

    def interrupt(self) -> None:
        """The sweep ends while trials run: they are marked as interrupted."""
        for number, row in list(self._running.items()):
            identity = {"number": number, "trial_id": row["trial_id"]}
            self.writer.upsert("trials", {**identity, "status": TrialStatus.INTERRUPTED.value})
            self._progress.ended(number, TrialStatus.INTERRUPTED, None)
        self._running.clear()
        self.writer.flush()

    def close(self) -> None:
        """The sweep is complete: what waits will not be promoted, and counts as stopped."""
        for row in list(self.writer.rows("trials")):
            if row["status"] == TrialStatus.PAUSED.value:
                identity = {"number": row["number"], "trial_id": row["trial_id"]}
                self.writer.upsert("trials", {**identity, "status": TrialStatus.STOPPED.value})
        self.writer.flush()

    def _end(
        self,
        identity: Mapping[str, Any],
        status: TrialStatus,
        decision: str,
        cause: str | None,
    ) -> None:
        number, now = identity["number"], time.time()
        cause = cause and presentable(cause)
        self._running.pop(number, None)
        self.writer.upsert(
            "trials",
            {
                **identity,
                "status": status.value,
                "decision": decision,
                "cause": cause,
                "ended_at": now,
                "wall_s": now - self._attempt_at.get(number, now) + self._wall_s.get(number, 0.0),
                "end_index": self._end_index,
                "rung_reached": self._scheduler.rung_reached(number),
            },
        )
        self._end_index += 1
        self._progress.ended(number, status, cause)
        self.writer.flush()

    def _keep_traceback(self, trial_id: str, text: str) -> None:
        self.writer.folder.write(f"errors/{trial_id}.txt", presentable(text).encode())

    @staticmethod
    def _identity(trial: Any) -> dict[str, Any]:
        return {"number": trial.config["number"], "trial_id": trial.config["trial_id"]}


def _relative(row: dict[str, Any], trial_id: str) -> dict[str, Any]:
    """A trial's row with the places of its models relative to the sweep."""
    places: dict[str, Any] = {
        c: f"models/{trial_id}/{row[c]}" for c in ("model", "composite") if c in row
    }
    known = {column.name for column in TABLES["trials"].columns}
    return {name: value for name, value in {**row, **places}.items() if name in known}


class Forgetful(TrialProgressCallback):
    """The last of the callbacks: leaves of a result what Tune itself reads.

    In the place of the one by which Tune prints results, and which prints empty ones even if asked
    to say nothing (``ray.tune.utils.callback`` adds it where none of its kind is given).

    ``Trial.update_last_result`` (Ray 2.60) keeps every trial's last result to the end of the sweep,
    and five averages of every number in it: 0.1 MB a trial, written out as JSON when all have
    ended. ``TuneController._process_trial_result`` lets callbacks change a result in place.
    """

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Everybody else has heard it by now."""
        for name in set(result).difference(READ_BY_TUNE):
            del result[name]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says nothing."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says nothing."""
