"""The driver's ear: turns what trials report into rows, through the one writer.

Owns when rows are written: a trial's end at once, everything else each second. A row whose key is
there already is not written again, so that a trial that goes on may report its past. Owns times as
well: all that order trials or epochs are the driver's, and never run backwards.

A run of a confirmation is a trial whose row is in another table. The tables come first, since the
recorder reads in them what it wrote; all others who are to hear of trials are sinks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.tune import Callback

from pdo_search.base.clock import SteadyClock
from pdo_search.base.errors import StoreError
from pdo_search.base.safetext import presentable
from pdo_search.config.schema import Experiment
from pdo_search.records import TrialRow
from pdo_search.results.schema import (
    PARAM,
    TABLES,
    TRIALS,
    Col,
    Decision,
    TrialStatus,
    trial_id,
)
from pdo_search.results.writer import TableWriter
from pdo_search.search.retries import Retries
from pdo_search.search.tune.by_method import SchedulerByMethod
from pdo_search.search.tune.workarounds import error_of

__all__ = ["Recorder", "Sink", "Work", "cannot_write"]

PROMOTED_FROM = (TrialStatus.PAUSED, TrialStatus.STOPPED)
"""A trial that goes on from there is in the same attempt."""
CUT_OFF = (TrialStatus.RUNNING, TrialStatus.INTERRUPTED)
"""A trial that goes on from there keeps the causes of its setbacks."""


class Sink(Protocol):
    """Hears of trials: the screen, or a tracker of experiments.

    It hears each event once and in order; of a start and an end when the tables on the disk say so,
    of an epoch up to a second before. What it raises ends the sweep, and what it is given is not
    its to change: ``testing.sink`` has the suite. A trial's name is ``t0003``, that of a
    confirmation's run ``t0003-seed17``.
    """

    def started(self, name: str, row: TrialRow) -> None:
        """A trial began, or goes on: method, seed, attempt and point are known."""

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None:
        """A trial ended, paused, or was interrupted."""


@dataclass(frozen=True)
class Work:
    """The trials that are to be run: all that differs between a search and its confirmation.

    Attributes:
        table: that has a row for each of them, ``trials`` or ``confirmations``.
        searcher: suggests them.
        scheduler: stops them early; by no method, none.
        num_samples: how many are left; -1 where the searcher says when all is done.
        num_trials: how many there are in all, with those of an earlier run.
        counts: those of an earlier run, by status.
        paused: names of those of them that wait.
        end_index: of the next to end.
        latest: the last moment in the tables, epoch seconds.
    """

    table: str
    searcher: Any
    scheduler: SchedulerByMethod
    num_samples: int
    num_trials: int
    counts: Mapping[str, int]
    paused: Sequence[str] = ()
    end_index: int = 0
    latest: float = 0.0


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
        work: which trials these are, in which table, and what stops them.
        experiment: says seed, metric, how often a trial is tried again and how long it may take.
        sinks: hear what happens, in order.
    """

    def __init__(
        self, writer: TableWriter, work: Work, experiment: Experiment, sinks: Sequence[Sink]
    ) -> None:
        self.writer = writer
        self._table = TABLES[work.table]
        own = self._table.key
        self._details = {t.name for t in TABLES.values() if t.key[: len(own)] == own} - {work.table}
        self._scheduler = work.scheduler
        self._end_index = work.end_index
        self._now = SteadyClock(work.latest)
        self._metric = experiment.search.metric
        self._seed = experiment.search.seed
        self._retries = Retries(experiment.search.retries)
        self._timeout_s = experiment.limits.trial_timeout or math.inf
        self._sinks = sinks
        self._running: dict[str, Running] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that this product does not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        row = self._begin(trial)
        # Before anything hangs on it: whatever befalls the driver, what the trial computes has a
        # row to come back to.
        self.writer.flush_table(self._table.name)
        # In the place of a count: Tune 2.60 asks this after a failure, and nobody else, where a
        # lost node and a trial that took too long are failures as others are (test_recorder).
        trial.should_recover = lambda: self._is_tried_again(trial)
        for sink in self._sinks:
            sink.started(_name(trial), row)
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
        name, decision = _name(trial), None
        update: dict[str, Any] = {}
        if "payload" in result:
            payload = json.loads(result["payload"])
            metrics = payload["metrics"]
            for table, rows in payload["rows"].items():
                for row in rows:
                    if table in (TRIALS.name, self._table.name):
                        update |= row
                    elif table in self._details:
                        self._add(table, {**row, **self._identity(trial.config)})
            for model in {Col.MODEL, Col.COMPOSITE} & update.keys():
                update[model] = f"models/{name}/{update[model]}"
            if self._metric in metrics:
                update[Col.OBJECTIVE] = metrics[self._metric]
            decision = metrics.get("decision")
            for sink in self._sinks:
                sink.reported(name, metrics)
        self._write(trial.config, update)
        if result.get("status") == TrialStatus.INTERRUPTED:
            raise cannot_write(name, result["cause"])
        if "status" in result:
            if "traceback" in result:
                self._keep_traceback(name, result["traceback"])
            status = TrialStatus(result["status"])
            self._end(trial.config, status, decision or "raised", result.get("cause"))
        self.writer.flush(force=False)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over; where it has not said so itself, the scheduler stopped or paused it."""
        ruling = self._scheduler.ruling(trial.config["number"])
        if ruling is not None and _name(trial) in self._running:
            self._end(trial.config, ruling.status, ruling.decision.value, ruling.cause)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died and is not started again, or none came up for it."""
        name = _name(trial)
        running = self._running.get(name)
        if running is not None:
            end = running.end or self._retries.note(name, error_of(trial))[:2]
            self._end(trial.config, TrialStatus.FAILED, *end)
            return
        earlier = self.writer.get(self._table.name, trial.config)
        if earlier is None or not TrialStatus(earlier[Col.STATUS]).ended:
            # Says nothing of the configuration: resuming tries it again.
            self._begin(trial)
            del self._running[name]
            cause = self._causes(trial.config, self._retries.note(name, error_of(trial))[1])
            self._change(trial.config, TrialRow(status=TrialStatus.INTERRUPTED, cause=cause))
            self.writer.flush()

    def interrupt(self) -> None:
        """The sweep ends while trials run: they are marked as interrupted."""
        for running in self._running.values():
            known = TrialRow(status=TrialStatus.INTERRUPTED, wall_s=running.wall_s)
            self._change(running.trial.config, known)
        self.writer.flush()
        for name in self._running:
            for sink in self._sinks:
                sink.ended(name, TrialStatus.INTERRUPTED, None)
        self._running.clear()

    def close(self) -> None:
        """The sweep is complete: what waits will not be promoted, and counts as stopped."""
        for row in list(self.writer.rows(self._table.name)):
            if row[Col.STATUS] == TrialStatus.PAUSED.value:
                self._change(row, TrialRow(status=TrialStatus.STOPPED))
        self.writer.flush()

    def _begin(self, trial: Any) -> TrialRow:
        """Note that a trial runs; its row as far as it is known."""
        config = trial.config
        earlier = self.writer.get(self._table.name, config) or {}
        promoted = earlier.get(Col.STATUS) in PROMOTED_FROM
        row = TrialRow(
            method=config["method"],
            status=TrialStatus.RUNNING,
            seed=config.get("seed", self._seed),
            attempt=earlier.get(Col.ATTEMPT, 0) + (not promoted),
            started_at=earlier[Col.STARTED_AT] if promoted else self._now(),
            point=config["point"],
        )
        self._running[_name(trial)] = Running(trial, earlier.get(Col.WALL_S) or 0.0)
        self._change(config, row)
        if earlier and earlier[Col.STATUS] not in CUT_OFF:
            # Of its pause, or of an end that does not count any more.
            self._write(config, {Col.CAUSE: None})
        return row

    def _is_tried_again(self, trial: Any) -> bool:
        """Decide it after a process died, and record a setback."""
        name = _name(trial)
        running = self._running[name]
        if running.overdue:
            cause = f"took longer than limits.trial_timeout ({self._timeout_s:g} s): killed"
            running.end = Decision.TIMEOUT, cause
            return False
        decision, cause, again = self._retries.note(name, error_of(trial))
        if not again:
            running.end = decision, cause
            return False
        running.spent_s, running.began = running.wall_s, None
        causes = self._causes(trial.config, cause)
        self._change(trial.config, TrialRow(cause=causes, wall_s=running.wall_s))
        return True

    def _causes(self, config: Mapping[str, Any], latest: str | None) -> str | None:
        """The causes of a trial's setbacks and of its end, in one line."""
        earlier = self.writer.get(self._table.name, config)
        known = [earlier[Col.CAUSE]] if earlier and earlier[Col.CAUSE] else []
        if latest is not None:
            known.append(presentable(latest))
        return "; then ".join(known) or None

    def _end(
        self, config: Mapping[str, Any], status: TrialStatus, decision: str, cause: str | None
    ) -> None:
        name = config["trial_id"]
        running = self._running.pop(name, None)
        if running is not None:
            # It has said its last word, whatever becomes of its process.
            running.trial.should_recover = _never
        row = TrialRow(
            status=status,
            decision=decision,
            cause=self._causes(config, cause),
            ended_at=self._now(),
            wall_s=running.wall_s if running else 0.0,
            end_index=self._end_index,
            rung_reached=self._scheduler.rung_reached(config["number"]),
        )
        self._change(config, row)
        self._end_index += 1
        self.writer.flush()
        # What the screen says is on the disk.
        for sink in self._sinks:
            sink.ended(name, status, cause and presentable(cause))

    def _keep_traceback(self, name: str, text: str) -> None:
        self.writer.folder.write(f"errors/{name}.txt", presentable(text).encode())

    def _identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Name and key of a trial's row, from its suggestion or from another row of the table."""
        key = {column: config[column] for column in self._table.key}
        return {Col.TRIAL_ID: trial_id(config["number"]), **key}

    def _change(self, config: Mapping[str, Any], known: TrialRow) -> None:
        """Write what is known of a trial."""
        self._write(config, known.columns())

    def _write(self, config: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        """Write columns of a trial's row: those that its table has."""
        row = {**columns, **self._identity(config)}
        kept = {c: value for c, value in row.items() if self._table.holds(c)}
        if self._table is TRIALS:
            kept |= {c: value for c, value in row.items() if c.startswith(PARAM)}
        self.writer.upsert(self._table.name, kept)

    def _add(self, table: str, row: dict[str, Any]) -> None:
        """Write a row about a part of a trial, if it is new."""
        if not self.writer.has(table, row):
            heard = (
                {Col.REPORTED_AT: self._now()} if Col.REPORTED_AT in TABLES[table].by_name else {}
            )
            self.writer.upsert(table, row | heard)


def _name(trial: Any) -> str:
    return str(trial.config["trial_id"])


def cannot_write(name: str, cause: str) -> StoreError:
    """The end of a run because a trial cannot reach its disk or object store, or that is full."""
    return StoreError(
        f"trial {name} cannot go on: {presentable(cause)};"
        " resume when that is mended (what is written stays)"
    )


def _never() -> bool:
    """Of a module, not of a trial: Tune pickles its trials when all have ended."""
    return False
