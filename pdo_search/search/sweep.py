"""Running a sweep: Ray, the shared teacher, Tune with our searcher, scheduler and recorder.

Resume goes the same way as a first run: searcher and scheduler are rebuilt from the tables, and
trials from their checkpoints. ``Tuner.restore`` is not used: after a killed driver its snapshot and
Optuna's state disagree (seen with Ray 2.60).
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage
from pdo_search.config.load import Loaded, parse_experiment
from pdo_search.config.methods import searched
from pdo_search.config.resolve import most_trials
from pdo_search.results.schema import TRIALS, trial_id
from pdo_search.results.sweepfile import SWEEP_FILE, SweepInfo, read_sweep_file, write_sweep_file
from pdo_search.search.base_folder import keep_code, moved
from pdo_search.search.places import refuse_places
from pdo_search.search.resume import Plan, plan_resume
from pdo_search.search.session import Outcome, Session, absolute, loaded_of, on_cluster, session
from pdo_search.search.warm_start import Prior, keep_priors, priors_of

__all__ = ["Outcome", "is_taken", "new_sweep", "planned_sweep", "reopened_sweep", "run_sweep"]

log = logging.getLogger(__name__)


def new_sweep(
    loaded: Loaded, *, name: str | None = None, num_trials: int | None = None
) -> tuple[SweepInfo, str]:
    """What ``sweep.json`` will hold for a new sweep, and the sweep's directory; writes nothing.

    Raises:
        InputError: the sweep's directory exists, or cannot be made or written.
    """
    info, directory = planned_sweep(loaded, name=name, num_trials=num_trials)
    if is_taken(directory):
        raise InputError(
            "the sweep's directory exists already",
            file=loaded.file,
            path="name",
            value=directory,
            remedy=f"`pdo-search resume {directory}` goes on with it; --name starts another",
        )
    return info, directory


def is_taken(directory: str) -> bool:
    """Whether a directory holds a sweep."""
    return SWEEP_FILE in Storage(directory).files()


def planned_sweep(
    loaded: Loaded, *, name: str | None = None, num_trials: int | None = None
) -> tuple[SweepInfo, str]:
    """As ``new_sweep``, whether or not the sweep exists already.

    Raises:
        InputError: its directory or its store cannot be made or written.
    """
    experiment = loaded.experiment
    if name is not None or num_trials is not None:
        tree: dict[str, Any] = dict(loaded.given)
        if name is not None:
            tree["name"] = name
        if num_trials is not None:
            tree["search"] = {**tree.get("search", {}), "num_trials": num_trials}
        loaded = parse_experiment(tree, file=loaded.file, base_dir=loaded.base_dir)
        experiment = loaded.experiment
    root = absolute(experiment.output.root)
    directory = f"{root}/{experiment.name}"
    store = absolute(experiment.output.store_root)
    refuse_places(directory, store, loaded.file)
    info = SweepInfo(
        name=experiment.name,
        given=loaded.given,
        resolved=experiment.model_dump(mode="json"),
        file=str(loaded.file),
        base_dir=str(loaded.base_dir),
        metric=experiment.search.metric,
        mode=experiment.search.mode,
        metrics=experiment.task.metrics,
        num_trials=experiment.search.num_trials,
        store=store,
        method=experiment.method,
        baselines=dict.fromkeys(experiment.search.baselines, experiment.search.trials_per_baseline),
    )
    return info, directory


def reopened_sweep(
    sweep: str, *, trials: str | None = None, base_dir: str | None = None
) -> SweepInfo:
    """What a resumed sweep is to do; writes nothing.

    Args:
        sweep: its directory.
        trials: ``+N`` for N more trials, ``N`` for N in all, None as before; of the method that the
            search is about. Baselines keep theirs.
        base_dir: the experiment's folder; None where it is still the same.

    Raises:
        InputError: the directory holds no sweep, ``trials`` is no number or below what the sweep
            was asked for, or the experiment's folder is not there.
    """
    info = moved(read_sweep_file(sweep), sweep, base_dir)
    if trials is None:
        return info
    if not re.fullmatch(r"\+?[0-9]{1,9}", trials):
        raise InputError(
            "is no number of trials", path="--trials", value=trials, remedy="write +50"
        )
    count = int(trials) + (info.num_trials if trials[0] == "+" else 0)
    if count < info.num_trials:
        raise InputError(
            f"the sweep was asked for {info.num_trials} trials already, and none is taken back",
            path="--trials",
            value=trials,
            remedy=f"write +50 for 50 more, or leave it out to go on with the {info.num_trials};"
            " Ctrl-C ends a sweep early, its results stay",
        )
    return replace(info, num_trials=count)


def run_sweep(
    info: SweepInfo, sweep: str, *, address: str, console: Console, trainable: Any = None
) -> Outcome:
    """Run what is left of a sweep: all of a new one.

    Args:
        info: from ``new_sweep`` or ``reopened_sweep``.
        sweep: the sweep's directory, path or URI.
        address: ``local`` or ``auto``.
        console: where to print.
        trainable: what Tune runs as a trial, without a teacher being built; by default the worker
            function.

    Raises:
        InputError: the resources cannot be had, the data cannot be used, or a directory of
            ``search.warm_start`` holds no sweep.
        PdoError: another driver runs the sweep, or Ray cannot be reached.
    """
    sweep = absolute(sweep)
    loaded = loaded_of(info)
    priors = priors_of(loaded, sweep, info.fingerprint)
    with session(info, loaded, sweep, address=address, console=console) as held:
        new = Storage(sweep).info(SWEEP_FILE) is None
        write_sweep_file(sweep, info)
        keep_code(sweep, info, anew=new)
        keep_priors(sweep, priors)
        for prior in priors:
            console.print(f"Warm start: {prior}", soft_wrap=True)
            log.info("warm start: %s; left out: %s", prior, prior.left_out)
        try:
            interrupted = on_cluster(
                held,
                lambda joined: _search(joined, priors, trainable),
                address=address,
                with_teacher=trainable is None,
            )
        except InputError:
            if new and not any(True for _ in held.writer.rows("trials")):
                # Nothing has begun: the same command may be given again.
                Storage(sweep).delete(SWEEP_FILE)
            raise
        counts = Counter(row["status"] for row in held.writer.rows("trials"))
    return Outcome(sweep, dict(counts), interrupted)


def _search(held: Session, priors: Sequence[Prior] = (), trainable: Any = None) -> bool:
    """Run the trials that are left; whether the user cut it off.

    Args:
        held: the session, on a cluster.
        priors: what earlier sweeps tell the sampler.
        trainable: what Tune runs as a trial; by default the worker function.
    """
    from pdo_search.search.tune.by_method import by_method
    from pdo_search.search.tune.recorder import Work
    from pdo_search.search.tune.run import run_trials

    experiment, space = held.loaded.experiment, held.loaded.space
    planned = held.info.trials_by_method
    plans = _plans(held)
    wall = experiment.limits.wall
    searcher, scheduler = by_method(
        experiment,
        space,
        plans,
        planned,
        deadline=math.inf if wall is None else time.monotonic() + wall,
        prior=[trial for prior in priors for trial in prior.taken],
    )
    left = sum(plan.num_new + len(plan.requeued) for plan in plans.values())
    if left == 0 and not scheduler.may_promote():
        held.console.print("No trial is left to do; `pdo-search resume DIR --trials +N` adds N")
    elif experiment.scheduler.pauses:
        left = (
            -1
        )  # A promoted trial is one more for Tune: only the searcher knows when all is done.
    work = Work(
        TRIALS.name,
        searcher,
        scheduler,
        num_samples=left,
        num_trials=sum(
            int(min(number, most_trials(experiment, space, method)))
            for method, number in planned.items()
        ),
        counts=Counter(trial.status.value for plan in plans.values() for trial in plan.past),
        paused=[trial_id(number) for plan in plans.values() for number in plan.paused],
        end_index=max(plan.end_index for plan in plans.values()),
        latest=max(plan.latest for plan in plans.values()),
    )
    return run_trials(held, work, trainable)


def _plans(held: Session) -> dict[str, Plan]:
    """What is left to do of each method, from the tables; the search's own method first."""
    writer, planned = held.writer, held.info.trials_by_method
    for kept in writer.drop_orphans():
        log.warning("rows of trials that `trials` does not know are out of the tables: %s", kept)
    method_of = {row["number"]: row["method"] for row in writer.rows("trials")}
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {
        table: {method: [] for method in planned} for table in ("trials", "epochs", "stages")
    }
    for table, found in rows.items():
        for row in writer.rows(table):
            found[method_of[row["number"]]].append(row)
    experiment = held.loaded.experiment
    return {
        method: plan_resume(
            rows["trials"][method],
            rows["epochs"][method],
            searched(held.loaded.space, method),
            metric=experiment.search.metric,
            num_trials=num_trials,
            scheduler=experiment.scheduler,
            stages=rows["stages"][method],
            minimize=experiment.search.minimize,
        )
        for method, num_trials in planned.items()
    }
