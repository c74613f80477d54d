"""Learning curves of configurations that were never run, learnt from those of a real sweep.

A forest of randomised trees maps a point to its expected curve; what one run shows is that curve
plus the deviation of a real trial from its own expectation. Knows a table and a space, not who
searches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.config.space import Dimension, Space
from pdo_search.distill.seeds import seed_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SurrogateCurves"]

TREES = 64
PEERS = 25
Floats = NDArray[np.float64]


class SurrogateCurves:
    """Curves over a search space.

    What one run of a point shows depends on the point and the seed alone, so that competitors that
    try the same point see the same. Expectations carry no noise: the best of many tried is not
    better than a rerun of it would be on average.

    Args:
        space: the dimensions.
        points: of the recorded trials, value by path.
        curves: (N, epochs), their metric by epoch; higher is better, within [0, 1].
        seed: of the noise.
    """

    def __init__(
        self, space: Space, points: Sequence[Mapping[str, Any]], curves: Floats, *, seed: int
    ) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self._space = space
        self._seed = seed
        forest = ExtraTreesRegressor(
            n_estimators=TREES,
            min_samples_leaf=2,
            bootstrap=True,
            oob_score=True,
            random_state=0,
        )
        forest.fit(np.stack([self._features(point) for point in points]), curves)
        self._trees = [tree.tree_ for tree in forest.estimators_]
        expected: Floats = forest.oob_prediction_
        self._order = np.argsort(expected[:, -1])
        self._levels: Floats = expected[self._order, -1]
        self._deviations: Floats = (curves - expected)[self._order]

    def with_seed(self, seed: int) -> SurrogateCurves:
        """The same expectations, other runs."""
        other: SurrogateCurves = object.__new__(SurrogateCurves)
        other.__dict__ = {**self.__dict__, "_seed": seed}
        return other

    @classmethod
    def from_table(cls, table: pd.DataFrame, space: Space, metric: str) -> SurrogateCurves:
        """From rows of ``number``, ``epoch``, the metric and one column per dimension's path."""
        wide = table.pivot(index="number", columns="epoch", values=metric)
        first = table.groupby("number").first().loc[wide.index]
        points = [dict(zip(space.paths, row, strict=True)) for row in first[[*space.paths]].values]
        return cls(space, points, wide.to_numpy(dtype="float64"), seed=0)

    def observed(self, point: Mapping[str, Any]) -> list[float]:
        """The metric after each epoch as one run shows it.

        The deviation is a whole curve of a recorded trial that is expected to end about as well:
        bad configurations are noisier than good ones, and a run's luck stays with it.
        """
        expected = self._expected(point)
        draw = seed_for(self._seed, json.dumps(dict(point), sort_keys=True, default=str))
        near = int(np.searchsorted(self._levels, expected[-1])) - PEERS // 2
        first = min(max(near, 0), max(len(self._levels) - PEERS, 0))
        chosen = first + draw % min(PEERS, len(self._levels))
        shown: list[float] = np.clip(expected + self._deviations[chosen], 0.0, 1.0).tolist()
        return shown

    def truth(self, point: Mapping[str, Any]) -> float:
        """The expected metric at full budget."""
        return float(self._expected(point)[-1])

    def _expected(self, point: Mapping[str, Any]) -> Floats:
        features = self._features(point)[None].astype(np.float32)
        # sklearn's own predict takes ten times as long for one row.
        found: Floats = np.mean([tree.predict(features)[0, :, 0] for tree in self._trees], axis=0)
        return found

    def _features(self, point: Mapping[str, Any]) -> Floats:
        return np.concatenate([_coordinates(d, point[d.path]) for d in self._space])


def _coordinates(dimension: Dimension, value: Any) -> Floats:
    """A value as numbers: within [0, 1] on the dimension's own scale, or one per choice."""
    if dimension.kind == "choice":
        return np.array([float(value == choice) for choice in dimension.choices])
    low, high, value = dimension.low, dimension.high, float(value)
    if dimension.log:
        low, high, value = np.log([low, high, value])
    return np.array([(value - low) / (high - low) if high > low else 0.0])
