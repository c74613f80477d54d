"""Tune's side of a confirmation: its runs as suggestions, what they report as rows.

Apart from ``confirm``, because Ray must not be imported before its settings are made.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from pdo_search.base.safetext import presentable
from pdo_search.results.schema import TABLES, Col, TrialStatus
from pdo_search.results.writer import TableWriter
from pdo_search.search.progress import Progress
from pdo_search.search.runs import Run
from pdo_search.search.tune.recorder import cannot_write

__all__ = ["ConfirmationRecorder", "RunSearcher"]

CONFIRMATIONS = TABLES["confirmations"]


class RunSearcher(Searcher):
    """Suggests the given runs, in order; learns nothing."""

    def __init__(self, runs: Iterable[Run], *, metric: str, mode: str) -> None:
        super().__init__(metric=metric, mode=mode)
        self._left = deque(runs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next run's configuration, or ``FINISHED``."""
        if not self._left:
            return str(Searcher.FINISHED)
        run = self._left.popleft()
        return {
            "number": run.number,
            "trial_id": run.name,
            "method": run.method,
            "point": run.point,
            "seed": run.seed,
        }

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: no later run depends on it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the table says what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as ``save``."""


class ConfirmationRecorder(Callback):
    """Writes ``confirmations`` while runs report: a run's end at once, the rest each second.

    Args:
        writer: of the sweep's tables.
        progress: is told what happens.
        runs: those to be run.
    """

    def __init__(self, writer: TableWriter, progress: Progress, runs: Iterable[Run]) -> None:
        self._writer = writer
        self._progress = progress
        self._runs = {run.name: run for run in runs}
        self._places = {name: place for place, name in enumerate(self._runs)}
        self._began: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that this product does not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run begins, or begins again."""
        name, now = trial.config["trial_id"], time.time()
        run = self._runs[name]
        earlier = self._writer.get(CONFIRMATIONS.name, run.key)
        self._began[name] = now
        self._upsert(
            name,
            status=TrialStatus.RUNNING.value,
            cause=None,
            attempt=(earlier[Col.ATTEMPT] if earlier else 0) + 1,
            started_at=now,
        )
        self._progress.started(
            {"number": self._places[name], "trial_id": name, "method": run.method}
        )
        self._writer.flush(force=False)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A run reports an epoch, or its end."""
        name = trial.config["trial_id"]
        if "payload" in result:
            payload = json.loads(result["payload"])
            for row in payload["rows"].get("trials", []):
                kept = {c: value for c, value in row.items() if c in CONFIRMATIONS.by_name}
                for model in (Col.MODEL, Col.COMPOSITE):
                    if model in kept:
                        kept[model] = f"models/{name}/{kept[model]}"
                self._upsert(name, **kept)
            self._progress.reported(self._places[name], payload["metrics"])
        if result.get("status") == TrialStatus.INTERRUPTED:
            raise cannot_write(name, result["cause"])
        if "status" in result:
            self._end(name, TrialStatus(result["status"]), result.get("cause"))
        self._writer.flush(force=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run's process died more often than it may be tried again."""
        if trial.config["trial_id"] in self._began:
            cause = str(trial.get_pickled_error() or "the process died").strip().splitlines()[0]
            self._end(trial.config["trial_id"], TrialStatus.FAILED, cause)

    def interrupt(self) -> None:
        """The confirmation ends while runs go on: they are marked as interrupted."""
        for name in self._began:
            self._upsert(name, status=TrialStatus.INTERRUPTED.value)
        self._writer.flush()
        for name in self._began:
            self._progress.ended(self._places[name], TrialStatus.INTERRUPTED, None)
        self._began.clear()

    def _end(self, name: str, status: TrialStatus, cause: str | None) -> None:
        now = time.time()
        wall_s = now - self._began.pop(name)
        cause = cause and presentable(cause)
        self._upsert(name, status=status.value, cause=cause, ended_at=now, wall_s=wall_s)
        self._writer.flush()
        self._progress.ended(self._places[name], status, cause)

    def _upsert(self, name: str, **columns: Any) -> None:
        run = self._runs[name]
        identity = {
            Col.NUMBER: run.number,
            Col.SEED: run.seed,
            Col.TRIAL_ID: run.trial_id,
            Col.METHOD: run.method,
        }
        self._writer.upsert(CONFIRMATIONS.name, {**columns, **identity})
