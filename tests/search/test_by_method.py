"""Several methods in one sweep: turns, numbers, and that none disturbs another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.config.space import Space, find_dimensions
from pdo_search.results.schema import TrialStatus
from pdo_search.search.resume import Plan
from pdo_search.search.tune.by_method import (
    SchedulerByMethod,
    SearcherByMethod,
    counted,
    turn,
)
from pdo_search.search.tune.scheduler import EarlyStopping
from pdo_search.search.tune.searcher import OptunaSearcher, PastTrial, Requeued

SPACE = Space(tuple(find_dimensions({"temperature": {"float": [1.0, 8.0]}})))
PLANNED = {"progressive": 8, "scratch": 4}


def searcher(
    planned: dict[str, int], plans: dict[str, Plan] | None = None, space: Space = SPACE
) -> SearcherByMethod:
    plans = plans or {method: Plan(num_new=count) for method, count in planned.items()}
    starts = {method: counted(plan) for method, plan in plans.items()}
    own = {
        method: OptunaSearcher(
            space,
            SearchConfig(seed=place),
            num_new=start.plan.num_new,
            past=start.plan.past,
            requeued=start.plan.requeued,
        )
        for place, (method, start) in enumerate(starts.items())
    }
    numbers = {method: list(start.numbers) for method, start in starts.items()}
    requeued = sorted(
        (numbers[method][again.number], method)
        for method, start in starts.items()
        for again in start.plan.requeued
    )
    return SearcherByMethod(own, numbers, requeued, planned)


def play(found: SearcherByMethod, count: int = 99) -> list[dict[str, Any]]:
    """Suggestions until there are no more, each finished with its temperature as value."""
    suggestions: list[dict[str, Any]] = []
    while len(suggestions) < count:
        name = str(len(suggestions))
        suggestion = found.suggest(name)
        if not isinstance(suggestion, dict):
            break
        value = suggestion["point"].get("temperature", 0) / 10
        found.on_trial_result(name, {"epoch": 1, "val_accuracy": value, "status": "finished"})
        found.on_trial_complete(name)
        suggestions.append(suggestion)
    return suggestions


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_methods_take_turns_in_proportion_and_end_together(counts: list[int]) -> None:
    planned = {str(place): count for place, count in enumerate(counts)}
    total, done = sum(counts), dict.fromkeys(planned, 0)
    for step in range(1, total + 1):
        open_ = {m: c for m, c in planned.items() if done[m] < c}
        method = turn(done, open_)
        assert method is not None
        done[method] += 1
        for m, count in planned.items():
            assert abs(done[m] - count * step / total) <= len(counts)
    assert done == planned
    assert turn(done, {}) is None


def test_every_method_gets_its_trials_under_numbers_of_the_sweep() -> None:
    suggestions = play(searcher(PLANNED))
    assert [s["number"] for s in suggestions] == list(range(12))
    assert [s["trial_id"] for s in suggestions] == [f"t{n:04d}" for n in range(12)]
    methods = [s["method"] for s in suggestions]
    assert {m: methods.count(m) for m in PLANNED} == PLANNED
    assert "scratch" in methods[:3]
    assert "progressive" in methods[-3:]


def test_a_baseline_changes_nothing_in_what_the_search_draws() -> None:
    alone = play(searcher({"progressive": 8}))
    beside = [s for s in play(searcher(PLANNED)) if s["method"] == "progressive"]
    assert [s["point"] for s in beside] == [s["point"] for s in alone]


def test_a_method_without_untried_points_leaves_the_turn_to_the_others() -> None:
    found = searcher({"progressive": 3, "scratch": 3}, space=Space())
    assert [s["method"] for s in play(found)] == ["progressive", "scratch"]


def test_a_method_that_waits_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searcher({"progressive": 2, "scratch": 1})
    own, suggest = found.searchers["progressive"], found.searchers["progressive"].suggest
    monkeypatch.setattr(own, "suggest", lambda trial_id: None)
    first = found.suggest("a")
    assert isinstance(first, dict)
    assert first["method"] == "scratch"
    assert found.suggest("b") is None
    monkeypatch.setattr(own, "suggest", suggest)
    assert [s["number"] for s in play(found)] == [1, 2]


def test_cut_off_it_goes_on_with_what_it_would_have_drawn() -> None:
    whole = play(searcher(PLANNED))
    for cut in range(1, 12):
        plans = {}
        for method, count in PLANNED.items():
            own = [s for s in whole[:cut] if s["method"] == method]
            past = tuple(
                PastTrial(s["number"], s["point"], TrialStatus.FINISHED, value, {1: value})
                for s in own
                if s["number"] != cut - 1
                for value in [s["point"]["temperature"] / 10]
            )
            again = tuple(Requeued(s["number"], s["point"]) for s in own if s["number"] == cut - 1)
            plans[method] = Plan(past, again, num_new=count - len(own))
        assert play(searcher(PLANNED, plans)) == whole[cut - 1 :]


def test_a_hole_in_the_numbers_is_filled() -> None:
    point = {"temperature": 2.0}
    past = tuple(PastTrial(n, point, TrialStatus.FINISHED, 0.2, {1: 0.2}) for n in (0, 3))
    plans = {"progressive": Plan(past, num_new=3)}
    assert [s["number"] for s in play(searcher({"progressive": 5}, plans))] == [1, 2, 4]


def test_a_trial_is_stopped_by_its_peers_and_by_no_other_method() -> None:
    config = SchedulerConfig(kind="asha", grace=1, reduction=2)
    scheduler = SchedulerByMethod(
        {
            method: EarlyStopping(config, metric="val_accuracy", mode="max", seed=0)
            for method in PLANNED
        }
    )

    def answer(number: int, method: str, value: float) -> str:
        trial = SimpleNamespace(config={"number": number, "method": method})
        report = {"epoch": 1, "val_accuracy": value, "ended": False, "stage_end": False}
        return scheduler.on_trial_result(None, trial, report)

    assert answer(0, "progressive", 0.9) == "CONTINUE"
    assert answer(1, "scratch", 0.3) == "CONTINUE"
    assert answer(2, "scratch", 0.2) == "STOP"
    assert answer(3, "progressive", 0.8) == "STOP"
    rulings = [scheduler.ruling(number) for number in range(4)]
    assert [ruling is not None for ruling in rulings] == [False, False, True, True]
    assert scheduler.rung_reached(2) == 1
