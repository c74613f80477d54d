"""Running a sweep: Ray, the shared teacher, Tune with our searcher, scheduler and recorder.

Resume goes the same way as a first run: searcher and scheduler are rebuilt from the tables, and
trials from their checkpoints. ``Tuner.restore`` is not used: after a killed driver its snapshot and
Optuna's state disagree (seen with Ray 2.60).
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pdo_search.config.load import Loaded, parse_experiment
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import ResourcesConfig, TrialConfig, is_uri
from pdo_search.errors import InputError
from pdo_search.log import log_to_file
from pdo_search.results.files import Folder
from pdo_search.results.schema import param_types
from pdo_search.results.sweepfile import SWEEP_FILE, SweepInfo, read_sweep_file, write_sweep_file
from pdo_search.results.writer import TableWriter
from pdo_search.search.clock import SteadyClock
from pdo_search.search.cluster import (
    alive_nodes,
    concurrency,
    connect,
    disconnect,
    fitting,
    import_ray,
    slots,
)
from pdo_search.search.lock import only_driver
from pdo_search.search.prepare import prepare_sweep
from pdo_search.search.progress import Progress
from pdo_search.search.resume import plan_resume

__all__ = ["Outcome", "new_sweep", "reopened_sweep", "run_sweep"]

log = logging.getLogger(__name__)

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that ends without a single epoch has no metric to report.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}


@dataclass(frozen=True)
class Outcome:
    """How a sweep's run ended.

    Attributes:
        sweep: the sweep's directory.
        counts: trials by status.
        interrupted: whether the user cut it off.
    """

    sweep: str
    counts: dict[str, int]
    interrupted: bool


def new_sweep(
    loaded: Loaded, *, name: str | None = None, num_trials: int | None = None
) -> tuple[SweepInfo, str]:
    """What ``sweep.json`` will hold for a new sweep, and the sweep's directory; writes nothing.

    Raises:
        InputError: the sweep's directory exists, or the machine lacks the resources.
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
    root = _absolute(experiment.output.root)
    directory = f"{root}/{experiment.name}"
    if SWEEP_FILE in Folder(directory).names():
        raise InputError(
            "the sweep's directory exists already",
            file=loaded.file,
            path="name",
            value=directory,
            remedy=f"`pdo-search resume {directory}` goes on with it; --name starts another",
        )
    info = SweepInfo(
        name=experiment.name,
        given=loaded.given,
        resolved=experiment.model_dump(mode="json"),
        file=str(loaded.file),
        base_dir=str(loaded.base_dir),
        metric=experiment.search.metric,
        mode=experiment.search.mode,
        num_trials=experiment.search.num_trials,
        store=_absolute(experiment.output.store_root),
    )
    return info, directory


def reopened_sweep(sweep: str, *, trials: str | None = None) -> SweepInfo:
    """What a resumed sweep is to do; writes nothing.

    Args:
        sweep: its directory.
        trials: ``+N`` for N more trials, ``N`` for N in all, None as before.

    Raises:
        InputError: the directory holds no sweep, or ``trials`` is no number.
    """
    info = read_sweep_file(sweep)
    if trials is None:
        return info
    if not trials.lstrip("+").isdigit():
        raise InputError(
            "is no number of trials", path="--trials", value=trials, remedy="write +50"
        )
    count = int(trials.lstrip("+"))
    return replace(info, num_trials=info.num_trials + count if trials[0] == "+" else count)


