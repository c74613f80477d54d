"""What a trial's processes and the driver tell each other, and how."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from pdo_search.base.errors import Infeasible, disk_is_full
from pdo_search.base.safetext import presentable
from pdo_search.base.storage import is_unreachable
from pdo_search.config.resolve import confirming, resolve
from pdo_search.config.schema import Experiment, TrialConfig
from pdo_search.config.search import STUDENT_COSTS
from pdo_search.trial.protocol import Places, Report
from pdo_search.trial.shared import NotShared

__all__ = ["Assignment", "failure_message", "report_message"]

LONGEST_CAUSE = 2000
"""Characters; what is longer is in the traceback's file."""


@dataclass(frozen=True)
class Assignment:
    """What every trial of a sweep has in common; with a suggestion it makes a trial.

    Attributes:
        experiment: as JSON.
        sweep: the sweep's directory, path or URI.
        store: root of the store.
        base_dir: folder that relative paths refer to.
        fingerprint: of the task; None where nobody has looked.
    """

    experiment: str
    sweep: str
    store: str
    base_dir: str
    fingerprint: str | None = None

    def config(self, suggestion: dict[str, Any]) -> TrialConfig:
        """The trial at the suggested point, or a run of its confirmation.

        Raises:
            Infeasible: the point breaks a rule between fields.
        """
        experiment = Experiment.model_validate_json(self.experiment)
        config = resolve(experiment, suggestion["point"], suggestion["method"])
        return confirming(config, suggestion["seed"]) if "seed" in suggestion else config

    def places(self, suggestion: dict[str, Any]) -> Places:
        """Where the suggested trial reads and writes."""
        name = suggestion["trial_id"]
        return Places(
            store=self.store,
            sweep=self.sweep,
            base_dir=self.base_dir,
            trial_id=name,
            number=suggestion["number"],
            fingerprint=self.fingerprint,
        )

    def to_dict(self) -> dict[str, str | None]:
        """As plain values, for another process."""
        return asdict(self)


def report_message(report: Report) -> dict[str, Any]:
    """A report as Tune carries it: what the search looks at, and the rest as one text.

    Tune walks through every nested value of a result; a text keeps that short.
    """
    metrics = report.metrics
    message = {
        "epoch": metrics["epoch"],
        "stages_done": metrics["stages_done"],
        "stage_end": metrics["stage_end"],
        "ended": metrics["done"],
        "payload": json.dumps({"metrics": metrics, "rows": report.rows}),
        **{
            name: value
            for name, value in metrics.items()
            if name.startswith("val_") or name in STUDENT_COSTS
        },
    }
    if metrics["done"]:
        message["status"] = "finished"
    return message


def failure_message(error: Exception) -> dict[str, Any]:
    """The last message of a trial that did not train to its end, without secrets.

    A full disk or an object store that is gone is nobody's failure: such a trial goes on from its
    checkpoint when there is space, or an answer. A machine that does not see the sweep says nothing
    of the trial either.
    """
    status = "infeasible" if isinstance(error, Infeasible) else "failed"
    nobodys = disk_is_full(error) or is_unreachable(error) or isinstance(error, NotShared)
    return {
        "ended": True,
        "status": "interrupted" if nobodys else status,
        "cause": presentable(f"{type(error).__name__}: {error}")[:LONGEST_CAUSE],
        "traceback": presentable("".join(traceback.format_exception(error))),
    }
