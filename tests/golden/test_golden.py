"""A refactor leaves every number of every method alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.runs import (
    CASES,
    CURVES,
    HINTED,
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
@pytest.mark.parametrize("case", [PLAIN, HINTED])
def test_two_workers_are_one(case: str, tmp_path: Path) -> None:
    """Whoever has the labelled examples of a batch: each counts as in one worker's batch."""
    one = with_workers(str(tmp_path), 1, case)[case]
    two = with_workers(str(tmp_path), 2, case)[case]
    assert len(one["epochs"]) == 4
    assert {row["phase"] for row in one["epochs"]} == {"init", "stage", "finetune"}
    assert all(row["loss_avg"] > 0 for row in one["epochs"] if row["phase"] == "stage")
    hints = [row["loss_hints"] for row in one["epochs"]]
    if case == PLAIN:
        assert hints == [None] * 4
    else:
        assert hints[0] == hints[3] == 0 < min(hints[1:3])
    assert differences(one, two) == []


def test_a_difference_is_seen() -> None:
    expected = {"a": [{"x": 1.0, "y": "b"}]}
    assert differences(expected, {"a": [{"x": 1.0 + 1e-11, "y": "b"}]}) == []
    others: list[Any] = [{"a": [{"x": 1.0 + 1e-8, "y": "b"}]}, {"a": [{"x": 1.0}]}, {"a": []}, {}]
    for found in others:
        assert len(differences(expected, found)) == 1
