"""Intervals, paired differences and verdicts against scipy, by hand, and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pdo_search.analysis.compare import (
    Difference,
    compared,
    configurations_of,
    estimate,
    holm,
    paired,
    verdict,
)
from pdo_search.results.schema import TABLES, all_columns


def rows_of(*rows: dict[str, Any]) -> pd.DataFrame:
    full = [
        {"trial_id": f"t{row['number']:04d}", "status": "finished", "student_s": 1.0, **row}
        for row in rows
    ]
    return pd.DataFrame(full, columns=[c.name for c in all_columns(TABLES["confirmations"], {})])


def runs(number: int, method: str, test: list[float], val: list[float] | None = None) -> list[Any]:
    """One configuration with seeds 1, 2, …"""
    return [
        {"number": number, "method": method, "seed": s, "test_accuracy": t, "val_accuracy": v}
        for s, (t, v) in enumerate(zip(test, val or test, strict=True), start=1)
    ]


def test_an_interval_is_the_t_interval() -> None:
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.mean == pytest.approx(0.922)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    # By hand: t(0.975, df 2) is 4.302653; mean 2, sd 1, so half is 4.302653 / sqrt(3).
    assert estimate([1, 2, 3]).half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_what_has_no_spread_has_no_interval() -> None:
    assert estimate([0.5]).low is None
    assert estimate([0.5, 0.5, 0.5]).low is None
    assert math.isnan(estimate([]).mean)


def test_the_paired_difference_is_scipys_paired_test() -> None:
    first = {1: 0.91, 2: 0.93, 3: 0.92, 4: 0.95, 9: 0.1}
    second = {1: 0.90, 2: 0.90, 3: 0.91, 4: 0.93, 8: 0.9}
    found, p = paired(first, second, 3, "max")
    test = stats.ttest_rel([0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91, 0.93])
    assert found.count == 4
    assert p == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(1 - 0.05 / 3)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    mirrored, same = paired(first, second, 3, "min")
    assert mirrored.mean == pytest.approx(-found.mean)
    assert same == pytest.approx(p)


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.5 * 1, and never below the one before.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.04]
    assert holm([]) == []


def difference(first: list[float], second: list[float], comparisons: int = 1) -> Difference:
    found, p = paired(dict(enumerate(first)), dict(enumerate(second)), comparisons, "max")
    return Difference("progressive", "one_shot", found, p, p, comparisons)


@given(
    st.lists(st.tuples(st.integers(0, 360), st.integers(0, 360)), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_a_verdict_claims_nothing_that_the_interval_does_not_hold(
    hits: list[tuple[int, int]], comparisons: int
) -> None:
    found = difference([a / 360 for a, _ in hits], [b / 360 for _, b in hits], comparisons)
    said = verdict(found, "test_accuracy")
    of = found.of
    excludes = of.low is not None and of.high is not None and not of.low <= 0 <= of.high
    assert ("beats" in said or "loses" in said) == excludes
    if excludes:
        assert ("beats" in said) == (of.mean > 0)
        assert found.p is not None
        assert found.p * comparisons < 0.05


def test_verdicts_in_words() -> None:
    better = difference([0.95, 0.96, 0.97, 0.95, 0.96], [0.94, 0.955, 0.96, 0.945, 0.95], 3)
    assert verdict(better, "test_accuracy") == (
        "progressive beats one_shot by 0.80 ± 0.49 points (5 seeds, corrected for 3 comparisons)"
    )
    worse = difference([0.94, 0.955, 0.96, 0.945, 0.95], [0.95, 0.96, 0.97, 0.95, 0.96])
    assert verdict(worse, "test_accuracy") == (
        "progressive loses to one_shot by 0.80 ± 0.34 points (5 seeds)"
    )
    alike = difference([0.95, 0.94, 0.96], [0.95, 0.95, 0.95])
    assert verdict(alike, "test_accuracy").startswith(
        "no difference found between progressive and one_shot: 0.00 ± 2.48 points"
    )
    single = verdict(difference([0.95], [0.94]), "test_accuracy")
    assert single == (
        "no verdict on progressive and one_shot: they are +1.00 points apart in 1 seed, and no"
        " interval can be given (one seed)"
    )
    assert "nats" in verdict(difference([0.3, 0.2, 0.4], [0.3, 0.3, 0.3]), "test_loss")
    assert "no seed in common" in verdict(difference([], []), "test_accuracy")


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (5, 1), (5, 3)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, comparisons: int) -> None:
    rng, truth, trials = np.random.default_rng(0), 0.004, 2000
    covered = 0
    for _ in range(trials):
        common = rng.normal(0.9, 0.02, seeds)
        first = common + truth + rng.normal(0, 0.004, seeds)
        second = common + rng.normal(0, 0.004, seeds)
        found, _ = paired(dict(enumerate(first)), dict(enumerate(second)), comparisons, "max")
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    expected = 1 - 0.05 / comparisons
    spread = 3 * math.sqrt(expected * (1 - expected) / trials)
    assert covered / trials == pytest.approx(expected, abs=spread)


def test_among_several_the_one_to_compare_is_chosen_by_validation() -> None:
    rows = rows_of(
        *runs(0, "progressive", [0.99, 0.98, 0.97], val=[0.90, 0.91, 0.92]),
        *runs(1, "progressive", [0.95, 0.96, 0.94], val=[0.93, 0.94, 0.95]),
        *runs(2, "scratch", [0.90, 0.92, 0.91]),
        *runs(3, "one_shot", [0.95, 0.95, 0.95]),
        {"number": 1, "method": "progressive", "seed": 9, "status": "failed"},
    )
    found = configurations_of(rows, "val_accuracy", "max", "val_accuracy")
    ours = [c.trial_id for c in found if c.method == "progressive"]
    assert ours == ["t0001", "t0000"]
    differences = {d.second: d for d in compared(found, "progressive", "max")}
    assert set(differences) == {"scratch", "one_shot"}
    assert differences["scratch"].of.mean == pytest.approx(0.04)
    assert differences["scratch"].comparisons == 2
    assert differences["scratch"].of.count == 3
    assert compared(found, "assistant", "max") == []


def test_lower_is_better_for_a_loss() -> None:
    rows = rows_of(
        {"number": 0, "method": "progressive", "seed": 1, "val_loss": 0.2, "test_loss": 0.2},
        {"number": 1, "method": "progressive", "seed": 1, "val_loss": 0.3, "test_loss": 0.1},
        {"number": 2, "method": "scratch", "seed": 1, "val_loss": 0.5, "test_loss": 0.5},
    )
    found = configurations_of(rows, "val_loss", "min", "val_accuracy")
    assert found[0].trial_id == "t0000"
    assert compared(found, "progressive", "min")[0].of.mean == pytest.approx(0.3)
