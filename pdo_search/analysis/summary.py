"""A sweep as a dictionary: what `show` prints, and what it gives as JSON. Owns no wording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pdo_search.analysis.confirm import confirmation_summary, unconfirmed
from pdo_search.analysis.importance import caveat, compared, importance
from pdo_search.analysis.leaderboard import (
    against,
    best_composite,
    best_student,
    causes,
    composite_of,
    leaderboard,
    plain,
    status_counts,
    teacher_of,
)
from pdo_search.analysis.live import possible_trials, running_trials
from pdo_search.analysis.method_lines import methods_of
from pdo_search.analysis.pareto import model_front
from pdo_search.base.storage import Storage
from pdo_search.results.driver import driver_of
from pdo_search.results.schema import Col

if TYPE_CHECKING:
    import pandas as pd

    from pdo_search.analysis.sweep import Sweep

__all__ = ["sweep_summary"]

SHOWN = 10
BIASED = (
    "the best validation score of a search is biased upwards (winner's curse) until it is"
    " confirmed on fresh seeds"
)


def sweep_summary(sweep: Sweep) -> dict[str, Any]:
    """What ``show`` prints, JSON-able: what is missing is None, or an empty list.

    Returns:
        ``name``, ``path``, ``created_at``, ``task``, ``metric``, ``primary``, ``mode``,
        ``num_trials``, ``baselines`` (trials by name), ``possible_trials`` (all of them, fewer
        where the space has fewer points), ``counts`` by status, ``alive`` (whether a driver runs
        it) and ``driver`` in words, ``running`` trials, ``causes`` of failures, ``teacher``;
        ``best``, the best student of all methods (with ``against_teacher``); ``composite``, that of
        the same trial or, where this has none, the most accurate of all, whose ``trial_id`` it
        names; ``methods`` beside each other; ``front`` of all models; ``leaderboard`` and
        ``importance`` of the dimensions, of the method that the search is about; ``confirmation``,
        None where nothing was confirmed; and ``note``.
    """
    info, everything, composites = sweep.info, sweep.trials, sweep.composites
    primary = info.primary
    driver = driver_of(Storage(sweep.path))
    alive = driver is not None and driver.alive
    trials = everything[everything[Col.METHOD] == info.method]
    teacher, best = teacher_of(everything, primary), best_student(everything, info.mode, primary)
    composite = composite_of(composites, best[Col.TRIAL_ID], primary) if best else None
    composite = composite or best_composite(composites, primary)
    methods = methods_of(everything, sweep.teachers, info.trials_by_method, info.mode, primary)
    confirmation = confirmation_summary(sweep)
    bests = [method["best"][Col.TRIAL_ID] for method in methods if method["best"]]
    return {
        "name": info.name,
        "path": sweep.path,
        "created_at": info.created_at,
        "task": {
            "kind": _at(info.resolved, "task", "kind"),
            "data": _at(info.resolved, "task", "data", "source"),
        },
        "metric": info.metric,
        "primary": primary,
        "mode": info.mode,
        "num_trials": info.num_trials,
        "baselines": info.baselines,
        "possible_trials": possible_trials(info),
        "counts": status_counts(everything),
        "alive": alive,
        "driver": driver and str(driver),
        "running": running_trials(sweep) if alive else [],
        "causes": causes(everything),
        "teacher": teacher and {"arch": _at(info.resolved, "teacher", "arch"), **teacher},
        "best": best and {**best, "against_teacher": against(best, teacher, primary)},
        "composite": composite
        and {**composite, "against_teacher": against(composite, teacher, primary)},
        "methods": methods,
        "leaderboard": leaderboard(trials, info.mode, SHOWN, primary),
        "front": model_front(everything, composites, primary),
        "importance": _importance(trials, sweep.epochs, info.metric),
        "confirmation": confirmation,
        "note": BIASED if unconfirmed(confirmation, bests) else None,
    }


def _importance(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Which dimensions mattered; None of too few trials."""
    found = compared(trials, epochs, metric)
    table = importance(found)
    if table.empty:
        return None
    rows = [{str(k): plain(v) for k, v in row.items()} for row in table.to_dict("records")]
    return {
        "num_trials": len(found.values),
        "epoch": found.epoch,
        "caveat": caveat(len(found.values), len(rows)),
        "dimensions": rows,
    }


def _at(tree: Any, *path: str) -> str | None:
    """The text at a path of a tree that others wrote."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, str) else None
