"""Several objectives: who stays at a rung, what the sampler draws, and that both can be rebuilt."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

import pdo_search
from pdo_search.config.load import load_experiment
from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.config.space import Space, find_dimensions
from pdo_search.results.schema import TrialStatus
from pdo_search.results.writer import TableWriter
from pdo_search.search.dominance import best_first, costs_of
from pdo_search.search.resume import plan_resume
from pdo_search.search.rungs import Observation, PromotionRungs, Rungs
from pdo_search.search.tune.scheduler import EarlyStopping
from pdo_search.search.tune.searcher import OptunaSearcher, PastTrial

from ..conftest import Pdo

SPACE = Space(tuple(find_dimensions({"width": {"float": [0.0, 1.0]}}, "student.")))
WIDTH = "student.width"


def rule(kind: type[Rungs] = Rungs, **settings: Any) -> Rungs:
    return kind(SchedulerConfig(**{"grace": 1, "reduction": 2, **settings}), "max", seed=0)


def test_fronts_come_in_turn_and_the_first_of_a_front_cover_it() -> None:
    points = {
        0: (0.90, -10.0),  # The first front: 0, 1, 2, 3.
        1: (0.89, -9.0),
        2: (0.70, -1.0),
        3: (0.80, -5.0),
        4: (0.89, -9.5),  # The second: 4, 5.
        5: (0.60, -1.5),
        6: (0.10, -20.0),
    }
    order = best_first(points)
    assert order[:2] == [0, 2]
    assert order[2:4] == [3, 1]
    assert order[4:] == [4, 5, 6]


def test_of_equals_the_earlier_trial_is_ahead() -> None:
    assert best_first({3: (0.5, -1.0), 1: (0.5, -1.0), 2: (0.5, -1.0)}) == [1, 2, 3]


@pytest.mark.parametrize("row", [{}, {"flops": None}, {"flops": math.nan}])
def test_a_cost_that_is_not_known_yet_is_none(row: dict[str, Any]) -> None:
    assert costs_of(row, ["flops"]) is None
    assert costs_of({"flops": 3, **row, "params": 4}, ["params"]) == (4.0,)


def test_a_rung_keeps_the_cheap_student_that_the_metric_alone_would_stop() -> None:
    seen = [(0.9, 10.0), (0.8, 9.0), (0.7, 9.5), (0.5, 1.0), (math.nan, 0.1)]
    with_costs, alone = rule(), rule()
    kept = [with_costs.observe(Observation(n, 1, v, (c,))) is None for n, (v, c) in enumerate(seen)]
    by_metric = [alone.observe(Observation(n, 1, v)) is None for n, (v, _) in enumerate(seen)]
    assert kept == [True, False, False, True, False]
    assert by_metric == [True, False, False, False, False]


def test_promotion_promotes_the_ends_of_the_front_first() -> None:
    promoting = rule(PromotionRungs, min_peers=4)
    assert isinstance(promoting, PromotionRungs)
    for number, (value, cost) in enumerate([(0.8, 9.0), (0.9, 10.0), (0.5, 1.0), (0.4, 9.5)]):
        assert promoting.observe(Observation(number, 1, value, (cost,))) == 1
        promoting.pause(number)
    order = []
    while (promoted := promoting.next()) is not None:
        del promoting.paused[promoted]
        order.append(promoted)
    assert order == [1, 2]


def test_where_all_values_are_nan_nobody_is_promoted() -> None:
    promoting = rule(PromotionRungs)
    assert isinstance(promoting, PromotionRungs)
    for number in range(3):
        promoting.observe(Observation(number, 1, math.nan, (float(number),)))
        promoting.pause(number)
    assert promoting.next() is None
    assert promoting.next(closing=True) is None


def test_the_scheduler_takes_costs_from_results() -> None:
    config = SchedulerConfig(kind="asha", grace=1, reduction=2)
    scheduler = EarlyStopping(config, metric="val_accuracy", mode="max", seed=0, minimize=["flops"])
    decided = []
    for number, (value, flops) in enumerate([(0.9, 9.0), (0.5, 1.0), (0.4, 8.0)]):
        result = {
            "epoch": 1, "stages_done": 0, "stage_end": False, "ended": False,
            "val_accuracy": value, "flops": flops,
        }  # fmt: skip
        trial = SimpleNamespace(config={"number": number})
        decided.append(scheduler.on_trial_result(None, trial, result))
    assert decided == ["CONTINUE", "STOP", "STOP"]
    assert scheduler.rule is not None
    assert isinstance(scheduler.rule, Rungs)
    assert scheduler.rule.costs == {0: (9.0,), 1: (1.0,), 2: (8.0,)}


def accuracy(width: float) -> float:
    """More width helps ever less; above 0.8 it only costs."""
    return 0.5 + 0.4 * math.sqrt(min(width, 0.8))


def searcher(past: list[PastTrial], num_new: int, **settings: Any) -> OptunaSearcher:
    config = SearchConfig(startup_trials=6, minimize=["flops"], **settings)
    return OptunaSearcher(SPACE, config, num_new=num_new, past=past)


def drawn(seed: int, num_trials: int = 40) -> list[float]:
    """Widths that a search with two objectives tries."""
    found = searcher([], num_trials, seed=seed)
    widths = []
    for number in range(num_trials):
        suggestion = found.suggest(str(number))
        assert isinstance(suggestion, dict)
        width = suggestion["point"][WIDTH]
        result = {"epoch": 1, "val_accuracy": accuracy(width), "flops": 1e6 * (0.1 + width)}
        found.on_trial_result(str(number), {**result, "status": "finished"})
        found.on_trial_complete(str(number))
        widths.append(width)
    return widths


def test_draws_spread_over_the_front_and_leave_what_is_dominated() -> None:
    modelled = [width for seed in range(5) for width in drawn(seed)[10:]]
    dominated = sum(width > 0.85 for width in modelled) / len(modelled)
    assert dominated < 0.1  # 0.15 by chance.
    assert sum(width < 0.25 for width in modelled) > 0.2 * len(modelled)
    assert sum(0.4 < width < 0.85 for width in modelled) > 0.2 * len(modelled)


def test_a_rebuilt_searcher_draws_what_the_whole_one_would() -> None:
    whole = drawn(seed=3, num_trials=12)
    past = [
        PastTrial(
            number, {WIDTH: width}, TrialStatus.FINISHED, accuracy(width), {1: accuracy(width)},
            (1e6 * (0.1 + width),),
        )
        for number, width in enumerate(whole[:11])
    ]  # fmt: skip
    suggestion = searcher(past, 1, seed=3).suggest("next")
    assert isinstance(suggestion, dict)
    assert suggestion["point"][WIDTH] == whole[11]


def test_infeasible_and_stopped_trials_without_costs_do_no_harm() -> None:
    past = [
        PastTrial(0, {WIDTH: 0.1}, TrialStatus.INFEASIBLE, None, {}, None),
        PastTrial(1, {WIDTH: 0.2}, TrialStatus.STOPPED, None, {1: 0.5}, None),
        *(
            PastTrial(n, {WIDTH: n / 10}, TrialStatus.FINISHED, 0.5, {1: 0.5}, (1e6,))
            for n in range(2, 9)
        ),
    ]
    assert isinstance(searcher(past, 1).suggest("next"), dict)


@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_sweep_for_accuracy_and_flops_decides_by_both_and_is_resumed(pdo: Pdo) -> None:
    file = pdo.experiment(
        student={"arch": "small_convnet", "width": {"choice": [2, 4, 8, 16]}, "depth": 1},
        search={"num_trials": 6, "minimize": ["flops"], "startup_trials": 3},
        scheduler={"grace": 1, "reduction": 2},
        resources={"cpus": 1, "max_concurrent": 1},
    )
    pdo.run("run", str(file), "--address", "auto", "--name", "both")
    path = pdo.folder / "results" / "both"
    pdo.run("resume", str(path), "--trials", "+2", "--address", "auto")
    sweep = pdo_search.open_sweep(path)
    assert len(sweep.trials) == 8
    assert sweep.trials["flops"].nunique() > 1
    loaded, tables = load_experiment(file), TableWriter(path)
    plan = plan_resume(
        tables.rows("trials"),
        tables.rows("epochs"),
        loaded.space,
        metric="val_accuracy",
        num_trials=8,
        scheduler=loaded.experiment.scheduler,
        minimize=["flops"],
    )
    again = Rungs(loaded.experiment.scheduler, "max", loaded.experiment.search.seed)
    left = {seen.number for seen in plan.observations if again.observe(seen) is not None}
    ended = sweep.trials.set_index("number")
    last = ended["epochs_done"].max()
    stopped = set(ended.index[ended["status"] == "stopped"])
    assert stopped == {number for number in left if ended["epochs_done"][number] < last}
    front = sweep.pareto("flops", "val_accuracy")
    assert not front.empty
