"""How sure a number of seeds can make a difference: against tables, and against what is found."""

from __future__ import annotations

import pytest

from pdo_search.analysis.compare import paired
from pdo_search.results.interval import half_width, precision


@pytest.mark.parametrize(
    ("seeds", "comparisons", "half"),
    [
        (3, 3, 4.4),
        (5, 3, 1.8),
        (10, 3, 0.9),
        (20, 3, 0.6),
        # From a table of Student's t: 2.262 of nine degrees of freedom, over the root of ten.
        (10, 1, 2.262 / 10**0.5),
    ],
)
def test_the_half_width_in_standard_deviations(seeds: int, comparisons: int, half: float) -> None:
    assert half_width(seeds, comparisons) == pytest.approx(half, abs=0.05)


def test_one_seed_gives_no_interval() -> None:
    assert half_width(1) is None
    assert half_width(0) is None
    assert "no interval" in precision(1, 3)


@pytest.mark.parametrize("comparisons", [1, 3])
def test_it_is_the_interval_of_the_confirmation(comparisons: int) -> None:
    first = {1: 0.91, 2: 0.93, 3: 0.92, 4: 0.95}
    found, _ = paired(first, dict.fromkeys(first, 0.9), comparisons, "max")
    half = half_width(4, comparisons)
    assert found.sd is not None
    assert half is not None
    assert found.half == pytest.approx(half * found.sd)


def test_it_is_said_in_one_sentence_with_what_to_do() -> None:
    assert precision(10, 3) == (
        "With 10 seeds a difference between two methods will be known to ± 0.9 times its spread"
        " from seed to seed (standard deviation; 95% interval corrected for 3 comparisons); where"
        " that is too wide, --seeds 20 makes it ± 0.6"
    )
    assert "--seeds 10 makes it ± 0.9" in precision(3, 3)
    alone = precision(10, 0)
    assert alone.startswith("With 10 seeds a mean will be known to ± 0.7 times the spread of runs")
    assert "corrected" not in alone + precision(10, 1)
