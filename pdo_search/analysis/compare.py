"""Did the method win? Confirmed runs as means, intervals and paired differences. Pure.

All intervals are over training seeds, on the one test split of the sweep: how another sample of
test examples would change the numbers is not in them.

Several comparisons are made at once, so each is stricter than it would be alone: intervals are
widened by Bonferroni's correction, and p values are Holm's (1979). A verdict goes by the interval:
where it holds 0, no difference was found, and what the interval excludes, Holm's p value rejects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.leaderboard import value_of
from pdo_search.config.metrics import metric_of
from pdo_search.results.interval import LEVEL
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Combined",
    "Configuration",
    "Difference",
    "Estimate",
    "compared",
    "configurations_of",
    "estimate",
    "holm",
    "paired",
    "tested_metric",
    "verdict",
]

ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        count: seeds.
        mean: over them; NaN where there are none.
        sd: sample standard deviation; None for fewer than two.
        low: lower end of the interval; None where none can be given.
        high: upper end.
    """

    count: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def over(self, whole: float | None) -> Estimate | None:
        """The same as a share of a positive number that no seed changes; None where it is none."""
        if whole is None or not whole > 0:
            return None
        sd, low, high = (v if v is None else v / whole for v in (self.sd, self.low, self.high))
        return Estimate(self.count, self.mean / whole, sd, low, high)


@dataclass(frozen=True)
class Difference:
    """Two configurations on the same seeds.

    Attributes:
        first: method of the one.
        second: method of the other.
        of: mean difference with its widened interval, positive where ``first`` is better.
        p: of the paired t test, two-sided, by itself; None where there is none.
        p_holm: the same corrected for all comparisons.
        comparisons: how many were made.
    """

    first: str
    second: str
    of: Estimate
    p: float | None
    p_holm: float | None
    comparisons: int


@dataclass(frozen=True)
class Combined:
    """The composites of a configuration's runs, each a light teacher with the run's student.

    Attributes:
        modes: runs by mode, the most frequent first.
        validation: accuracy on validation, over the fresh seeds.
        test: the search's metric on test.
        test_primary: the primary metric on test.
        flops: mean over runs of the mean per test example.
        deferred: mean share of the test examples that the light teacher answered.
    """

    modes: Mapping[str, int]
    validation: Estimate
    test: Estimate
    test_primary: Estimate
    flops: float
    deferred: float


@dataclass(frozen=True)
class Configuration:
    """A confirmed configuration.

    Attributes:
        method: its method.
        trial_id: its trial.
        number: of the trial.
        validation: the search's metric on validation, over the fresh seeds.
        test: the same on test.
        test_primary: the primary metric on test.
        by_seed: the test values.
        student_s: mean seconds of the student's training.
        row: of its first finished run: cost, which no seed changes.
        composite: of its runs; None where they have none.
    """

    method: str
    trial_id: str
    number: int
    validation: Estimate
    test: Estimate
    test_primary: Estimate
    by_seed: Mapping[int, float]
    student_s: float
    row: Mapping[str, Any]
    composite: Combined | None = None


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean, standard deviation and two-sided t interval.

    No interval is given for fewer than two values, nor where all are equal: accuracies are coarse,
    and their agreement in a few seeds is no proof that there is no spread.

    Args:
        values: one per seed.
        level: of the interval.
    """
    from scipy import stats

    count = len(values)
    if count == 0:
        return Estimate(0, math.nan)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(1, mean)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    if max(values) == min(values):
        return Estimate(count, mean, 0.0)
    half = float(stats.t.ppf(0.5 + level / 2, count - 1)) * sd / math.sqrt(count)
    return Estimate(count, mean, sd, mean - half, mean + half)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction, in the given order; None stays and counts as a test."""
    corrected: list[float | None] = [None] * len(p_values)
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected


def paired(
    first: Mapping[int, float], second: Mapping[int, float], comparisons: int, mode: str
) -> tuple[Estimate, float | None]:
    """The paired difference on the seeds that both have, and its p value by itself.

    Args:
        first: value by seed.
        second: value by seed.
        comparisons: how many are made at once: the interval is at level 1 - 0.05 / comparisons.
        mode: ``max`` or ``min``; the difference is positive where ``first`` is better.
    """
    from scipy import stats

    sign = 1 if mode == "max" else -1
    shared = sorted(set(first) & set(second))
    found = estimate([sign * (first[s] - second[s]) for s in shared], 1 - ALPHA / comparisons)
    if found.low is None or found.sd is None:
        return found, None
    t = found.mean / (found.sd / math.sqrt(found.count))
    return found, float(2 * stats.t.sf(abs(t), found.count - 1))


