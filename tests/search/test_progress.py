"""What a person is told while trials run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pdo_search.records import TrialRow, TrialStatus
from pdo_search.search.progress import Progress


def told(values: list[float], method: str = "progressive") -> str:
    text = io.StringIO()
    progress = Progress(
        Console(file=text, width=300), num_trials=9, metric="val_accuracy", mode="max"
    )
    for number, value in enumerate(values):
        progress.started(f"t{number}", TrialRow(method=method))
        progress.reported(f"t{number}", {"epoch": 2, "val_accuracy": value})
        progress.ended(f"t{number}", TrialStatus.PAUSED, None)
    return text.getvalue()


def test_how_far_a_sweep_is_and_how_long_it_may_take() -> None:
    text, now = io.StringIO(), [0.0]
    progress = Progress(
        Console(file=text, width=80),
        num_trials=40,
        metric="val_accuracy",
        mode="max",
        epochs=20,
        counts={"finished": 2},
        clock=lambda: now[0],
    )
    for number in range(4):
        progress.started(f"t000{number}", TrialRow(method="progressive"))
        progress.reported(f"t000{number}", {"epoch": 20, "val_accuracy": 0.9})
        now[0] += 20.0
        progress.ended(f"t000{number}", TrialStatus.FINISHED, None)
    said = text.getvalue().splitlines()
    assert said[0] == (
        "[  3/40] t0000  progressive finished  epoch 20/20  val_accuracy 0.9000  20.0 s"
    )
    assert [line for line in said if "left" in line] == ["6 of 40 trials, about 11 min left"]
    assert "4 of 40 trials" in said, "too few have shown their pace"
    assert max(map(len, said[:3])) <= 80


def test_epochs_that_are_searched_are_each_trials_own() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=80), num_trials=1, metric="val_loss", mode="min")
    progress.started("t0000", TrialRow(method="progressive", point={"epochs": 7}))
    progress.reported("t0000", {"epoch": 3, "val_loss": 0.5})
    progress.ended("t0000", TrialStatus.PAUSED, None)
    assert "epoch   3/7  val_loss 0.5000" in text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_what_runs_cuts_nothing(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    progress = Progress(console, num_trials=9, metric="val_accuracy", mode="max", epochs=20)
    point = {"optimizer.weight_decay": 0.000123, "temperature": 3.5}
    progress.started("t0000", TrialRow(method="progressive", point=point))
    reached = {"epoch": 6, "val_accuracy": 0.5, "stage": 1, "phase": "stage", "stage_end": True}
    progress.reported("t0000", reached)
    console.print(progress._table())
    said = text.getvalue()
    assert "…" not in said
    assert "6/20" in said
    assert "teacher 2" in said, "what is built after a stage"
    assert "weight_decay=0.000123" in said.replace("\n", "").replace(" ", "")


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
