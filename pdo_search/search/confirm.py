"""Confirming a search: its best configurations trained anew with fresh seeds, then tested, once.

A run is a trial of the same worker function, in the same warm processes; which runs there are is in
``runs``, what the numbers say is ``analysis.compare``'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from pdo_search.analysis.sweep import open_sweep
from pdo_search.config.load import Loaded
from pdo_search.config.methods import searched
from pdo_search.config.resolve import planned_epochs
from pdo_search.results.interval import USUAL_SEEDS, precision
from pdo_search.results.schema import Col, TrialStatus, param_types, point_of
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file
from pdo_search.results.writer import TableWriter
from pdo_search.search.base_folder import moved
from pdo_search.search.progress import Progress
from pdo_search.search.runs import Run, candidates, fresh_seeds, open_runs
from pdo_search.search.tune.run import (
    Outcome,
    absolute,
    loaded_of,
    on_cluster,
    run_trials,
    session,
    trainable_of,
)

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
    with session(sweep, address, loaded, console) as held:
        writer = TableWriter(sweep, param_types(loaded.space))
        runs = _runs(loaded, writer, numbers, seeds)
        left = open_runs(runs, writer.rows(TABLE))
        _announce(info, writer, numbers, runs, left, console)

        def run(counted: Loaded, at_once: int, fingerprint: str | None) -> bool:
            return _tune(
                info,
                counted,
                sweep,
                writer,
                runs,
                left,
                at_once,
                held.scratch,
                console,
                fingerprint,
            )

        interrupted = bool(left) and on_cluster(
            info,
            loaded,
            run,
            sweep=sweep,
            address=address,
            console=console,
            watch=held.watch,
        )
        own = {run.key for run in runs}
        rows = [r for r in writer.rows(TABLE) if (r[Col.NUMBER], r[Col.SEED]) in own]
    return Outcome(sweep, dict(Counter(row[Col.STATUS] for row in rows)), interrupted)


def _runs(loaded: Loaded, writer: TableWriter, numbers: Sequence[int], seeds: int) -> list[Run]:
    """All runs, seed by seed, so that a confirmation that is cut off has whole pairs."""
    rows = [row for number in numbers if (row := writer.get("trials", number)) is not None]
    return [
        Run(
            row[Col.NUMBER],
            row[Col.TRIAL_ID],
            row[Col.METHOD],
            point_of(row, searched(loaded.space, row[Col.METHOD])),
            seed,
        )
        for seed in fresh_seeds(loaded.experiment.search.seed, seeds)
        for row in rows
    ]


def _announce(
    info: SweepInfo,
    writer: TableWriter,
    numbers: Sequence[int],
    runs: Sequence[Run],
    left: Sequence[Run],
    console: Console,
) -> None:
    rows = {number: writer.get("trials", number) or {} for number in numbers}
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


def _tune(
    info: SweepInfo,
    loaded: Loaded,
    sweep: str,
    writer: TableWriter,
    runs: Sequence[Run],
    left: Sequence[Run],
    at_once: int,
    scratch: str,
    console: Console,
    fingerprint: str | None,
) -> bool:
    """Run what is left; whether the user cut it off."""
    from pdo_search.search.tune.confirm import ConfirmationRecorder, RunSearcher
    from pdo_search.trial.messages import Assignment

    experiment = loaded.experiment
    progress = Progress(
        console,
        num_trials=len(runs),
        metric=info.metric,
        mode=info.mode,
        counts={TrialStatus.FINISHED.value: len(runs) - len(left)},
        compares=False,
        epochs=planned_epochs(experiment),
    )
    recorder = ConfirmationRecorder(writer, progress, left)
    assignment = Assignment(
        experiment.model_dump_json(), sweep, info.store, info.base_dir, fingerprint
    )
    resources = experiment.resources
    return run_trials(
        trainable_of(resources, assignment, scratch),
        RunSearcher(left, metric=info.metric, mode=info.mode),
        recorder,
        progress,
        scratch=scratch,
        num_samples=len(left),
        at_once=at_once,
        reuse=not resources.uses_train,
        retries=experiment.search.retries,
    )
