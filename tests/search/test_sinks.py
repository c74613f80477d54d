"""Who hears of trials: the screen, and a tracker of one's own in a few lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pdo_search.records import TrialRow, TrialStatus
from pdo_search.search.progress import Progress
from pdo_search.testing.sink import SinkContract


class Tracker:
    """Writes a line of JSON for each event, as a tracker of experiments would send it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def started(self, name: str, row: TrialRow) -> None:
        self._note({"run": name, "params": dict(row.point), "attempt": row.attempt})

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        self._note({"run": name, "step": metrics["epoch"], "value": metrics["val_accuracy"]})

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None:
        self._note({"run": name, "status": status, "cause": cause})

    def _note(self, event: dict[str, Any]) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps(event) + "\n")


class TestLines(SinkContract):
    @pytest.fixture
    def sink(self) -> Progress:
        console = Console(file=io.StringIO(), width=80)
        return Progress(console, num_trials=4, metric="val_accuracy", mode="max")


class TestTable(SinkContract):
    @pytest.fixture
    def sink(self) -> Iterator[Progress]:
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        progress = Progress(console, num_trials=4, metric="val_accuracy", mode="max", epochs=2)
        with progress.show():
            yield progress


class TestTracker(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Tracker:
        return Tracker(tmp_path / "events.jsonl")
