"""A sweep that is not at its end: what its trials are doing, and how many there will be.

Reads tables and ``sweep.json`` alone. Whether a driver is alive is known above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pdo_search.analysis.leaderboard import plain
from pdo_search.base.errors import InputError
from pdo_search.config.recipe import Recipe
from pdo_search.config.resolve import most_trials
from pdo_search.config.schema import Experiment
from pdo_search.config.space import Space, find_dimensions
from pdo_search.results.schema import Col, TrialStatus, param_column
from pdo_search.results.sweepfile import SweepInfo

if TYPE_CHECKING:
    import pandas as pd

    from pdo_search.analysis.sweep import Sweep

__all__ = ["possible_trials", "running_trials"]


def possible_trials(info: SweepInfo) -> int:
    """Trials in all: those asked for, or as many as there are points where these are fewer."""
    asked = info.trials_by_method
    try:
        experiment = Experiment.model_validate(info.given)
        space = Space(
            (
                *find_dimensions(experiment.trial),
                *find_dimensions(experiment.student, "student."),
            )
        )
        most = {method: most_trials(experiment, space, method) for method in asked}
    except (ValidationError, InputError, KeyError, RecursionError):
        return sum(asked.values())  # Of another version, or damaged.
    return int(sum(min(number, most[method]) for method, number in asked.items()))


def running_trials(sweep: Sweep) -> list[dict[str, Any]]:
    """What every running trial does.

    Returns:
        ``trial_id``, ``method``, ``attempt``, ``epoch`` (the last one reported), ``epochs`` (of its
        budget) and ``doing``, in words.
    """
    trials = sweep.trials
    rows = trials[trials[Col.STATUS] == TrialStatus.RUNNING.value].to_dict("records")
    if not rows:
        return []
    found = []
    for row in rows:
        number = row[Col.NUMBER]
        epochs = sweep.epochs[sweep.epochs[Col.NUMBER] == number]
        ended = sweep.stages[sweep.stages[Col.NUMBER] == number][Col.LAST_EPOCH]
        planned = _planned_epochs(sweep.info, row)
        epoch = 0 if epochs.empty else int(epochs[Col.EPOCH].max())
        found.append(
            {
                **{name: plain(row[name]) for name in (Col.TRIAL_ID, Col.METHOD, Col.ATTEMPT)},
                "epoch": epoch,
                "epochs": planned,
                "doing": _doing(epochs, epoch, planned, stage_ended=epoch in set(ended.dropna())),
            }
        )
    return found


def _doing(epochs: pd.DataFrame, epoch: int, planned: int | None, *, stage_ended: bool) -> str:
    if not epoch:
        return "starting: data, teacher, student"
    last = epochs[epochs[Col.EPOCH] == epoch].to_dict("records")[0]
    phase, stage = plain(last[Col.PHASE]), plain(last[Col.STAGE])
    if epoch == planned:
        return "finishing: composite, models"
    if stage_ended:
        return f"building or loading the teacher of stage {(stage or 0) + 1}"
    return f"stage {stage}" if phase == "stage" else str(phase)


def _planned_epochs(info: SweepInfo, row: Mapping[Any, Any]) -> int | None:
    """Epochs of a trial's budget; None where ``sweep.json`` does not say."""
    trial = info.given.get("trial", {})
    default = Recipe.model_fields["epochs"].default
    given = trial.get("epochs", default) if isinstance(trial, dict) else None
    value = given if isinstance(given, int) else plain(row.get(param_column("epochs")))
    return value if isinstance(value, int) else None
