"""Every rule on replayed curves; ASHA's corrections against what Ray's own scheduler does."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from pdo_search.config.search import SchedulerConfig
from pdo_search.search.median import MedianRule
from pdo_search.search.rungs import Observation, Rungs
from pdo_search.search.tune.scheduler import EarlyStopping


def rungs(**settings: Any) -> Rungs:
    return Rungs(SchedulerConfig(**{"grace": 1, "reduction": 2, **settings}), "max", seed=0)


def replay(scheduler: EarlyStopping, curves: dict[int, list[float]]) -> dict[int, int]:
    """Feed curves one trial after the other; the epoch after which each was stopped."""
    stopped = {}
    for number, curve in curves.items():
        trial = SimpleNamespace(config={"number": number})
        for epoch, value in enumerate(curve, start=1):
            ended = epoch == len(curve)
            result = {
                "epoch": epoch,
                "stages_done": epoch // 2,
                "stage_end": epoch % 2 == 0,
                "ended": ended,
                "val_accuracy": value,
                **({"status": "finished"} if ended else {}),
            }
            if scheduler.on_trial_result(None, trial, result) == "STOP":
                stopped[number] = epoch
                break
    return stopped


def asha(
    past: Any = (), paused: Any = (), answered: bool = False, **settings: Any
) -> EarlyStopping:
    config = SchedulerConfig(**{"kind": "asha", "grace": 1, "reduction": 2, **settings})
    return EarlyStopping(
        config, metric="val_accuracy", mode="max", seed=0,
        past=past, paused=paused, answered=answered,
    )  # fmt: skip


def recorded(scheduler: EarlyStopping) -> dict[tuple[int, int], dict[int, float]]:
    assert isinstance(scheduler.rule, Rungs)
    return scheduler.rule.recorded


def median(**settings: Any) -> EarlyStopping:
    config = SchedulerConfig(**{"kind": "median", "grace": 1, **settings})
    return EarlyStopping(config, metric="val_accuracy", mode="max", seed=0)


def test_a_late_report_counts_for_its_own_rung_alone() -> None:
    ours = rungs()
    for epoch in (8, 9, 10, 11):
        ours.observe(Observation(0, epoch, 0.5))
    assert {milestone for _, milestone in ours.recorded} == {8}


def test_rays_scheduler_records_a_late_report_in_every_lower_rung() -> None:
    """The defect that the correction is for; where this fails, the correction can go."""
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(min_t=1, max_t=16, reduction_factor=2, s=0)
    trial = SimpleNamespace(trial_id="a")
    for epoch in (8, 9, 10, 11):
        bracket.on_result(trial, epoch, 0.5)
    assert [milestone for milestone, recorded in bracket._rungs if recorded] == [8, 4, 2, 1]


def test_the_worse_half_stops_and_the_best_go_on() -> None:
    curves = {0: [0.5] * 4, 1: [0.4] * 4, 2: [0.6] * 4, 3: [0.1] * 4}
    assert replay(asha(), curves) == {1: 1, 3: 1}


def test_nan_is_worst_even_for_the_first_at_a_rung() -> None:
    assert replay(asha(), {0: [math.nan, 0.9], 1: [0.1, 0.2]}) == {0: 1}


def test_a_trial_is_not_stopped_by_its_last_report() -> None:
    scheduler = asha(grace=2)
    replay(scheduler, {0: [0.9, 0.9]})
    assert replay(scheduler, {1: [0.1, 0.1]}) == {}
    assert len(recorded(scheduler)[0, 2]) == 2


def test_lower_is_better_in_mode_min() -> None:
    config = SchedulerConfig(kind="asha", grace=1, reduction=2)
    scheduler = EarlyStopping(config, metric="val_accuracy", mode="min", seed=0)
    assert replay(scheduler, {0: [0.1, 0.1, 0.1], 1: [0.5, 0.5, 0.5]}) == {1: 1}


def test_the_stage_clock_decides_at_stage_ends_only() -> None:
    curves = {0: [0.9] * 6, 1: [0.1] * 6}
    assert replay(asha(clock="stage"), curves) == {1: 2}


def test_kind_none_stops_nobody() -> None:
    assert replay(asha(kind="none"), {0: [0.9] * 4, 1: [0.0] * 4}) == {}


def test_rebuilt_from_its_observations_it_decides_alike() -> None:
    curves = {n: [((n * 7) % 10) / 10] * 5 for n in range(12)}
    whole = asha()
    expected = replay(whole, curves)
    first = {n: c for n, c in curves.items() if n < 6}
    stopped = replay(asha(), first)
    past = [
        Observation(n, epoch, value)
        for n, curve in first.items()
        for epoch, value in enumerate(curve[: stopped.get(n, 5)], start=1)
    ]
    rebuilt = asha(past=past)
    later = replay(rebuilt, {n: c for n, c in curves.items() if n >= 6})
    assert stopped | later == expected
    assert recorded(rebuilt) == recorded(whole)


def test_a_stop_that_the_driver_did_not_live_to_make_is_made_on_resume() -> None:
    past = [Observation(0, 1, 0.9), Observation(1, 1, 0.1)]
    assert replay(asha(past=past), {1: [0.1, 0.95, 0.95]}) == {1: 1}


def test_brackets_are_shared_out_by_seed_and_start_later() -> None:
    three = rungs(brackets=3)
    shares = [three.bracket(n) for n in range(300)]
    assert all(70 < shares.count(b) < 130 for b in range(3))
    assert shares == [rungs(brackets=3).bracket(n) for n in range(300)]
    assert three.milestone(2, 3) is None
    assert three.milestone(2, 4) == 4


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_of_many_trials_one_in_reduction_passes_a_rung(reduction: int) -> None:
    ours = rungs(reduction=reduction)
    passed = sum(ours.observe(Observation(n, 1, (n * 37 % 101) / 101)) is None for n in range(100))
    # Asynchronous: early arrivals pass that a synchronous rung would have stopped.
    assert 100 / reduction * 0.8 < passed < 100 / reduction * 1.5


def test_a_rung_decides_nothing_before_it_has_its_peers() -> None:
    curves = {0: [0.9] * 4, 1: [0.5] * 4, 2: [0.4] * 4, 3: [0.3] * 4}
    assert replay(asha(), curves) == {1: 1, 2: 1, 3: 1}
    assert replay(asha(min_peers=3), curves) == {2: 1, 3: 1}
    assert replay(asha(min_peers=3), {0: [math.nan] * 4}) == {0: 1}


def test_promotion_pauses_at_every_rung_and_promotes_the_best_of_the_highest() -> None:
    scheduler = asha(kind="asha_promotion")
    curves = {0: [0.5] * 8, 1: [0.6] * 8, 2: [0.4] * 8, 3: [0.7] * 8}
    assert replay(scheduler, {0: curves[0]}) == {0: 1}
    assert scheduler.promote() is None
    # The best of two goes on at once, and waits alone at the next rung.
    assert replay(scheduler, {1: curves[1]}) == {1: 2}
    assert replay(scheduler, {2: curves[2]}) == {2: 1}
    assert scheduler.promote() is None
    assert replay(scheduler, {3: curves[3]}) == {3: 4}
    ruling = scheduler.ruling(3)
    assert ruling is not None
    assert ruling.status == "paused"
    assert scheduler.promote() is None
    assert scheduler.promote(closing=True) == 3
    assert scheduler.ruling(3) is None
    assert replay(scheduler, {3: curves[3]}) == {}
    assert scheduler.promote(closing=True) is None


def test_a_promoted_trial_that_reports_its_past_again_is_not_paused_there_again() -> None:
    scheduler = asha(kind="asha_promotion", min_peers=3)
    curves = {n: [n / 10] * 4 for n in range(1, 4)}
    assert replay(scheduler, {n: curves[n] for n in (3, 2)}) == {3: 1, 2: 1}
    assert replay(scheduler, {1: curves[1]}) == {1: 1}
    assert scheduler.promote() == 3
    assert replay(scheduler, {3: curves[3]}) == {3: 2}
    assert recorded(scheduler) == {(0, 1): {3: 0.3, 2: 0.2, 1: 0.1}, (0, 2): {3: 0.3}}


def test_promotion_never_promotes_nan_and_leaves_the_last_report_alone() -> None:
    scheduler = asha(kind="asha_promotion")
    assert replay(scheduler, {0: [math.nan] * 4, 1: [math.nan] * 4}) == {0: 1, 1: 1}
    assert scheduler.promote(closing=True) is None
    assert replay(scheduler, {2: [0.1]}) == {}


def test_where_the_last_one_fails_the_next_best_goes_on() -> None:
    scheduler = asha(kind="asha_promotion", min_peers=9)
    curves = {n: [value] * 4 for n, value in enumerate((0.5, 0.6, 0.4))}
    assert replay(scheduler, curves) == {0: 1, 1: 1, 2: 1}
    assert scheduler.promote() is None
    assert [scheduler.promote(closing=True), scheduler.promote(closing=True)] == [1, 0]
    assert replay(scheduler, {0: curves[0]}) == {0: 2}
    assert scheduler.may_promote()
    assert scheduler.promote(closing=True) == 0
    assert replay(scheduler, {0: curves[0]}) == {}
    assert not scheduler.may_promote()
    assert scheduler.promote(closing=True) is None


@pytest.mark.parametrize(("answered", "last"), [(False, 1), (True, None)])
def test_a_rebuilt_search_that_has_its_answer_promotes_nobody_in_the_end(
    answered: bool, last: int | None
) -> None:
    past = [Observation(0, 1, 0.5), Observation(1, 1, 0.6)]
    rebuilt = asha(
        kind="asha_promotion", min_peers=9, past=past, paused=range(2), answered=answered
    )
    assert rebuilt.may_promote() == (not answered)
    assert rebuilt.promote(closing=True) == last


def test_promotion_rebuilt_from_its_observations_promotes_the_same() -> None:
    whole = asha(kind="asha_promotion", min_peers=4)
    curves = {n: [v] * 4 for n, v in enumerate((0.5, 0.6, 0.4, 0.3))}
    replay(whole, curves)
    past = [Observation(n, 1, curve[0]) for n, curve in curves.items()]
    again = asha(kind="asha_promotion", min_peers=4, past=past, paused=range(4))
    order = [whole.promote(), whole.promote(), whole.promote()]
    assert order == [1, 0, None]
    assert [again.promote(), again.promote(), again.promote()] == order


def test_a_pause_that_the_driver_did_not_live_to_make_is_made_on_resume() -> None:
    past = [Observation(0, 1, 0.5), Observation(1, 1, 0.4), Observation(2, 1, 0.9)]
    scheduler = asha(kind="asha_promotion", past=[*past, Observation(2, 2, 0.9)], paused=[0])
    assert replay(scheduler, {1: [0.4] * 4}) == {1: 1}
    # Number 2 had gone on: it waits where it was last, not where it had been before.
    assert replay(scheduler, {2: [0.9] * 4}) == {2: 2}


def test_median_stops_what_is_below_the_others_running_means() -> None:
    curves = {
        0: [0.2, 0.4, 0.6, 0.7],
        1: [0.3, 0.5, 0.7, 0.8],
        2: [0.1, 0.44, 0.9, 0.9],
        3: [0.35, 0.2, 0.2, 0.2],
    }
    # Means after one, two and three epochs: 0.2 0.3 0.4; 0.3 0.4 0.5. The best so far counts.
    assert replay(median(), curves) == {2: 1, 3: 3}
    assert replay(median(grace=2), curves) == {3: 3}
    assert replay(median(min_peers=3), curves) == {3: 3}
    assert replay(median(min_peers=4), curves) == {}


def test_median_in_mode_min_and_with_nan() -> None:
    config = SchedulerConfig(kind="median", grace=1)
    scheduler = EarlyStopping(config, metric="val_accuracy", mode="min", seed=0)
    curves = {0: [0.5, 0.4, 0.3], 1: [0.9, 0.8, 0.7], 2: [math.nan, 0.1, 0.1]}
    assert replay(scheduler, curves) == {1: 1, 2: 1}


def test_median_ignores_a_report_that_it_had_before() -> None:
    scheduler = median()
    for _ in range(3):
        assert replay(scheduler, {0: [0.5, 0.6]}) == {}
    assert isinstance(scheduler.rule, MedianRule)
    assert scheduler.rule.means == {1: [0.5], 2: [0.55]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "median", "brackets": 2}, "brackets are of rungs"),
        ({"kind": "none", "brackets": 2}, "brackets are of rungs"),
        ({"kind": "median", "reduction": 3}, "reduction is of rungs"),
        ({"kind": "asha", "min_peers": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SchedulerConfig(**settings)
