"""What Tune runs next, and what it keeps of a trial: on Tune's own trials."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial

from pdo_search.search.tune.waiting import WaitingLine
from pdo_search.search.tune.workarounds import Forgetful


class Controller:
    """Fails if all trials are looked through."""

    def get_trials(self) -> list[Any]:
        raise AssertionError("a look at all trials")


def trials(line: WaitingLine, count: int) -> list[Trial]:
    found = [Trial("replayed", trial_id=str(i), stub=True) for i in range(count)]
    for trial in found:
        line.on_trial_add(Controller(), trial)
    return found


def test_the_one_that_came_first_runs_first_and_who_tries_again_comes_last() -> None:
    line = WaitingLine()
    first, second, third = trials(line, 3)
    assert line.choose_trial_to_run(Controller()) is first
    first.set_status(Trial.RUNNING)
    assert line.choose_trial_to_run(Controller()) is second
    second.set_status(Trial.TERMINATED)
    first.set_status(Trial.PENDING)
    line.on_trial_add(Controller(), first)
    assert line.choose_trial_to_run(Controller()) is third
    third.set_status(Trial.RUNNING)
    assert line.choose_trial_to_run(Controller()) is first


def test_paused_trials_run_when_none_waits_to_start() -> None:
    line = WaitingLine()
    paused, fresh = trials(line, 2)
    paused.set_status(Trial.PAUSED)
    assert line.choose_trial_to_run(Controller()) is fresh
    fresh.set_status(Trial.ERROR)
    assert line.choose_trial_to_run(Controller()) is paused
    paused.set_status(Trial.TERMINATED)
    assert line.choose_trial_to_run(Controller()) is None


def test_tune_keeps_no_numbers_of_a_trial() -> None:
    trial = Trial("replayed", trial_id="1", stub=True)
    for epoch in range(1, 4):
        result: dict[str, Any] = {
            "training_iteration": epoch, "done": epoch == 3, "trial_id": "1", "pid": 7,
            "payload": "x" * 10_000, "val_accuracy": 0.5, "time_total_s": 1.0,
        }  # fmt: skip
        Forgetful().on_trial_result(epoch, [], trial, result)
        trial.update_last_result(result)
    assert set(trial.metric_analysis) <= {"done", "training_iteration"}
    assert trial.last_result["training_iteration"] == 3
    assert len(trial.run_metadata.get_json_state()) < 5_000