def configurations_of(
    confirmations: pd.DataFrame, metric: str, search_mode: str, primary: str
) -> list[Configuration]:
    """The confirmed configurations, the best by validation over the fresh seeds first.

    By validation and never by test: a choice among several by their test score would bias that
    score upwards, as the search's choice did with validation.

    Args:
        confirmations: rows of the table.
        metric: of the search, such as ``val_accuracy``.
        search_mode: ``max`` or ``min``.
        primary: column of the primary metric.
    """
    tested = tested_metric(metric)
    rows = confirmations[confirmations[Col.STATUS] == TrialStatus.FINISHED.value]
    found = []
    for _, own in rows.groupby(Col.NUMBER):
        first = own.iloc[0]
        by_seed = {int(s): float(v) for s, v in zip(own[Col.SEED], own[tested], strict=True)}
        found.append(
            Configuration(
                method=str(first[Col.METHOD]),
                trial_id=str(first[Col.TRIAL_ID]),
                number=int(first[Col.NUMBER]),
                validation=estimate(own[metric].tolist()),
                test=estimate(list(by_seed.values())),
                test_primary=estimate(own[tested_metric(primary)].tolist()),
                by_seed=by_seed,
                student_s=float(own[Col.STUDENT_S].mean()),
                row={str(name): value for name, value in first.items()},
                composite=_combined(own, tested, primary),
            )
        )
    sign = -1 if search_mode == "max" else 1
    return sorted(found, key=lambda c: (sign * c.validation.mean, c.number))


def _combined(own: pd.DataFrame, tested: str, primary: str) -> Combined | None:
    """The composites of a configuration's runs; runs of a version that measured none are left out.

    Args:
        own: its finished runs.
        tested: the search's metric on test.
        primary: column of the primary metric.
    """
    whole = f"composite_{tested_metric(primary)}"
    rows = own[own[whole].notna()]
    if rows.empty:
        return None
    return Combined(
        modes={
            str(mode): int(count) for mode, count in rows[Col.COMPOSITE_MODE].value_counts().items()
        },
        validation=estimate([value_of(primary, s) for s in rows[Col.COMPOSITE_SCORE].tolist()]),
        test=estimate(rows[f"composite_{tested}"].tolist()),
        test_primary=estimate(rows[whole].tolist()),
        flops=float(rows[Col.COMPOSITE_FLOPS].mean()),
        deferred=float(rows[Col.COMPOSITE_DEFERRED].mean()),
    )


def compared(configurations: Sequence[Configuration], method: str, mode: str) -> list[Difference]:
    """The best confirmed configuration of a method against the best of every other.

    Args:
        configurations: from ``configurations_of``: the best by validation first.
        method: what the search is about.
        mode: ``max`` or ``min``.
    """
    best: dict[str, Configuration] = {}
    for configuration in configurations:
        best.setdefault(configuration.method, configuration)
    ours = best.pop(method, None)
    if ours is None:
        return []
    others = list(best.values())
    pairs = [paired(ours.by_seed, other.by_seed, len(others), mode) for other in others]
    corrected = holm([p for _, p in pairs])
    return [
        Difference(method, other.method, found, p, p_holm, len(others))
        for other, (found, p), p_holm in zip(others, pairs, corrected, strict=True)
    ]


def verdict(difference: Difference, metric: str) -> str:
    """One sentence that claims no more than the interval does.

    Args:
        difference: of two methods.
        metric: whose difference it is; shares are told in points of a hundred.
    """
    first, second, found = difference.first, difference.second, difference.of
    known = metric_of(metric.partition("_")[2])
    unit, scale, digits = (" points", 100.0, 2) if known.is_share else (f" {known.unit}", 1.0, 4)
    if found.count == 0:
        return f"{first} and {second} have no seed in common: nothing can be said"
    mean = found.mean * scale
    seeds = f"{found.count} seed{'s' if found.count > 1 else ''}"
    if found.low is None or found.high is None or found.half is None:
        why = "one seed" if found.count == 1 else "the seeds do not differ"
        return (
            f"no verdict on {first} and {second}: they are {mean:+.{digits}f}{unit} apart in"
            f" {seeds}, and no interval can be given ({why})"
        )
    corrected = difference.comparisons
    how = f"{seeds}, corrected for {corrected} comparisons" if corrected > 1 else seeds
    if found.low > 0:
        said, shown = f"{first} beats {second} by", mean
    elif found.high < 0:
        said, shown = f"{first} loses to {second} by", -mean
    else:
        said, shown = f"no difference found between {first} and {second}:", mean
    return f"{said} {shown:.{digits}f} ± {found.half * scale:.{digits}f}{unit} ({how})"


def tested_metric(metric: str) -> str:
    """The test metric that belongs to the search's validation metric."""
    return f"test_{metric.removeprefix('val_')}"
