"""Learning curves of configurations that were never run, learnt from those of a real sweep.

A forest of randomised trees maps a point to its expected curve; what one run shows is that curve
plus the deviation of a real run from the mean of its reruns with other seeds. Both are log odds:
a point from 0.97 to 0.98 weighs as much as it costs to gain, and nothing leaves [0, 1]. Knows a
table and a space, not who searches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.seeds import seed_for
from pdo_search.config.space import Dimension, Space

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SurrogateCurves"]

TREES = 64
PEERS = 25
SOFT = 0.005
"""Added to both sides of the odds, so that 0 and 1 have some."""
Floats = NDArray[np.float64]


class SurrogateCurves:
    """Curves over a search space.

    What one run of a point shows depends on the point and the seed alone, so that competitors that
    try the same point see the same. Expectations carry no noise: the best of many tried is not
    better than a rerun of it would be on average.

    Args:
        space: the dimensions.
        points: of the recorded trials, value by path.
        runs: by trial an array (runs, epochs) of its metric, higher is better, within [0, 1]; one
            run per seed. Those of trials with several say how runs differ.
        seed: of the noise.

    Raises:
        ValueError: no trial was run with several seeds.
    """

    def __init__(
        self,
        space: Space,
        points: Sequence[Mapping[str, Any]],
        runs: Sequence[Floats],
        *,
        seed: int = 0,
    ) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self._space = space
        self._seed = seed
        odds = [_log_odds(found) for found in runs]
        means = np.stack([found.mean(axis=0) for found in odds])
        forest = ExtraTreesRegressor(
            n_estimators=TREES, min_samples_leaf=2, bootstrap=True, random_state=0
        )
        forest.fit(np.stack([self._features(point) for point in points]), means)
        self._trees = [tree.tree_ for tree in forest.estimators_]
        deviations = [
            # The mean of n runs lies nearer to each of them than the expectation does.
            (run - mean) * math.sqrt(len(found) / (len(found) - 1))
            for found, mean in zip(odds, means, strict=True)
            if len(found) > 1
            for run in found
        ]
        levels = [
            mean[-1]
            for found, mean in zip(odds, means, strict=True)
            if len(found) > 1
            for _ in found
        ]
        if not deviations:
            raise ValueError("how runs of one point differ cannot be told from one run of each")
        order = np.argsort(levels, kind="stable")
        self._levels: Floats = np.asarray(levels)[order]
        self._deviations: Floats = np.stack(deviations)[order]

    def with_seed(self, seed: int) -> SurrogateCurves:
        """The same expectations, other runs."""
        other: SurrogateCurves = object.__new__(SurrogateCurves)
        other.__dict__ = {**self.__dict__, "_seed": seed}
        return other

    @classmethod
    def from_table(cls, table: pd.DataFrame, space: Space, metric: str) -> SurrogateCurves:
        """From rows of ``number``, ``seed``, ``epoch``, the metric and a column per path."""
        wide = table.pivot(index=["number", "seed"], columns="epoch", values=metric)
        runs = [found.to_numpy(dtype="float64") for _, found in wide.groupby(level="number")]
        first = table.groupby("number").first()
        points = [dict(zip(space.paths, row, strict=True)) for row in first[[*space.paths]].values]
        return cls(space, points, runs)

    def observed(self, point: Mapping[str, Any]) -> list[float]:
        """The metric after each epoch as one run shows it.

        The deviation is that of a whole recorded run whose configuration ends about as well: bad
        configurations are noisier than good ones, and a run's luck stays with it.
        """
        expected = self._expected(point)
        draw = seed_for(self._seed, json.dumps(dict(point), sort_keys=True, default=str))
        near = int(np.searchsorted(self._levels, expected[-1])) - PEERS // 2
        first = min(max(near, 0), max(len(self._levels) - PEERS, 0))
        chosen = first + draw % min(PEERS, len(self._levels))
        shown: list[float] = _share(expected + self._deviations[chosen]).tolist()
        return shown

    def truth(self, point: Mapping[str, Any]) -> float:
        """The expected metric at full budget."""
        return float(_share(self._expected(point)[-1:])[0])

    def _expected(self, point: Mapping[str, Any]) -> Floats:
        """The expected curve, in log odds."""
        features = self._features(point)[None].astype(np.float32)
        # sklearn's own predict takes ten times as long for one row.
        found: Floats = np.mean([tree.predict(features)[0, :, 0] for tree in self._trees], axis=0)
        return found

    def _features(self, point: Mapping[str, Any]) -> Floats:
        return np.concatenate([_coordinates(d, point[d.path]) for d in self._space])


def _log_odds(shares: Floats) -> Floats:
    odds: Floats = np.log((shares + SOFT) / (1 - shares + SOFT))
    return odds


def _share(log_odds: Floats) -> Floats:
    share: Floats = (1 + 2 * SOFT) / (1 + np.exp(-log_odds)) - SOFT
    return np.clip(share, 0.0, 1.0)


def _coordinates(dimension: Dimension, value: Any) -> Floats:
    """A value as numbers: within [0, 1] on the dimension's own scale, or one per choice."""
    if dimension.kind == "choice":
        return np.array([float(value == choice) for choice in dimension.choices])
    low, high, value = dimension.low, dimension.high, float(value)
    if dimension.log:
        low, high, value = np.log([low, high, value])
    return np.array([(value - low) / (high - low) if high > low else 0.0])
