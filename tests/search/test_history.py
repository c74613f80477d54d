"""What the sampler sees of a long history: all that it would take for good, and recent others."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import TrialState

from pdo_search.search.history import BEST, BoundedHistory

SPACE = {"x": optuna.distributions.FloatDistribution(0, 1)}
WHOLE, RECENT = 60, 40


def study_of(direction: str, *, whole: int = WHOLE) -> optuna.Study:
    storage = BoundedHistory(direction, whole=whole, recent=RECENT)
    return optuna.create_study(direction=direction, storage=storage)


def play(study: optuna.Study, count: int, *, first: int = 0) -> list[float]:
    """Trials of all kinds: finished, stopped at some epoch, infeasible, failed."""
    points = []
    for number in range(first, first + count):
        study.sampler = TPESampler(seed=number, constant_liar=True)
        trial = study.ask(SPACE)
        points.append(x := trial.params["x"])
        if number % 11 == 3:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 7 == 2:
            trial.set_constraint("feasible", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 3 == 1:
            trial.report(x, step=1 + number % 4)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, x * (1 - x))
    return points


def test_up_to_a_number_of_trials_nothing_is_other_than_optunas_own() -> None:
    own = optuna.create_study(direction="maximize")
    assert play(study_of("maximize", whole=80), 80) == play(own, 80)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_good_ones_are_all_there_whatever_their_age(direction: str) -> None:
    study = study_of(direction)
    play(study, 300)
    everything = optuna.storages.InMemoryStorage.get_all_trials(
        study._storage, study._study_id, False, (TrialState.COMPLETE, TrialState.PRUNED)
    )
    seen = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert RECENT <= len(seen) <= RECENT + BEST < len(everything)
    good, _ = _split_trials(study, everything, default_gamma(len(everything)))
    assert len(good) == BEST
    taken, others = _split_trials(study, seen, BEST)
    assert [t.number for t in taken] == [t.number for t in good]
    assert {t.number for t in everything[-RECENT:]} <= {t.number for t in seen}
    assert len(others) == len(seen) - BEST


def test_running_trials_are_seen_and_failed_ones_are_not() -> None:
    study = study_of("maximize")
    waiting = study.ask(SPACE)
    play(study, 100, first=1)
    states = {t.number: t.state for t in study.trials}
    assert states[waiting.number] is TrialState.RUNNING
    assert TrialState.FAIL not in states.values()
    study.tell(waiting, 0.25)
    assert study.trials[0].number == waiting.number


def test_a_study_rebuilt_from_what_ended_draws_the_same() -> None:
    live, rebuilt = study_of("maximize"), study_of("maximize")
    play(live, 150)
    for trial in optuna.storages.InMemoryStorage.get_all_trials(live._storage, live._study_id):
        if trial.state is not TrialState.FAIL:
            rebuilt.add_trial(trial)
    play_on: Any = [play(study, 5, first=1000) for study in (live, rebuilt)]
    assert play_on[0] == play_on[1]
