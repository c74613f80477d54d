"""The simulator with real searchers and schedulers, on made-up curves and on recorded ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from simulate import Moment, compute_to_reach, simulate, value_at
from surrogate import SurrogateCurves

from pdo_search.config import load_experiment
from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.config.space import Space, find_dimensions
from pdo_search.search.optuna_space import distributions
from pdo_search.search.tune.scheduler import EarlyStopping
from pdo_search.search.tune.searcher import OptunaSearcher

RECORDED = Path(__file__).parents[2] / "experiments" / "benchmarks" / "curves"
SPACE = Space(tuple(find_dimensions({"x": {"float": [0.0, 1.0]}, "k": {"choice": ["a", "b"]}})))
METRIC = "val_accuracy"


class Rising:
    """Curves that rise to x; ``seen`` remembers for whom they were asked."""

    epochs = 9

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []

    def observed(self, point: Mapping[str, Any]) -> Sequence[float]:
        self.seen.append(point)
        return [point["x"] * epoch / self.epochs for epoch in range(1, self.epochs + 1)]

    def truth(self, point: Mapping[str, Any]) -> float:
        return float(point["x"])


def play(
    curves: Any,
    *,
    budget: int,
    space: Space = SPACE,
    kind: str = "none",
    num_new: int = 1000,
    **search: Any,
) -> list[Moment]:
    config = SchedulerConfig(kind=kind, grace=1)
    stopping = EarlyStopping(config, metric=METRIC, mode="max", seed=0)
    searcher = OptunaSearcher(space, SearchConfig(**search), num_new=num_new, promoter=stopping)
    return simulate(searcher, stopping, curves, metric=METRIC, workers=3, budget=budget)


def test_every_trained_epoch_is_paid_once_and_the_budget_is_kept() -> None:
    curves = Rising()
    moments = play(curves, budget=40, sampler="random")
    assert [m.epochs for m in moments] == list(range(1, 41))
    # Three workers, nine epochs each: four full rounds of three and a bit.
    assert len(curves.seen) == 6


@pytest.mark.parametrize("kind", ["asha", "asha_promotion", "median"])
def test_stopping_tries_more_configurations_and_finds_a_better_one(kind: str) -> None:
    without, with_it = Rising(), Rising()
    plain = play(without, budget=90, sampler="random")
    found = play(with_it, budget=90, sampler="random", kind=kind)
    assert len(with_it.seen) > len(without.seen)
    best = max(p["x"] for p in with_it.seen)
    assert found[-1].truth > plain[-1].truth
    assert found[-1].truth > best - 0.1


def test_a_paused_trial_is_trained_from_where_it_was_and_the_last_one_to_its_end() -> None:
    curves = Rising()
    moments = play(curves, budget=1000, kind="asha_promotion", num_new=4)
    # Four reach epoch 1, the best of them 3; nothing is promoted from there, so it ends the search.
    assert len(curves.seen) == 4
    assert len(moments) == 3 + 9
    assert moments[-1].truth == max(p["x"] for p in curves.seen)


@settings(max_examples=200, deadline=None)
@given(drawn=st.data())
def test_every_search_ends_with_all_trials_tried_and_an_answer_where_there_is_one(
    drawn: st.DataObject,
) -> None:
    values = drawn.draw(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=1))
    kind = drawn.draw(st.sampled_from(["asha_promotion", "asha", "median"]))
    fields = {"grace": st.integers(1, 6), "min_peers": st.integers(1, 5)}
    if kind != "median":
        fields |= {"brackets": st.integers(1, 3), "reduction": st.integers(2, 4)}
    config = SchedulerConfig(kind=kind, **drawn.draw(st.fixed_dictionaries(fields)))
    tried = itertools.count()

    class Drawn(Rising):
        def observed(self, point: Mapping[str, Any]) -> Sequence[float]:
            return [values[next(tried)]] * self.epochs

    stopping = EarlyStopping(config, metric=METRIC, mode="max", seed=0)
    searcher = OptunaSearcher(
        SPACE, SearchConfig(sampler="random"), num_new=len(values), promoter=stopping
    )
    workers = drawn.draw(st.integers(1, 5))
    moments = simulate(searcher, stopping, Drawn(), metric=METRIC, workers=workers, budget=10_000)
    assert next(tried) == len(values)
    assert len(moments) <= len(values) * Rising.epochs
    states = {trial.state for trial in searcher.study.trials}
    assert all(state.is_finished() for state in states)
    assert (TrialState.COMPLETE in states) == any(not math.isnan(value) for value in values)


def test_a_lucky_value_is_charged_with_what_a_rerun_would_reach() -> None:
    class Lucky(Rising):
        def observed(self, point: Mapping[str, Any]) -> Sequence[float]:
            return [1.0 if point["x"] < 0.3 else 0.5] * self.epochs

    moments = play(Lucky(), budget=200, sampler="random")
    assert moments[-1].truth < 0.3


def test_rays_own_searcher_and_scheduler_run_in_it() -> None:
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(distributions(SPACE), metric=METRIC, mode="max", seed=0)
    scheduler = ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=9)
    moments = simulate(
        searcher, scheduler, Rising(), metric=METRIC, workers=3, budget=90, point_of=dict
    )
    assert len(moments) == 90
    states = [t.state.name for t in searcher._ot_study.trials]
    assert states.count("COMPLETE") > 10
    assert "PRUNED" not in states


def test_the_best_so_far_at_a_budget_and_the_budget_of_a_value() -> None:
    moments = [Moment(1, 0.2), Moment(2, 0.6), Moment(3, 0.4)]
    assert [value_at(moments, n) for n in (0, 1, 2, 9)] == [-math.inf, 0.2, 0.6, 0.4]
    assert [compute_to_reach(moments, t) for t in (0.1, 0.5, 0.7)] == [1, 2, math.inf]


def surrogate() -> SurrogateCurves:
    """Learnt from 200 points of Rising, 60 of which were run three times."""
    draw = np.random.default_rng(0)
    xs = draw.uniform(0.2, 0.8, 200)
    points = [{"x": float(x), "k": "ab"[i % 2]} for i, x in enumerate(xs)]
    noise = [draw.normal(0, 0.02, (3 if i < 60 else 1, 1)) for i in range(200)]
    shape = np.arange(1, 10) / 9
    runs = [x * shape + luck * shape for x, luck in zip(xs, noise, strict=True)]
    return SurrogateCurves(SPACE, points, runs)


def test_a_surrogate_expects_what_the_curves_had_in_common() -> None:
    found = surrogate()
    for x in (0.3, 0.5, 0.7):
        assert found.truth({"x": x, "k": "a"}) == pytest.approx(x, abs=0.06)


def test_a_run_is_noisy_by_seed_and_the_same_for_everybody() -> None:
    found, point = surrogate(), {"x": 0.5, "k": "b"}
    assert found.observed(point) == found.observed(dict(reversed(point.items())))
    ends = {found.with_seed(seed).observed(point)[-1] for seed in range(20)}
    assert len(ends) > 5
    assert np.std(list(ends)) == pytest.approx(0.02, abs=0.015)
    assert np.mean(list(ends)) == pytest.approx(found.truth(point), abs=0.03)


@pytest.mark.parametrize("name", ["digits", "digits_wide"])
@pytest.mark.parametrize("kind", ["asha", "asha_promotion", "median"])
def test_recorded_trials_are_stopped_early_and_a_good_one_is_left(name: str, kind: str) -> None:
    table = pd.read_parquet(RECORDED / f"{name}.parquet")
    wide = table[table["seed"] == 0].pivot(index="number", columns="epoch", values=METRIC)
    curves = wide.head(120)
    space = load_experiment(RECORDED / f"{name}.yaml").space
    first = table.groupby("number").first().loc[curves.index, [*space.paths]]
    points = first.to_dict("records")

    class Recorded:
        def observed(self, point: Mapping[str, Any]) -> Sequence[float]:
            asked = next(i for i, p in enumerate(points) if p == dict(point))
            return [float(v) for v in curves.iloc[asked]]

        def truth(self, point: Mapping[str, Any]) -> float:
            return self.observed(point)[-1]

    moments = play(
        Recorded(), space=space, budget=10**6, kind=kind, sampler="grid", points=tuple(points)
    )
    assert len(moments) < 0.75 * curves.size
    best = curves.iloc[:, -1]
    assert (best > moments[-1].truth).mean() < 0.15
