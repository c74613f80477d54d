"""A refactor leaves every number of every method alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.runs import CASES, CURVES, TWO_WORKERS, all_runs, differences


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_short_runs_give_the_stored_numbers() -> None:
    expected = json.loads(CURVES.read_text(encoding="utf-8"))
    assert set(expected) == {*CASES, TWO_WORKERS}
    assert differences(expected, all_runs()) == []


def test_a_difference_is_seen() -> None:
    expected = {"a": [{"x": 1.0, "y": "b"}]}
    assert differences(expected, {"a": [{"x": 1.0 + 1e-11, "y": "b"}]}) == []
    others: list[Any] = [{"a": [{"x": 1.0 + 1e-8, "y": "b"}]}, {"a": [{"x": 1.0}]}, {"a": []}, {}]
    for found in others:
        assert len(differences(expected, found)) == 1
