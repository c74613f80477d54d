"""Several objectives at once: an order of trials for the rungs, and one value for the sampler.

Pure. A trial is a tuple of signed values, higher is better: the metric first, then the costs that
the search keeps low (``search.minimize``), negated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

__all__ = ["COSTS", "best_first", "costs_of", "scalarised"]

COSTS = "costs"
"""User attribute of Optuna's trials that holds a trial's costs."""
RHO = 0.05
"""Weight of the sum beside the maximum (Knowles 2006, equation 2)."""
Bounds = tuple[float, float]


def costs_of(row: Mapping[str, Any], names: Sequence[str]) -> tuple[float, ...] | None:
    """A trial's costs from a result or a row; None where one of them is not known yet."""
    costs = tuple(float(row[name]) for name in names if row.get(name) is not None)
    return costs if len(costs) == len(names) and not any(map(math.isnan, costs)) else None


def best_first(points: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Trials by non-dominated front, and within a front so that the first ones cover it.

    The order of MO-ASHA (Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving",
    section 4, EpsNet): of a front first the best by the metric, then always the one farthest from
    those that stand already. Of equals the earlier trial is ahead.

    Args:
        points: signed values by trial, higher is better, finite.
    """
    if not points:
        return []
    numbers = sorted(points)
    values = np.array([points[number] for number in numbers])
    spread = np.ptp(values, axis=0)
    values = values / np.where(spread > 0, spread, 1.0)
    fronts = _fronts(values)
    return [
        numbers[i]
        for front in range(fronts.max() + 1)
        for i in _covering(np.flatnonzero(fronts == front), values)
    ]


def _fronts(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """By point the number of its non-dominated front, from 0: one more than its dominators' last.

    Only what stands before a point in lexical order can dominate it, so one pass is enough.
    """
    order = np.lexsort(-values.T[::-1])
    ordered = values[order]
    fronts = np.zeros(len(values), dtype=np.intp)
    for i, value in enumerate(ordered):
        before = ordered[:i]
        dominators = (before >= value).all(axis=1) & (before > value).any(axis=1)
        fronts[i] = fronts[:i].max(where=dominators, initial=-1) + 1
    found = np.empty_like(fronts)
    found[order] = fronts
    return found


def _covering(front: NDArray[np.intp], values: NDArray[np.float64]) -> list[int]:
    """A front's members, the best by the metric first, then ever the farthest from the chosen."""
    members = values[front]
    distance = np.full(len(front), math.inf)
    nearest = int(np.argmax(members[:, 0]))
    chosen: list[int] = []
    for _ in front:
        chosen.append(int(front[nearest]))
        distance = np.minimum(distance, np.abs(members - members[nearest]).max(axis=1))
        distance[nearest] = -math.inf
        nearest = int(np.argmax(distance))
    return chosen


def scalarised(study: Study, sampler: BaseSampler, seed: int) -> Study:
    """A study with one value per trial, for one draw: a random trade-off between the objectives.

    ParEGO (Knowles 2006, equation 2): the augmented Chebyshev distance from the ideal under random
    weights, so that draws in turn look at all of the front. Metrics are scaled among values of the
    same epoch, costs by their logarithm.

    Args:
        study: trials whose value is the metric, with their costs as user attribute ``COSTS``.
        sampler: of the draw.
        seed: of the weights.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.FAIL]
    sign = -1.0 if study.direction is optuna.study.StudyDirection.MAXIMIZE else 1.0
    # Of a running trial TPE takes the point alone; what it has reported by now hangs on the clock.
    known = [t for t in trials if t.state.is_finished() and COSTS in t.user_attrs]
    steps: dict[int, list[float]] = {}
    for trial in known:
        for step, value in trial.intermediate_values.items():
            steps.setdefault(step, []).append(sign * value)
    ended = _bounds([sign * t.value for t in known if t.value is not None])
    cost_bounds = [
        _bounds([math.log1p(cost) for cost in costs])
        for costs in zip(*(t.user_attrs[COSTS] for t in known), strict=True)
    ]
    rng = random.Random(seed)
    weights = [rng.expovariate(1.0) for _ in range(1 + len(cost_bounds))]
    weights = [weight / sum(weights) for weight in weights]
    bounds = {step: _bounds(values) for step, values in steps.items()}

    def value_of(trial: FrozenTrial, metric: float, within: Bounds) -> float:
        logs = [math.log1p(cost) for cost in trial.user_attrs[COSTS]]
        scaled = [
            _scaled(value, limits)
            for value, limits in zip([sign * metric, *logs], [within, *cost_bounds], strict=True)
        ]
        parts = [weight * value for weight, value in zip(weights, scaled, strict=True)]
        return max(parts) + RHO * sum(parts)

    drawn = optuna.create_study(direction="minimize", sampler=sampler)
    for trial in trials:
        has_costs = trial.state.is_finished() and COSTS in trial.user_attrs
        if trial.state is TrialState.COMPLETE and not has_costs:
            continue
        drawn.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=None if trial.value is None else value_of(trial, trial.value, ended),
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={
                    step: value_of(trial, value, bounds[step])
                    for step, value in trial.intermediate_values.items()
                    if has_costs
                },
                constraints=trial.constraints or None,
            )
        )
    return drawn


def _bounds(values: Sequence[float]) -> Bounds:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _scaled(value: float, bounds: Bounds) -> float:
    low, high = bounds
    return (value - low) / (high - low) if high > low else 0.0
