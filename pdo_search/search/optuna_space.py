"""From the experiment's dimensions to Optuna's distributions: the one place of conversion.

Both libraries' bounds are inclusive, on the grid of ``step`` where there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pdo_search.config.space import Dimension, Space

__all__ = ["all_points", "distribution", "distributions"]


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution of a dimension."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(
            int(dimension.low),
            int(dimension.high),
            log=dimension.log,
            step=int(dimension.step or 1),
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Distributions by path."""
    return {dimension.path: distribution(dimension) for dimension in space}


def all_points(space: Space, limit: int) -> Iterator[dict[str, Any]] | None:
    """Every point of a finite space of at most ``limit`` points; None for a larger one."""
    if space.num_points > limit:
        return None
    values = [_values(dimension) for dimension in space]
    return (dict(zip(space.paths, point, strict=True)) for point in itertools.product(*values))


def _values(dimension: Dimension) -> list[Any]:
    """The values of a finite dimension."""
    if dimension.kind == "choice":
        return list(dimension.choices)
    if dimension.kind == "int":
        return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))
    step = dimension.step or 0.0
    return [dimension.low + i * step for i in range(int(dimension.num_values))]
