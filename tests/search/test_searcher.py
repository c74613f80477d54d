"""The searcher on replayed outcomes: what Optuna is told, and that it repeats."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.trial import TrialState

from pdo_search.config.search import SearchConfig
from pdo_search.config.space import Space, find_dimensions
from pdo_search.results.schema import TrialStatus
from pdo_search.search.optuna_space import all_points, distribution, distributions
from pdo_search.search.tune.searcher import OptunaSearcher, PastTrial, Requeued

SPACE = Space(
    tuple(
        find_dimensions(
            {
                "num_stages": {"int": [1, 4]},
                "temperature": {"float": [1.0, 8.0]},
                "curriculum": {"order": {"choice": ["easy_first", "random", None]}},
            }
        )
    )
)
SMALL = Space(
    tuple(find_dimensions({"num_stages": {"int": [1, 2]}, "x": {"choice": [True, False]}}))
)


def searcher(space: Space = SPACE, num_new: int = 50, **settings: Any) -> OptunaSearcher:
    past = settings.pop("past", ())
    given = {k: settings.pop(k) for k in ("requeued", "promoter", "deadline") if k in settings}
    return OptunaSearcher(space, SearchConfig(**settings), num_new=num_new, past=past, **given)


def play(
    found: OptunaSearcher, name: str, curve: list[float], status: str | None = None
) -> dict[str, Any]:
    """One trial: suggested, reported epoch by epoch, completed."""
    suggestion = found.suggest(name)
    assert isinstance(suggestion, dict)
    for epoch, value in enumerate(curve, start=1):
        found.on_trial_result(name, {"epoch": epoch, "val_accuracy": value})
    if status is not None:
        found.on_trial_result(name, {"status": status, "ended": True})
    found.on_trial_complete(name)
    return suggestion


def test_a_finished_trial_is_complete_with_its_last_value() -> None:
    found = searcher()
    play(found, "a", [0.5, 0.7], "finished")
    trial = found.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)


def test_a_stopped_trial_is_pruned_with_its_curve_not_complete() -> None:
    found = searcher()
    play(found, "a", [0.5, 0.6])
    trial = found.study.trials[0]
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.5, 2: 0.6}


@pytest.mark.parametrize(
    ("curve", "status"), [([0.5, math.nan], "finished"), ([0.5], "failed"), ([], "failed")]
)
def test_nan_and_failures_are_told_fail_and_nothing_stays_running(
    curve: list[float], status: str
) -> None:
    found = searcher()
    play(found, "a", curve, status)
    assert [t.state for t in found.study.trials] == [TrialState.FAIL]


def test_a_dead_process_is_told_fail() -> None:
    found = searcher()
    found.suggest("a")
    found.on_trial_complete("a", error=True)
    assert found.study.trials[0].state is TrialState.FAIL


def test_an_infeasible_trial_carries_a_violated_constraint() -> None:
    found = searcher()
    play(found, "a", [], "infeasible")
    assert found.study.trials[0].constraints == {"feasible": 1.0}


def test_tpe_learns_to_avoid_what_is_infeasible() -> None:
    found = searcher(num_new=120, startup_trials=15)
    shares = []
    for number in range(100):
        name = str(number)
        suggestion = found.suggest(name)
        assert isinstance(suggestion, dict)
        infeasible = suggestion["point"]["temperature"] > 4.5
        shares.append(infeasible)
        if infeasible:
            found.on_trial_result(name, {"status": "infeasible", "ended": True})
        else:
            value = suggestion["point"]["num_stages"] / 8
            found.on_trial_result(name, {"epoch": 1, "val_accuracy": value})
            found.on_trial_result(name, {"status": "finished", "ended": True})
        found.on_trial_complete(name)
    assert sum(shares[:15]) >= 4
    assert sum(shares[60:]) < 12


def test_no_configuration_is_run_twice_and_a_finite_space_ends() -> None:
    found = searcher(SMALL, num_new=50)
    points: list[Any] = []
    while isinstance(suggestion := found.suggest(str(len(points))), dict):
        found.on_trial_complete(str(len(points)))
        points.append(tuple(suggestion["point"].items()))
    assert suggestion == "FINISHED"
    assert len(points) == len(set(points)) == 4


def test_the_same_seed_and_outcomes_give_the_same_points_another_seed_others() -> None:
    def points(seed: int) -> list[Any]:
        found = searcher(seed=seed, startup_trials=3)
        return [play(found, str(i), [i / 20], "finished")["point"] for i in range(8)]

    assert points(1) == points(1)
    assert points(1) != points(2)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_rebuilt_from_the_tables_it_goes_on_as_if_never_cut_off(sampler: str) -> None:
    whole = searcher(sampler=sampler, startup_trials=3)
    suggestions = [play(whole, str(i), [i / 20], "finished") for i in range(10)]
    past = [
        PastTrial(s["number"], s["point"], TrialStatus.FINISHED, i / 20, {1: i / 20})
        for i, s in enumerate(suggestions[:6])
    ]
    rebuilt = searcher(sampler=sampler, startup_trials=3, past=past, num_new=44)
    again = [play(rebuilt, str(i), [i / 20], "finished") for i in range(6, 10)]
    assert again == suggestions[6:]


def test_the_report_at_which_a_trial_is_stopped_counts() -> None:
    """Tune passes it to on_trial_complete alone."""
    found = searcher()
    found.suggest("a")
    found.on_trial_result("a", {"epoch": 1, "val_accuracy": 0.5})
    found.on_trial_complete("a", {"epoch": 2, "val_accuracy": 0.6})
    assert found.study.trials[0].intermediate_values == {1: 0.5, 2: 0.6}


class Promoter:
    """Promotes the given numbers, one each time it is asked."""

    def __init__(self, *numbers: int | None, closing: int | None = None) -> None:
        self.numbers = list(numbers)
        self.closing = closing

    def promote(self, *, closing: bool = False) -> int | None:
        if closing:
            number, self.closing = self.closing, None
            return number
        return self.numbers.pop(0) if self.numbers else None


def test_a_promoted_trial_goes_before_new_ones_and_is_one_trial_for_optuna() -> None:
    found = searcher(num_new=2, promoter=Promoter(None, 0, None))
    first = play(found, "a", [0.5])
    assert found.study.trials[0].state is TrialState.PRUNED
    again = found.suggest("b")
    assert again == first
    assert found.study.trials[0].state is TrialState.RUNNING
    second = found.suggest("c")
    assert isinstance(second, dict)
    assert second["number"] == 1
    for epoch, value in enumerate([0.5, 0.6, 0.8], start=1):
        found.on_trial_result("b", {"epoch": epoch, "val_accuracy": value})
    found.on_trial_result("b", {"status": "finished", "ended": True})
    found.on_trial_complete("b")
    promoted = found.study.trials[0]
    assert (promoted.state, promoted.value) == (TrialState.COMPLETE, 0.8)
    assert promoted.intermediate_values == {1: 0.5, 2: 0.6, 3: 0.8}
    assert len(found.study.trials) == 2


def test_while_trials_run_a_search_that_pauses_is_not_finished() -> None:
    found = searcher(num_new=1, promoter=Promoter(closing=0))
    found.suggest("a")
    assert found.suggest("b") is None
    found.on_trial_complete("a", {"epoch": 1, "val_accuracy": 0.5})
    last = found.suggest("c")
    assert isinstance(last, dict)
    assert last["number"] == 0
    found.on_trial_complete("c", {"epoch": 2, "val_accuracy": 0.5})
    assert found.suggest("d") == "FINISHED"


def test_a_paused_trial_of_an_earlier_run_is_promoted_under_its_number() -> None:
    point = {"num_stages": 3, "temperature": 2.5, "curriculum.order": None}
    past = [
        PastTrial(0, {**point, "num_stages": 1}, TrialStatus.FINISHED, 0.5, {1: 0.5}),
        PastTrial(3, point, TrialStatus.PAUSED, 0.4, {1: 0.4}),
    ]
    found = searcher(past=past, promoter=Promoter(3))
    assert found.suggest("a") == {"number": 3, "trial_id": "t0003", "point": point}
    assert [t.state.name for t in found.study.trials] == ["COMPLETE", "RUNNING"]


def test_after_the_deadline_nothing_is_promoted() -> None:
    found = searcher(promoter=Promoter(0), deadline=0.0)
    assert found.suggest("a") == "FINISHED"


def test_interrupted_trials_go_first_under_their_own_numbers() -> None:
    point = {"num_stages": 3, "temperature": 2.5, "curriculum.order": None}
    found = searcher(requeued=[Requeued(4, point)], num_new=1)
    first, second = found.suggest("a"), found.suggest("b")
    assert first == {"number": 4, "trial_id": "t0004", "point": point}
    assert isinstance(second, dict)
    assert second["number"] == 5
    assert found.suggest("c") == "FINISHED"


def test_a_grid_is_exactly_its_points() -> None:
    points = [{"num_stages": n, "x": True} for n in (1, 2)]
    found = searcher(SMALL, sampler="grid", points=points, num_new=9)
    assert [found.suggest(str(i))["point"] for i in range(2)] == points  # type: ignore[index]
    assert found.suggest("c") == "FINISHED"


def test_given_points_come_first_under_tpe() -> None:
    found = searcher(points=[{"temperature": 3.25}])
    first = found.suggest("a")
    assert isinstance(first, dict)
    assert first["point"]["temperature"] == 3.25
    assert set(first["point"]) == set(SPACE.paths)


@pytest.mark.parametrize(
    "node",
    [
        {"int": [1, 7]},
        {"int": [2, 10], "step": 4},
        {"int": [1, 64], "log": True},
        {"float": [0.5, 2.5]},
        {"float": [0.1, 0.5], "step": 0.1},
        {"float": [1e-4, 1e-1], "log": True},
        {"choice": [1, 2.5, "a", None]},
    ],
)
def test_both_ends_of_every_dimension_survive_the_conversion(node: dict[str, Any]) -> None:
    dimension = find_dimensions({"x": node})[0]
    there = distribution(dimension)
    for end in dimension.ends():
        assert there._contains(there.to_internal_repr(end))
        assert there.to_external_repr(there.to_internal_repr(end)) == end
    if dimension.kind != "choice":
        assert (there.low, there.high) == (dimension.low, dimension.high)
        assert there.log == dimension.log


def test_both_ends_are_reached_by_sampling() -> None:
    found = searcher(SMALL, sampler="random")
    drawn = {found.suggest(str(i))["point"]["num_stages"] for i in range(4)}  # type: ignore[index]
    assert drawn == {1, 2}
    assert set(distributions(SMALL)) == {"num_stages", "x"}


def test_only_a_finite_space_is_listed() -> None:
    assert all_points(SPACE, 1000) is None
    assert len(list(all_points(SMALL, 1000) or ())) == 4
    assert all_points(SMALL, 3) is None
