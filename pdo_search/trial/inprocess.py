"""The worker function inside the Tune trial's own process, which stays warm from trial to trial."""

from __future__ import annotations

from typing import Any, TypeVar

from pdo_search.config.schema import TrialConfig
from pdo_search.trial.messages import Assignment, failure_message, report_message
from pdo_search.trial.protocol import Report
from pdo_search.trial.shared import check_visible

__all__ = ["run_in_process"]

T = TypeVar("T")


class InProcessWorker:
    """The only worker of a trial, on the resources that Tune gave it."""

    rank = 0
    world_size = 1

    def __init__(self, config: TrialConfig) -> None:
        import torch

        self.device = torch.device("cuda" if config.resources.num_gpus > 0 else "cpu")

    def report(self, report: Report) -> None:
        """Hand an epoch's results to Tune, which may end the thread here."""
        from ray import tune

        tune.report(report_message(report))

    def wrap_model(self, model: T) -> T:
        """The model itself."""
        return model

    def should_stop(self) -> bool:
        """Never: Tune ends the thread."""
        return False

    def broadcast(self, value: T) -> T:
        """The value itself."""
        return value

    def mean(self, values: T) -> T:
        """The values themselves."""
        return values


def run_in_process(suggestion: dict[str, Any], assignment: Assignment) -> None:
    """The Tune trainable: one trial. What it raises is reported, not raised.

    An exception would cost the warm process and, for what fails again anyway, a retry; only the
    death of the process is Tune's to retry.
    """
    from ray import tune

    from pdo_search.trial.worker import run_trial

    try:
        check_visible(assignment.sweep)
        config = assignment.config(suggestion)
        run_trial(config, InProcessWorker(config), places=assignment.places(suggestion))
    except Exception as error:
        tune.report(failure_message(error))
