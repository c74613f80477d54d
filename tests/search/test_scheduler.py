"""ASHA on replayed curves: each correction against what Ray's own scheduler does."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from pdo_search.config.schema import SchedulerConfig
from pdo_search.search.rungs import Observation, Rungs
from pdo_search.search.scheduler import EarlyStopping


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
            }
            if scheduler.on_trial_result(None, trial, result) == "STOP":
                stopped[number] = epoch
                break
    return stopped


def asha(past: Any = (), **settings: Any) -> EarlyStopping:
    config = SchedulerConfig(**{"grace": 1, "reduction": 2, **settings})
    return EarlyStopping(config, metric="val_accuracy", mode="max", seed=0, past=past)


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
    assert len(scheduler.rule.recorded[0, 2]) == 2


def test_lower_is_better_in_mode_min() -> None:
    config = SchedulerConfig(grace=1, reduction=2)
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
    assert rebuilt.rule.recorded == whole.rule.recorded


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
