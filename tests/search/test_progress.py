"""What a person is told while trials run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pdo_search.results.schema import TrialStatus
from pdo_search.search.progress import Progress


def told(values: list[float], method: str = "progressive") -> str:
    text = io.StringIO()
    progress = Progress(
        Console(file=text, width=300), num_trials=9, metric="val_accuracy", mode="max"
    )
    for number, value in enumerate(values):
        progress.started({"number": number, "trial_id": f"t{number}", "method": method})
        progress.reported(number, {"epoch": 2, "val_accuracy": value})
        progress.ended(number, TrialStatus.PAUSED, None)
    return text.getvalue()


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ([0.1667] * 4, 1),
        ([0.1667] * 9, 1),
        ([0.1667] * 3, 0),
        ([0.2, 0.1667, 0.1667, 0.1667, 0.1667], 0),
    ],
)
def test_a_rung_where_all_trials_are_equal_is_told_once(values: list[float], warned: int) -> None:
    said = told(values)
    assert said.count("Warning: all 4 trials of progressive") == warned
