"""Confirming a search: its best configurations trained anew with fresh seeds, then tested, once.

A run is a trial of the same worker function, in the same warm processes; which runs there are is in
``runs``, what the numbers say is ``analysis.compare``'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from pdo_search.analysis.sweep import open_sweep
from pdo_search.config.methods import searched
from pdo_search.results.interval import USUAL_SEEDS, precision
from pdo_search.results.schema import Col, TrialStatus, point_of
from pdo_search.results.sweepfile import read_sweep_file
from pdo_search.search.base_folder import moved
from pdo_search.search.runs import Run, candidates, fresh_seeds, open_runs
from pdo_search.search.session import Outcome, Session, absolute, loaded_of, on_cluster, session

__all__ = ["run_confirmation"]

TABLE = "confirmations"


def run_confirmation(
    sweep: str,
    *,
    top: int = 1,
    seeds: int = USUAL_SEEDS,
    address: str,
    console: Console,
    base_dir: str | None = None,
) -> Outcome:
    """Run what is left of a confirmation.

    Args:
        sweep: the sweep's directory, path or URI.
        top: how many of the best configurations of the search's own method.
        seeds: fresh seeds per configuration.
        address: ``local`` or ``auto``.
        console: where to print.
        base_dir: the experiment's folder; None where it is still the same.

    Raises:
        InputError: it is no sweep, the resources cannot be had, or the experiment's folder is gone.
        PdoError: no trial has finished, another driver runs the sweep, or Ray cannot be reached.
    """
    sweep = absolute(sweep)
    info = moved(read_sweep_file(sweep), sweep, base_dir)
    loaded = loaded_of(info)
    opened = open_sweep(sweep)
    opened.best()  # Some trial has to be there.
    numbers = candidates(opened.trials, list(info.trials_by_method), top, info.mode)
    with session(info, loaded, sweep, address=address, console=console) as held:
        runs = _runs(held, numbers, seeds)
        left = open_runs(runs, held.writer.rows(TABLE))
        _announce(held, numbers, runs, left)
        interrupted = bool(left) and on_cluster(
            held, lambda joined: _confirm(joined, left, len(runs)), address=address
        )
        own = {run.key for run in runs}
        rows = [r for r in held.writer.rows(TABLE) if (r[Col.NUMBER], r[Col.SEED]) in own]
    return Outcome(sweep, dict(Counter(row[Col.STATUS] for row in rows)), interrupted)


def _confirm(held: Session, left: Sequence[Run], num_runs: int) -> bool:
    """Run what is left; whether the user cut it off."""
    from pdo_search.search.tune.by_method import SchedulerByMethod
    from pdo_search.search.tune.recorder import Work
    from pdo_search.search.tune.run import run_trials
    from pdo_search.search.tune.searcher import RunSearcher

    work = Work(
        TABLE,
        RunSearcher(left, metric=held.info.metric, mode=held.info.mode),
        SchedulerByMethod({}),
        num_samples=len(left),
        num_trials=num_runs,
        counts={TrialStatus.FINISHED.value: num_runs - len(left)},
    )
    return run_trials(held, work)


def _runs(held: Session, numbers: Sequence[int], seeds: int) -> list[Run]:
    """All runs, seed by seed, so that a confirmation that is cut off has whole pairs."""
    found = (held.writer.get("trials", number) for number in numbers)
    rows = [row for row in found if row is not None]
    return [
        Run(
            row[Col.NUMBER],
            row[Col.TRIAL_ID],
            row[Col.METHOD],
            point_of(row, searched(held.loaded.space, row[Col.METHOD])),
            seed,
        )
        for seed in fresh_seeds(held.loaded.experiment.search.seed, seeds)
        for row in rows
    ]


def _announce(
    held: Session, numbers: Sequence[int], runs: Sequence[Run], left: Sequence[Run]
) -> None:
    info, console = held.info, held.console
    rows = {number: held.writer.get("trials", number) or {} for number in numbers}
    named = ", ".join(f"{row[Col.METHOD]} {row[Col.TRIAL_ID]}" for row in rows.values())
    console.print(
        f"Confirming {named}: {len(runs) // len(rows)} fresh seeds each, whole budget, then test;"
        f" {len(left)} of {len(runs)} runs to do",
        soft_wrap=True,
    )
    present = {row[Col.METHOD] for row in rows.values()}
    for method in info.trials_by_method:
        if method not in present:
            console.print(f"No trial of {method} has finished: it is left out", soft_wrap=True)
    seeds = len(runs) // len(rows)
    others = len(present - {info.method}) if info.method in present else 0
    console.print(precision(seeds, others), soft_wrap=True)
    if seeds < 3:
        console.print(
            "Warning: an interval from fewer than 3 seeds says next to nothing;"
            f" --seeds {USUAL_SEEDS} is usual",
            soft_wrap=True,
        )
