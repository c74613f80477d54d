"""The driver's ear: turns what trials report into rows, through the one writer.

Owns when rows are written: a trial's end at once, everything else each second. A row whose key is
there already is not written again, so that a trial that goes on may report its past. Owns times as
well: all that order trials or epochs are the driver's, and never run backwards.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from pdo_search.base.clock import SteadyClock
from pdo_search.base.errors import StoreError
from pdo_search.base.safetext import presentable
from pdo_search.results.schema import TABLES, Decision, TrialStatus, param_column
from pdo_search.results.writer import TableWriter
from pdo_search.search.progress import Progress
from pdo_search.search.retries import Retries
from pdo_search.search.tune.by_method import SchedulerByMethod

__all__ = ["Forgetful", "Recorder", "cannot_write"]

READ_BY_TUNE = ("done", "node_ip", "pid", "should_checkpoint", "training_iteration", "trial_id")


@dataclass
class Running:
    """A trial that runs.

    Attributes:
        trial: Tune's.
        spent_s: what its earlier attempts took.
        began: when its process was given to it, on the monotonic clock; None while it waits for
            another, after a setback.
        overdue: whether it was killed for taking too long.
        end: why it is not tried again: decision and cause.
    """

    trial: Any
    spent_s: float = 0.0
    began: float | None = field(default_factory=time.monotonic)
    overdue: bool = False
    end: tuple[Decision, str] | None = None

    @property
    def wall_s(self) -> float:
        """Seconds of all attempts up to now."""
        return self.spent_s + (0.0 if self.began is None else time.monotonic() - self.began)


class Recorder(Callback):
    """Writes tables while trials run, and ends those that take too long.

    Args:
        writer: of the sweep's tables.
        progress: is told what happens.
        scheduler: knows why a trial was stopped.
        metric: of the search.
        seed: of the trials.
        end_index: index of the next trial to end.
        retries: decides whether a trial is tried again.
        clock: orders what happens.
        timeout_s: how long a trial may take.
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
        retries: Retries,
        clock: SteadyClock,
        timeout_s: float = math.inf,
    ) -> None:
        self.writer = writer
        self._progress = progress
        self._scheduler = scheduler
        self._metric = metric
        self._seed = seed
        self._end_index = end_index
        self._retries = retries
        self._timeout_s = timeout_s
        self._running: dict[int, Running] = {}
        self._now = clock

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that this product does not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        row = self._begin(trial)
        # Before anything hangs on it: whatever befalls the driver, what the trial computes has a
        # row to come back to.
        self.writer.flush_table("trials")
        # Tune asks this after a failure, and nobody else (``TuneController``, Ray 2.60).
        trial.should_recover = lambda: self._is_tried_again(trial)
        self._progress.started(row)
        self.writer.flush(force=False)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kill what takes too long: a process that hangs tells nobody, and cannot be asked."""
        latest_start = time.monotonic() - self._timeout_s
        for running in self._running.values():
            late = running.began is not None and running.began < latest_start
            actor = running.trial.temporary_state.ray_actor
            if late and not running.overdue and actor is not None:
                running.overdue = True
                ray.kill(actor)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial reports an epoch, or its end.

        Raises:
            StoreError: the disk is full, here or where the trial runs; the sweep cannot go on.
        """
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
                    if table == "epochs":
                        full["reported_at"] = self._now()
                    if table == "trials":
                        update.update(_relative(full, identity["trial_id"]))
                    elif not self.writer.has(table, full):
                        self.writer.upsert(table, full)
            if self._metric in metrics:
                update["objective"] = metrics[self._metric]
            decision = metrics.get("decision")
            self._progress.reported(number, metrics)
        self.writer.upsert("trials", update)
        if result.get("status") == TrialStatus.INTERRUPTED:
            raise cannot_write(identity["trial_id"], result["cause"])
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
        """A trial's process died and is not started again, or none came up for it."""
        identity = self._identity(trial)
        number = identity["number"]
        running = self._running.get(number)
        if running is not None:
            end = running.end or self._retries.note(number, _error_of(trial))[:2]
            self._end(identity, TrialStatus.FAILED, *end)
            return
        earlier = self.writer.get("trials", number)
        if earlier is None or not TrialStatus(earlier["status"]).ended:
            # Says nothing of the configuration: resuming tries it again.
            self._begin(trial)
            del self._running[number]
            cause = self._retries.note(number, _error_of(trial))[1]
            update = {"status": TrialStatus.INTERRUPTED.value, "cause": self._causes(number, cause)}
            self.writer.upsert("trials", {**identity, **update})
            self.writer.flush()

    def interrupt(self) -> None:
        """The sweep ends while trials run: they are marked as interrupted."""
        for running in self._running.values():
            update = {"status": TrialStatus.INTERRUPTED.value, "wall_s": running.wall_s}
            self.writer.upsert("trials", {**self._identity(running.trial), **update})
        self.writer.flush()
        for number in self._running:
            self._progress.ended(number, TrialStatus.INTERRUPTED, None)
        self._running.clear()

    def close(self) -> None:
        """The sweep is complete: what waits will not be promoted, and counts as stopped."""
        for row in list(self.writer.rows("trials")):
            if row["status"] == TrialStatus.PAUSED.value:
                identity = {"number": row["number"], "trial_id": row["trial_id"]}
                self.writer.upsert("trials", {**identity, "status": TrialStatus.STOPPED.value})
        self.writer.flush()

    def _begin(self, trial: Any) -> dict[str, Any]:
        """Note that a trial runs; its row as far as it is known."""
        suggestion = trial.config
        number = suggestion["number"]
        earlier = self.writer.get("trials", number) or {"attempt": 0, "started_at": self._now()}
        promoted = earlier.get("status") in (TrialStatus.PAUSED.value, TrialStatus.STOPPED.value)
        row: dict[str, Any] = {
            "number": number,
            "trial_id": suggestion["trial_id"],
            "method": suggestion["method"],
            "status": TrialStatus.RUNNING.value,
            "seed": self._seed,
            "attempt": earlier["attempt"] + (not promoted),
            "started_at": earlier["started_at"],
            **{param_column(str(path)): value for path, value in suggestion["point"].items()},
        }
        if promoted:
            row["cause"] = None  # Of its pause.
        self._running[number] = Running(trial, earlier.get("wall_s") or 0.0)
        self.writer.upsert("trials", row)
        return row

    def _is_tried_again(self, trial: Any) -> bool:
        """Decide it after a process died, and record a setback."""
        identity = self._identity(trial)
        number = identity["number"]
        running = self._running[number]
        if running.overdue:
            cause = f"took longer than limits.trial_timeout ({self._timeout_s:g} s): killed"
            running.end = Decision.TIMEOUT, cause
            return False
        decision, cause, again = self._retries.note(number, _error_of(trial))
        if not again:
            running.end = decision, cause
            return False
        running.spent_s, running.began = running.wall_s, None
        update = {"cause": self._causes(number, cause), "wall_s": running.wall_s}
        self.writer.upsert("trials", {**identity, **update})
        return True

    def _causes(self, number: int, latest: str | None) -> str | None:
        """The causes of a trial's setbacks and of its end, in one line."""
        earlier = self.writer.get("trials", number)
        known = [earlier["cause"]] if earlier and earlier["cause"] else []
        if latest is not None:
            known.append(presentable(latest))
        return "; then ".join(known) or None

    def _end(
        self,
        identity: Mapping[str, Any],
        status: TrialStatus,
        decision: str,
        cause: str | None,
    ) -> None:
        number = identity["number"]
        running = self._running.pop(number, None)
        if running is not None:
            # It has said its last word, whatever becomes of its process.
            running.trial.should_recover = _never
        self.writer.upsert(
            "trials",
            {
                **identity,
                "status": status.value,
                "decision": decision,
                "cause": self._causes(number, cause),
                "ended_at": self._now(),
                "wall_s": running.wall_s if running else 0.0,
                "end_index": self._end_index,
                "rung_reached": self._scheduler.rung_reached(number),
            },
        )
        self._end_index += 1
        self.writer.flush()
        # What the screen says is on the disk.
        self._progress.ended(number, status, cause and presentable(cause))

    def _keep_traceback(self, trial_id: str, text: str) -> None:
        self.writer.folder.write(f"errors/{trial_id}.txt", presentable(text).encode())

    @staticmethod
    def _identity(trial: Any) -> dict[str, Any]:
        return {"number": trial.config["number"], "trial_id": trial.config["trial_id"]}


def cannot_write(name: str, cause: str) -> StoreError:
    """The end of a run because a trial cannot reach its disk or object store, or that is full."""
    return StoreError(
        f"trial {name} cannot go on: {presentable(cause)};"
        " resume when that is mended (what is written stays)"
    )


def _error_of(trial: Any) -> Exception | None:
    """What Ray said when a trial's process died.

    ``Trial.get_pickled_error`` (Ray 2.60) looks where the file is copied to later.
    """
    try:
        error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):  # There is none.
        return None
    return error


def _never() -> bool:
    """Of a module, not of a trial: Tune pickles its trials when all have ended."""
    return False


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
