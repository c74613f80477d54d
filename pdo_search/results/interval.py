"""How sure a number of seeds can make a difference, before any of them has been trained. Pure.

In units of the difference's own spread from seed to seed, which nobody knows beforehand.
"""

from __future__ import annotations

import math

__all__ = ["LEVEL", "USUAL_SEEDS", "half_width", "precision"]

LEVEL = 0.95
"""Of an interval; of several at once, all of them hold with this probability."""
USUAL_SEEDS = 10
"""Of a confirmation, per configuration."""


def half_width(seeds: int, comparisons: int = 1) -> float | None:
    """Half of a paired difference's interval, in standard deviations of the difference.

    Student's t with Bonferroni's correction, m comparisons and n seeds:
    ``t(1 - 0.025 / m, n - 1) / sqrt(n)``.

    Args:
        seeds: pairs of runs.
        comparisons: differences that are estimated at once.

    Returns:
        None for fewer than two seeds, which give no interval.
    """
    from scipy import stats

    if seeds < 2:
        return None
    quantile = 1 - (1 - LEVEL) / 2 / comparisons
    return float(stats.t.ppf(quantile, seeds - 1)) / math.sqrt(seeds)


def precision(seeds: int, comparisons: int) -> str:
    """What a confirmation will be able to say, and what to do if that is too little: a sentence.

    Args:
        seeds: fresh seeds of each configuration.
        comparisons: other methods that the search's own is compared with; with none of them it is a
            mean that is estimated.
    """
    half = half_width(seeds, max(comparisons, 1))
    if half is None:
        return "One seed gives no interval, so nothing will be known of how sure the numbers are"
    what = "a difference between two methods" if comparisons else "a mean"
    spread = "its spread" if comparisons else "the spread of runs"
    corrected = f" corrected for {comparisons} comparisons" if comparisons > 1 else ""
    wanted = max(2 * seeds, USUAL_SEEDS)
    better = half_width(wanted, max(comparisons, 1))
    return (
        f"With {seeds} seeds {what} will be known to ± {half:.1f} times {spread} from seed to seed"
        f" (standard deviation; 95% interval{corrected}); where that is too wide, --seeds {wanted}"
        f" makes it ± {better:.1f}"
    )
