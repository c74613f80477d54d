"""A driver's work on a sweep: its directory held, its experiment, Ray around its trials, signals.

The same for a sweep and for its confirmation. Which trials there are is the business of these two,
how Tune runs them of ``tune.run``.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pdo_search.base.errors import InputError, PdoError
from pdo_search.base.log import log_to_file
from pdo_search.base.remote import patience
from pdo_search.base.scratch import scratch_folder
from pdo_search.base.storage import is_uri
from pdo_search.config.load import Loaded, parse_experiment
from pdo_search.results.schema import param_types
from pdo_search.results.sweepfile import SweepInfo
from pdo_search.results.writer import TableWriter
from pdo_search.search.base_folder import needs_base_dir
from pdo_search.search.cluster import (
    Capacity,
    concurrency,
    connect,
    disconnect,
    import_ray,
    placement,
    with_gpus,
)
from pdo_search.search.lock import only_driver
from pdo_search.search.prepare import prepare_sweep
from pdo_search.search.sharing import check_cluster
from pdo_search.search.tune import TUNE_SETTINGS
from pdo_search.search.watch import Watch

if TYPE_CHECKING:
    from pdo_search.trial.messages import Assignment

__all__ = [
    "Outcome",
    "Session",
    "absolute",
    "first_suggestion",
    "loaded_of",
    "on_cluster",
    "session",
]

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
    """A driver's work on a sweep, and what it holds meanwhile.

    Attributes:
        info: what the sweep is asked to do; its data's fingerprint, once somebody has looked.
        loaded: its experiment; on a cluster, with its GPUs counted.
        sweep: its directory, path or URI.
        console: where to print.
        writer: of its tables.
        scratch: a local directory for Tune.
        watch: notices when the sweep cannot go on.
        at_once: trials at once; None where nodes may join or go, and their room is counted anew.
    """

    info: SweepInfo
    loaded: Loaded
    sweep: str
    console: Console
    writer: TableWriter
    scratch: str
    watch: Watch = field(default_factory=Watch)
    at_once: int | None = 1

    @property
    def assignment(self) -> Assignment:
        """What all its trials have in common."""
        from pdo_search.trial.messages import Assignment

        return Assignment(
            self.loaded.experiment.model_dump_json(),
            self.sweep,
            self.info.store,
            self.info.base_dir,
            self.info.fingerprint,
        )


@contextmanager
def session(
    info: SweepInfo, loaded: Loaded, sweep: str, *, address: str, console: Console
) -> Iterator[Session]:
    """Hold a sweep's directory, log into it, and open its tables.

    Raises:
        InputError: the tables are of a newer version or of another experiment.
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
        writer = TableWriter(
            sweep, param_types(loaded.space), metrics=loaded.experiment.task.metrics
        )
        for aside in writer.damaged:
            say(f"A damaged part of the tables was set aside: {sweep}/{aside}")
        yield Session(info, loaded, sweep, console, writer, str(scratch), watch)


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
    held: Session, run: Callable[[Session], bool], *, address: str, with_teacher: bool = True
) -> bool:
    """Start or join Ray, build what all trials share, run them, leave Ray.

    Args:
        held: the session.
        run: runs the trials; is given the session with GPUs, slots and the task's fingerprint as
            they are on the cluster. Returns whether the user cut it off.
        address: ``local`` or ``auto``.
        with_teacher: whether trials need the teacher.

    Returns:
        Whether the user cut it off.

    Raises:
        InputError: the resources cannot be had, the cluster's machines do not share the sweep's
            folders, or the data cannot be used.
        PdoError: Ray cannot be reached or died, or the teacher cannot be built.
    """
    watch = held.watch
    with watch.over(watch.ray_is_gone):
        nodes = connect(address, dashboard=held.loaded.experiment.resources.uses_train)
        try:
            # Ray's core has put a handler of its own over ours.
            with terminable():
                interrupted = run(_joined(held, nodes, address != "local", with_teacher))
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


def _joined(held: Session, nodes: Sequence[Capacity], shared: bool, with_teacher: bool) -> Session:
    """The session as it is on a cluster, where everything is ready for trials.

    Args:
        held: as it was.
        nodes: of the cluster.
        shared: whether the cluster is not this process's own.
        with_teacher: whether trials need the teacher.
    """
    resources = with_gpus(held.loaded.experiment.resources, nodes)
    experiment = held.loaded.experiment.model_copy(update={"resources": resources})
    held = replace(held, loaded=replace(held.loaded, experiment=experiment))
    info, loaded, console = held.info, held.loaded, held.console
    at_once = concurrency(resources, nodes, may_grow=shared)
    console.print(f"Trials: {placement(resources, nodes, at_once)}", soft_wrap=True)
    if shared:
        resolved = experiment.model_dump(mode="json")
        check_cluster(
            {"output.root": held.sweep.rpartition("/")[0], "output.store": info.store},
            resources,
            base_dir=info.base_dir if needs_base_dir(resolved, info.base_dir) else None,
            file=loaded.file,
        )
    if with_teacher:
        fingerprint = prepare_sweep(
            held.assignment, first_suggestion(loaded), console=console, at_once=at_once
        )
        held = replace(held, info=replace(info, fingerprint=fingerprint))
    grows = shared and resources.max_concurrent == "auto"
    return replace(held, at_once=None if grows else at_once)


def first_suggestion(loaded: Loaded) -> dict[str, Any]:
    """A trial of the experiment: that at the first end of every dimension."""
    point = {dimension.path: dimension.ends()[0] for dimension in loaded.space}
    return {"point": point, "method": loaded.experiment.method}


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
