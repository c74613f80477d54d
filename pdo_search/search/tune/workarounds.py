"""What Ray Tune 2.60 does that a sweep cannot use, undone: each with its symptom and its test.

Whole parts in the place of Tune's own have their reasons in their modules: ``searcher``,
``scheduler``, ``waiting``, ``slots``. Settings are in the folder's ``__init__``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from pdo_search.base.errors import StoreError

__all__ = ["Forgetful", "error_of", "store_error_in", "without_states"]

READ_BY_TUNE = ("done", "node_ip", "pid", "should_checkpoint", "training_iteration", "trial_id")


class Forgetful(TrialProgressCallback):
    """The last of the callbacks: leaves of a result what Tune itself reads.

    In the place of the one by which Tune prints results, and which prints empty ones even if asked
    to say nothing (``ray.tune.utils.callback`` adds it where none of its kind is given).

    ``Trial.update_last_result`` keeps every trial's last result to the end of the sweep, and five
    averages of every number in it: 0.1 MB a trial, written out as JSON when all have ended.
    ``TuneController._process_trial_result`` lets callbacks change a result in place. Test:
    ``test_waiting``.
    """

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Everybody else has heard it by now."""
        for name in set(result).difference(READ_BY_TUNE):
            del result[name]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says nothing."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says nothing."""


@contextmanager
def without_states() -> Iterator[None]:
    """Let Tune write no trial's state: nobody restores it, and all of them take 6 kB each, in
    memory several times over, when the last trial has ended (``Trial.get_json_state``). Measured by
    ``experiments/benchmarks/scaling.py``; too slow for a test.
    """
    usual = Trial.get_json_state
    Trial.get_json_state = lambda trial: ("{}", "{}")
    try:
        yield
    finally:
        Trial.get_json_state = usual


def store_error_in(error: BaseException | None) -> StoreError | None:
    """What a callback raised, of which Tune makes an error of its own, with a traceback for text;
    None where it was another. Test: ``test_disk_full``, of a whole sweep.
    """
    while error is not None and not isinstance(error, StoreError):
        error = error.__context__
    return error


def error_of(trial: Trial) -> Exception | None:
    """What Ray said when a trial's process died; None where it said nothing.

    ``Trial.get_pickled_error`` looks where the file is copied to later. Test:
    ``test_recorder``, whose trial has the file alone.
    """
    try:
        error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):  # There is none.
        return None
    return error
