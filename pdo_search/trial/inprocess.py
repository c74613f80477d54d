"""The worker function inside the Tune trial's own process, which stays warm from trial to trial."""

from __future__ import annotations

from typing import Any

from pdo_search.distill.protocol import LocalWorker, Report
from pdo_search.trial.messages import Assignment, failure_message, report_message
from pdo_search.trial.shared import check_visible

__all__ = ["run_in_process"]


class InProcessWorker(LocalWorker):
    """The only worker of a trial, on the resources that Tune gave it; Tune ends the thread."""

    def report(self, report: Report) -> None:
        """Hand an epoch's results to Tune, which may end the thread here."""
        from ray import tune

        tune.report(report_message(report))


def run_in_process(suggestion: dict[str, Any], assignment: Assignment) -> None:
    """The Tune trainable: one trial. What it raises is reported, not raised.

    An exception would cost the warm process and, for what fails again anyway, a retry; only the
    death of the process is Tune's to retry.
    """
    import torch
    from ray import tune

    from pdo_search.trial.worker import run_trial

    try:
        check_visible(assignment.sweep)
        config = assignment.config(suggestion)
        worker = InProcessWorker(torch.device(config.resources.device))
        run_trial(config, worker, places=assignment.places(suggestion))
    except Exception as error:
        tune.report(failure_message(error))
