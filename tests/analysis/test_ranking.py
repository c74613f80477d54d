"""Which trial is better: order, ties, and the front against brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdo_search.analysis.ranking import finished, non_dominated, pareto_front, ranked
from pdo_search.base.errors import InputError

from ..results.conftest import trial_row

COORDINATE = st.integers(-3, 3).map(float) | st.floats(-5, 5)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(COORDINATE, COORDINATE), max_size=25))
def test_the_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    expected = [
        not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points
    ]
    found = non_dominated(np.array(points, dtype=float).reshape(-1, 2))
    assert found.tolist() == expected


def test_finished_come_first_and_the_others_by_how_far_they_came() -> None:
    rows = [
        trial_row(0, objective=0.7),
        trial_row(1, status="stopped", objective=0.99, epochs_done=2),
        trial_row(2, status="stopped", objective=0.6, epochs_done=4),
        trial_row(3, objective=0.9, flops=5.0),
        trial_row(4, status="failed", objective=0.95),
        trial_row(5, status="running", objective=0.95),
        trial_row(6, objective=float("nan")),
        trial_row(7, objective=0.9, flops=4.0),
        trial_row(8, status="stopped", objective=0.5, epochs_done=4),
    ]
    trials = pd.DataFrame(rows)
    assert ranked(trials, "max")["number"].tolist() == [7, 3, 0, 5, 2, 8, 1]
    assert ranked(trials, "min")["number"].tolist() == [0, 7, 3, 5, 8, 2, 1]
    assert finished(trials.iloc[1:3], "max").empty
    assert ranked(trials.iloc[1:3], "max")["number"].tolist() == [2, 1]
    assert ranked(trials.iloc[:0], "max").empty


def test_the_front_of_trials_has_finished_ones_only_and_is_in_order() -> None:
    trials = pd.DataFrame(
        [
            trial_row(0, flops=4.0, val_accuracy=0.9),
            trial_row(1, flops=1.0, val_accuracy=0.6),
            trial_row(2, flops=2.0, val_accuracy=0.5),
            trial_row(3, flops=0.5, val_accuracy=0.99, status="stopped"),
            trial_row(4, flops=2.0, val_accuracy=0.8),
            trial_row(5, flops=None, val_accuracy=1.0),
        ]
    )
    assert pareto_front(trials, "flops", "val_accuracy", "max")["number"].tolist() == [1, 4, 0]
    assert pareto_front(trials, "val_accuracy", "flops", "max")["number"].tolist() == [0, 4, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("val_acuracy", "no column of trials.*\n.*did you mean 'val_accuracy'"),
        ("temperature", "no column of trials"),
        ("seed", "neither better high nor low"),
    ],
)
def test_an_axis_needs_a_direction(column: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pareto_front(pd.DataFrame([trial_row(0)]), column, "val_accuracy", "max")
