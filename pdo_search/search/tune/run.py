"""Running trials by Tune: what a sweep and its confirmation have in common.

Owns Tune's settings, what Tune runs as a trial, Ray's life around a run, signals, scratch. Which
trials there are and what they say is the business of searchers and recorders.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pdo_search.base.errors import InputError, PdoError, StoreError
from pdo_search.base.log import log_to_file
from pdo_search.base.scratch import scratch_folder
from pdo_search.base.storage import is_uri, patience
from pdo_search.config.load import Loaded, parse_experiment
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import ResourcesConfig, TrialConfig
from pdo_search.results.sweepfile import SweepInfo
from pdo_search.search.base_folder import needs_base_dir
from pdo_search.search.cluster import (
    concurrency,
    connect,
    disconnect,
    import_ray,
    placement,
    with_gpus,
)
from pdo_search.search.lock import only_driver
from pdo_search.search.prepare import prepare_sweep
from pdo_search.search.progress import Progress
from pdo_search.search.sharing import check_cluster
from pdo_search.search.watch import Watch

__all__ = [
    "TUNE_SETTINGS",
    "Outcome",
    "absolute",
    "first_trial",
    "loaded_of",
    "named",
    "on_cluster",
    "run_trials",
    "session",
    "trainable_of",
]

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


AT_THE_END_S = 10.0
"""Patience with an object store once a run is at its end."""
LOSS_PER_BATCH = 3
"""Version of the tables from which on each term of the loss is a mean over the whole batch."""


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


@dataclass(frozen=True)
class Session:
    """What a driver holds while it works on a sweep.

    Attributes:
        scratch: a local directory for Tune.
        watch: notices when the sweep cannot go on.
    """

    scratch: str
    watch: Watch


@contextmanager
def session(sweep: str, address: str, loaded: Loaded, console: Console) -> Iterator[Session]:
    """Hold a sweep's directory and log into it.

    Raises:
        PdoError: another driver holds it.
    """
    os.environ.update(TUNE_SETTINGS)
    import_ray(address)
    watch = Watch()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    with (
        terminable(),
        only_driver(sweep, say=say, lost=watch.fail),
        log_to_file(sweep),
        scratch_folder("tune") as scratch,
        patience(loaded.experiment.limits.storage_timeout),
    ):
        yield Session(str(scratch), watch)


def loaded_of(info: SweepInfo) -> Loaded:
    """The experiment that a sweep was given, to go on with it.

    Raises:
        InputError: its loss weights mean something else by now.
    """
    if info.schema_version < LOSS_PER_BATCH:
        raise InputError(
            "was begun by an older version, whose loss weights were of means over each split",
            path="schema_version",
            value=info.schema_version,
            remedy="its tables and models can be read as before; to go on, run the experiment anew:"
            " with the default splits `init` times 1.3 and `avg` times 4.3 mean what they did",
        )
    return parse_experiment(_given(info), file=Path(info.file), base_dir=Path(info.base_dir))


def _given(info: SweepInfo) -> dict[str, Any]:
    """The experiment as given, with the GPUs that were the default when the sweep began."""
    before, given = info.resolved.get("resources"), info.given.get("resources", {})
    number = before.get("gpus") if isinstance(before, dict) else None
    if not isinstance(number, int | float) or not isinstance(given, dict) or "gpus" in given:
        return info.given
    return {**info.given, "resources": {**given, "gpus": number}}


def on_cluster(
    info: SweepInfo,
    loaded: Loaded,
    run: Callable[[Loaded, int, str | None], bool],
    *,
    sweep: str,
    address: str,
    console: Console,
    watch: Watch,
    with_teacher: bool = True,
) -> bool:
    """Start or join Ray, build what all trials share, run them, leave Ray.

    Args:
        info: of the sweep: its store, its folder, and its data's fingerprint, if it has one.
        loaded: its experiment.
        run: runs the trials of the experiment with its GPUs counted, so many at once, on a task of
            a fingerprint; returns whether the user cut it off.
        sweep: the sweep's directory.
        address: ``local`` or ``auto``.
        console: where to print.
        watch: ends the run when Ray's processes are gone.
        with_teacher: whether trials need the teacher.

    Returns:
        Whether the user cut it off.

    Raises:
        InputError: the resources cannot be had, the cluster's machines do not share the sweep's
            folders, or the data cannot be used.
        PdoError: Ray cannot be reached or died, or the teacher cannot be built.
    """
    local, fingerprint = address == "local", info.fingerprint
    with watch.over(watch.ray_is_gone):
        nodes = connect(address, dashboard=loaded.experiment.resources.uses_train)
        try:
            # Ray's core has put a handler of its own over ours.
            with terminable():
                resources = with_gpus(loaded.experiment.resources, nodes)
                experiment = loaded.experiment.model_copy(update={"resources": resources})
                loaded = replace(loaded, experiment=experiment)
                at_once = concurrency(resources, nodes, may_grow=not local)
                console.print(f"Trials: {placement(resources, nodes, at_once)}", soft_wrap=True)
                if not local:
                    resolved = loaded.experiment.model_dump(mode="json")
                    check_cluster(
                        {"output.root": sweep.rpartition("/")[0], "output.store": info.store},
                        resources,
                        base_dir=info.base_dir if needs_base_dir(resolved, info.base_dir) else None,
                        file=loaded.file,
                    )
                if with_teacher:
                    fingerprint = prepare_sweep(
                        first_trial(loaded),
                        sweep=sweep,
                        store=info.store,
                        base_dir=info.base_dir,
                        console=console,
                        at_once=at_once,
                        fingerprint=fingerprint,
                    )
                interrupted = run(loaded, at_once, fingerprint)
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            # What Ray and Tune raise when their processes are gone says little.
            if reason := watch.reason or watch.ray_is_gone():
                raise PdoError(reason) from None
            raise
        finally:
            watch.rest()
            disconnect()
    if watch.reason is not None:
        raise PdoError(watch.reason)
    return interrupted


def run_trials(
    trainable: Any,
    searcher: Any,
    recorder: Any,
    progress: Progress,
    *,
    scratch: str,
    num_samples: int,
    at_once: int | None,
    reuse: bool,
    retries: int,
    scheduler: Any = None,
) -> bool:
    """Let Tune run trials to their end.

    Args:
        trainable: from ``trainable_of``.
        searcher: suggests them.
        recorder: Tune's callback that hears of them; ``interrupt`` is called at the end. A
            StoreError that it raises ends the run.
        progress: shows them.
        scratch: a local directory for Tune.
        num_samples: trials in all; -1 where the searcher says when all is done.
        at_once: trials at once; None where the searcher holds back itself.
        reuse: whether a process runs one trial after the other.
        retries: how often a trial whose process died is started again.
        scheduler: stops trials early; None stops none.

    Returns:
        Whether the user cut it off.

    Raises:
        StoreError: a disk is full, or an object store does not answer.
    """
    from ray import tune

    from pdo_search.search.tune.recorder import Forgetful

    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=num_samples,
            max_concurrent_trials=at_once,
            reuse_actors=reuse,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            callbacks=[recorder, Forgetful()],
            failure_config=tune.FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )
    with progress.show(), _without_states():
        try:
            tuner.fit()
        except KeyboardInterrupt:
            return True
        except Exception as error:
            if (own := _store_error(error)) is not None:
                raise own from None
            raise
        finally:
            # Whoever ends a sweep while its object store is gone has waited once.
            with patience(AT_THE_END_S):
                recorder.interrupt()
    return False


def _store_error(error: BaseException | None) -> StoreError | None:
    """What a callback raised, of which Tune makes an error of its own (Ray 2.60); else None."""
    while error is not None and not isinstance(error, StoreError):
        error = error.__context__
    return error


@contextmanager
def _without_states() -> Iterator[None]:
    """Let Tune write no trial's state: nobody restores it, and all of them take 6 kB each, in
    memory several times over, when the last trial has ended (``Trial.get_json_state``, Ray 2.60).
    """
    from ray.tune.experiment import Trial

    usual = Trial.get_json_state
    Trial.get_json_state = lambda trial: ("{}", "{}")
    try:
        yield
    finally:
        Trial.get_json_state = usual


def trainable_of(resources: ResourcesConfig, assignment: Any, scratch: str) -> Any:
    """The worker function under the adapter that the resources ask for."""
    from ray import tune

    if resources.uses_train:
        from pdo_search.trial.ray_train import OUTER_CPUS, run_nested

        nested = partial(run_nested, assignment=assignment, scratch=scratch)
        return tune.with_resources(named(nested), {"cpu": OUTER_CPUS})
    from pdo_search.trial.inprocess import run_in_process

    alone = partial(run_in_process, assignment=assignment)
    asked = {"cpu": resources.cpus, **({"gpu": resources.num_gpus} if resources.num_gpus else {})}
    return tune.with_resources(named(alone), asked)


def named(function: Any) -> Any:
    """A trainable with the signature and the name that Tune looks for."""

    def trial(config: dict[str, Any]) -> None:
        function(config)

    return trial


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("trial_id", trial.trial_id))


def first_trial(loaded: Loaded) -> TrialConfig:
    """A trial of the experiment: that at the first end of every dimension."""
    point = {dimension.path: dimension.ends()[0] for dimension in loaded.space}
    return resolve(loaded.experiment, point)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and the end of the terminal (SIGHUP) end the sweep as Ctrl-C does: results kept,
    trials marked. Under ``nohup``, which ignores SIGHUP, the sweep outlives its terminal."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # Signals are somebody else's business.
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if number == signal.SIGTERM or handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def absolute(path: str) -> str:
    """A path as it is called from everywhere; a URI as it is."""
    return path.rstrip("/") if is_uri(path) else str(Path(path).absolute())
