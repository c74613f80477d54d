"""A refactor leaves every number of every method alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.runs import (
    CASES,
    CURVES,
    PLAIN,
    TWO_WORKERS,
    all_runs,
    differences,
    with_workers,
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_short_runs_give_the_stored_numbers() -> None:
    expected = json.loads(CURVES.read_text(encoding="utf-8"))
    assert set(expected) == {*CASES, TWO_WORKERS}
    assert differences(expected, all_runs()) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_workers_are_one(tmp_path: Path) -> None:
    """Whoever has the labelled examples of a batch: each counts as in one worker's batch."""
    one = with_workers(str(tmp_path), 1, PLAIN)[PLAIN]
    two = with_workers(str(tmp_path), 2, PLAIN)[PLAIN]
    assert len(one["epochs"]) == 4
    assert {row["phase"] for row in one["epochs"]} == {"init", "stage", "finetune"}
    assert all(row["loss_avg"] > 0 for row in one["epochs"] if row["phase"] == "stage")
    assert differences(one, two) == []


def test_a_difference_is_seen() -> None:
    expected = {"a": [{"x": 1.0, "y": "b"}]}
    assert differences(expected, {"a": [{"x": 1.0 + 1e-11, "y": "b"}]}) == []
    others: list[Any] = [{"a": [{"x": 1.0 + 1e-8, "y": "b"}]}, {"a": [{"x": 1.0}]}, {"a": []}, {}]
    for found in others:
        assert len(differences(expected, found)) == 1
