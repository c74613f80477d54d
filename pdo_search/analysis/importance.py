"""Which dimensions mattered: pure functions on the rows of ``trials`` and ``epochs``.

A dimension's importance is the share of the variance of the trials' ranks that its values account
for, less what groups of that size account for by chance: Kelley's epsilon squared (1935) of the
one-way analysis of variance on ranks of Kruskal and Wallis (1952). Shares do not sum to one: where
nothing mattered all are near zero. Numbers are put into groups of equally many trials; a choice's
values, null included, are groups as they are.

Why not ``optuna.importance``: importing it costs a second (scikit-learn) that ``show`` has not, and
its shares sum to one even of noise, which resampling for spread and chance would cost seconds to
tell. What it shares with them: only a dimension's own effect is seen, no interactions; and because
the sampler draws near what was good, dimensions move together, and one may be credited for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdo_search.results.params import PARAM
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Compared", "caveat", "compared", "importance"]

FEWEST = 8
"""Trials below which nothing is computed."""
MOST = 0.8
"""Share of the trials that are to be compared at least; of fewer, only the better ones are left."""
ENOUGH = 20
ENOUGH_PER_DIMENSION = 10
NUM_GROUPS = 4
PER_GROUP = 6
"""Trials that a group of numbers is to have: of fewer than 24 trials three groups are made."""
BOOTSTRAPS = 200
PERMUTATIONS = 1000
FALSE_ALARMS = 0.05
"""Share of sweeps without any effect in which some dimension is above chance."""


@dataclass(frozen=True)
class Compared:
    """Trials at equal budget.

    Attributes:
        trials: their rows.
        values: their metric, higher or lower being better; (N,).
        epoch: at which epoch; None where at their end.
    """

    trials: pd.DataFrame
    values: NDArray[np.float64]
    epoch: int | None


def compared(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> Compared:
    """The trials that can be compared, at the largest budget that most of them had.

    Finished ones by their objective, where most of the finished and stopped ones have finished;
    else both at the last epoch that most of them reached.
    Failed and infeasible trials, and those that run, are left out.

    Args:
        trials: rows of ``trials``.
        epochs: rows of ``epochs``.
        metric: of the search.
    """
    trained = (TrialStatus.FINISHED.value, TrialStatus.STOPPED.value)
    ended = trials[trials[Col.STATUS].isin(trained) & trials[Col.OBJECTIVE].notna()]
    finished = ended[ended[Col.STATUS] == TrialStatus.FINISHED.value]
    if len(finished) >= MOST * len(ended) or metric not in epochs:
        return Compared(finished, finished[Col.OBJECTIVE].to_numpy("float64"), None)
    curves = epochs[epochs[Col.NUMBER].isin(ended[Col.NUMBER])].dropna(subset=[metric])
    reached = curves.groupby(Col.EPOCH)[Col.NUMBER].count()
    common = reached[reached >= MOST * len(ended)].index
    if common.empty:
        return Compared(finished, finished[Col.OBJECTIVE].to_numpy("float64"), None)
    epoch = int(common.max())
    at_epoch = curves[curves[Col.EPOCH] == epoch].set_index(Col.NUMBER)[metric]
    there = ended[ended[Col.NUMBER].isin(at_epoch.index)]
    return Compared(there, at_epoch.loc[there[Col.NUMBER]].to_numpy("float64"), epoch)


def importance(found: Compared) -> pd.DataFrame:
    """How much every dimension mattered, most first; dimensions with one value are left out.

    Args:
        found: from ``compared``.

    Returns:
        Empty of fewer than eight trials. Columns: ``dimension``; ``importance``, from 0 to 1;
        ``spread``, its standard deviation over bootstrap resamples of the trials; ``chance``, what
        it may be without any effect (with all dimensions together exceeding theirs in 5 sweeps of
        100); ``above_chance``.
    """
    import numpy as np
    import pandas as pd

    names = ("dimension", "importance", "spread", "chance", "above_chance")
    values, count = found.values, len(found.values)
    groups = {
        str(name).removeprefix(PARAM): _groups(column)
        for name, column in found.trials.items()
        if str(name).startswith(PARAM)
    }
    groups = {path: codes for path, codes in groups.items() if 1 < codes.max(initial=0) + 1 < count}
    if count < FEWEST or not groups or np.ptp(values) == 0:
        return pd.DataFrame(columns=list(names))
    ranks = _ranks(values)
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    drawn = generator.integers(count, size=(BOOTSTRAPS, count))
    shares = [float(_share(ranks[None], codes[None])[0]) for codes in groups.values()]
    resampled = [_share(ranks[drawn], codes[drawn]).std() for codes in groups.values()]
    by_chance = np.stack([_share(shuffled, codes[None]) for codes in groups.values()], axis=1)
    limits = _joint_limits(by_chance)
    rows = [
        (path, share, float(spread), float(limit), share > limit)
        for path, share, spread, limit in zip(groups, shares, resampled, limits, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(names))
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def caveat(num_trials: int, num_dimensions: int) -> str | None:
    """What to say of importances from few trials; None where they are enough."""
    wanted = max(ENOUGH, ENOUGH_PER_DIMENSION * num_dimensions)
    if num_trials >= wanted:
        return None
    return (
        f"{num_trials} trials are few for {num_dimensions} dimensions ({wanted} are wanted):"
        " another sweep may rank them otherwise"
    )


def _groups(column: pd.Series[Any]) -> NDArray[np.int64]:
    """The group of every trial, from 0: of a value, or of equally many neighbouring numbers."""
    import numpy as np
    import pandas as pd

    codes = pd.factorize(column.astype(object), use_na_sentinel=False)[0].astype("int64")
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not numbers or codes.max(initial=0) < NUM_GROUPS:
        return codes
    known = column.notna().to_numpy()
    values = column[known].to_numpy("float64")
    count = NUM_GROUPS if len(values) >= NUM_GROUPS * PER_GROUP else NUM_GROUPS - 1
    grouped = np.full(len(column), count)
    grouped[known] = (_ranks(values) - 0.5) * count / len(values)
    return np.unique(grouped, return_inverse=True)[1].astype("int64")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    import numpy as np

    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, side="left")
    last = np.searchsorted(ordered, values, side="right")
    return (first + last + 1) / 2


def _share(ranks: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Epsilon squared of every sample, not below 0.

    Args:
        ranks: (S, N).
        codes: (S, N), or (1, N) where all samples have the same groups.
    """
    import numpy as np

    count = ranks.shape[1]
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    between = np.zeros(len(ranks))
    num_groups = np.zeros(len(ranks))
    for code in range(int(codes.max()) + 1):
        inside = codes == code
        size = inside.sum(axis=1)
        between += np.where(inside, centred, 0).sum(axis=1) ** 2 / np.maximum(size, 1)
        num_groups += size > 0
    whole = np.maximum((centred**2).sum(axis=1), 1e-12)
    within = (whole - between) / np.maximum(count - num_groups, 1)
    share: NDArray[np.float64] = np.clip(1 - within * (count - 1) / whole, 0, 1)
    return share


def _joint_limits(by_chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """What every dimension reaches by chance, so that all keep below theirs in 95 of 100 sweeps.

    The smallest p-value of a sweep's dimensions decides (Westfall and Young 1993), because one with
    many groups reaches more by chance than one with two.

    Args:
        by_chance: (S, D) shares of S sweeps without effect.
    """
    import numpy as np

    ordered = np.sort(by_chance, axis=0)
    p_values = np.stack(
        [
            1 - np.searchsorted(column, shares, side="left") / len(column)
            for column, shares in zip(ordered.T, by_chance.T, strict=True)
        ],
        axis=1,
    )
    level = np.quantile(p_values.min(axis=1), FALSE_ALARMS)
    limits: NDArray[np.float64] = np.quantile(by_chance, 1 - level, axis=0)
    return limits