def loaded_of(info: SweepInfo) -> Loaded:
    """The experiment that a sweep was given."""
    return parse_experiment(info.given, file=Path(info.file), base_dir=Path(info.base_dir))


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
        InputError: the resources cannot be had, or the data cannot be used.
        PdoError: another driver runs the sweep, or Ray cannot be reached.
    """
    sweep = _absolute(sweep)
    loaded = loaded_of(info)
    experiment = loaded.experiment
    os.environ.update(TUNE_SETTINGS)
    import_ray(address)
    with only_driver(sweep), log_to_file(sweep), _scratch() as scratch, _terminable():
        write_sweep_file(sweep, info)
        writer = TableWriter(sweep, param_types(loaded.space))
        for aside in writer.damaged:
            said = f"A damaged part of the tables was set aside: {sweep}/{aside}"
            console.print(said, soft_wrap=True)
        interrupted = False
        nodes = connect(address, dashboard=experiment.resources.uses_train)
        try:
            # Ray's core has put a handler of its own over ours.
            with _terminable():
                local = address == "local"
                at_once = concurrency(experiment.resources, nodes, may_grow=not local)
                if trainable is None:
                    prepare_sweep(
                        middle_trial(loaded),
                        store=info.store,
                        base_dir=info.base_dir,
                        console=console,
                        local_slots=slots(experiment.resources, nodes) if local else 0,
                        at_once=at_once,
                    )
                interrupted = _tune(
                    info, loaded, sweep, writer, at_once, scratch, console,
                    nodes_may_join=not local and experiment.resources.max_concurrent == "auto",
                    trainable=trainable,
                )  # fmt: skip
        except KeyboardInterrupt:
            interrupted = True
        finally:
            disconnect()
        counts = Counter(row["status"] for row in writer.rows("trials"))
    return Outcome(sweep, dict(counts), interrupted)


def _tune(
    info: SweepInfo,
    loaded: Loaded,
    sweep: str,
    writer: TableWriter,
    at_once: int,
    scratch: str,
    console: Console,
    *,
    nodes_may_join: bool = False,
    trainable: Any = None,
) -> bool:
    """Run the trials; whether the user cut it off.

    Args:
        info: what the sweep is asked to do.
        loaded: its experiment.
        sweep: its directory.
        writer: of its tables.
        at_once: how many trials run at once.
        scratch: a local directory for Tune.
        console: where to print.
        nodes_may_join: whether ``at_once`` only holds until other nodes come, or some go.
        trainable: what Tune runs as a trial; by default the worker function.
    """
    from ray import tune
    from ray.tune.search import Searcher

    from pdo_search.search.recorder import Forgetful, Recorder
    from pdo_search.search.retries import Retries
    from pdo_search.search.scheduler import AshaScheduler
    from pdo_search.search.searcher import OptunaSearcher
    from pdo_search.search.slots import SlotLimiter
    from pdo_search.trial.messages import Assignment

    experiment = loaded.experiment
    settings = experiment.search
    plan = plan_resume(
        writer.rows("trials"),
        writer.rows("epochs"),
        loaded.space,
        metric=settings.metric,
        num_trials=info.num_trials,
        scheduler=experiment.scheduler,
        stages=writer.rows("stages"),
    )
    total = plan.num_new + len(plan.requeued)
    if total == 0:
        return False
    wall = experiment.limits.wall
    searcher = OptunaSearcher(
        loaded.space,
        settings,
        num_new=plan.num_new,
        past=plan.past,
        requeued=plan.requeued,
        deadline=math.inf if wall is None else time.monotonic() + wall,
    )
    scheduler = AshaScheduler(
        experiment.scheduler,
        metric=settings.metric,
        mode=settings.mode,
        seed=settings.seed,
        past=plan.observations,
    )
    progress = Progress(
        console,
        num_trials=info.num_trials,
        metric=settings.metric,
        mode=settings.mode,
        counts=Counter(trial.status.value for trial in plan.past),
    )
    recorder = Recorder(
        writer,
        progress,
        scheduler,
        metric=settings.metric,
        seed=settings.seed,
        end_index=plan.end_index,
        retries=Retries(settings.retries),
        clock=SteadyClock(plan.latest),
        timeout_s=experiment.limits.trial_timeout or math.inf,
    )
    resources = experiment.resources
    search_alg: Searcher = searcher
    if nodes_may_join:
        search_alg = SlotLimiter(searcher, lambda: fitting(resources, alive_nodes()))
    assignment = Assignment(experiment.model_dump_json(), sweep, info.store, info.base_dir)
    tuner = tune.Tuner(
        trainable or _trainable(resources, assignment, scratch),
        tune_config=tune.TuneConfig(
            search_alg=search_alg,
            scheduler=scheduler,
            num_samples=total,
            max_concurrent_trials=None if nodes_may_join else at_once,
            reuse_actors=not resources.uses_train,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            callbacks=[recorder, Forgetful()],
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            verbose=0,
        ),
    )
    interrupted = False
    with progress.show():
        try:
            tuner.fit()
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            if recorder.unable is not None:
                raise recorder.unable from None
            raise
        finally:
            recorder.interrupt()
    return interrupted


def _trainable(resources: ResourcesConfig, assignment: Any, scratch: str) -> Any:
    """The worker function under the adapter that the resources ask for."""
    from ray import tune

    if resources.uses_train:
        from pdo_search.trial.ray_train import OUTER_CPUS, run_nested

        nested = partial(run_nested, assignment=assignment, scratch=scratch)
        return tune.with_resources(_named(nested), {"cpu": OUTER_CPUS})
    from pdo_search.trial.inprocess import run_in_process

    alone = partial(run_in_process, assignment=assignment)
    asked = {"cpu": resources.cpus, **({"gpu": resources.gpus} if resources.gpus else {})}
    return tune.with_resources(_named(alone), asked)


def _named(function: Any) -> Any:
    """A trainable with the signature and the name that Tune looks for."""

    def trial(config: dict[str, Any]) -> None:
        function(config)

    return trial


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("trial_id", trial.trial_id))


def middle_trial(loaded: Loaded) -> TrialConfig:
    """A trial of the experiment: that at the first end of every dimension."""
    point = {dimension.path: dimension.ends()[0] for dimension in loaded.space}
    return resolve(loaded.experiment, point)


@contextmanager
def _scratch() -> Iterator[str]:
    """A local directory for what Tune and Train insist on writing."""
    folder = tempfile.mkdtemp(prefix="pdo-tune-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does: results kept, trials marked."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        # Not the main thread: signals are somebody else's business.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _absolute(path: str) -> str:
    return path.rstrip("/") if is_uri(path) else str(Path(path).absolute())
