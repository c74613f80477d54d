"""What is built once before the first trial: data, the full teacher, the teacher's outputs.

In Ray tasks, on the resources of trials. Knows nothing of Tune.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pdo_search.base.errors import PdoError
from pdo_search.base.storage import patience

if TYPE_CHECKING:
    from pdo_search.config.schema import TrialConfig
    from pdo_search.distill.chance import Standing
    from pdo_search.distill.context import Context
    from pdo_search.distill.ladder import Level
    from pdo_search.records import TeacherRow
    from pdo_search.trial.messages import Assignment

__all__ = ["prepare_sweep"]

log = logging.getLogger(__name__)

LARGE_POOL = 100_000
"""Examples beyond which the teacher's outputs are computed on all slots. Every actor starts a
process and loads torch, data and teacher before its first chunk; a small pool is done by then."""

MOST_DEATHS = 1
"""How often the teacher is tried again after its process died; a machine that goes away is none."""
NOTE_EVERY_S = 5.0
ANSWER_S = 5.0
"""For a word to or from the notes: what is not said in that time is left out."""


class _Notes:
    """Lines of progress, in a process that driver and task can both call, wherever they are."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a line."""
        self._lines.append(line)

    def since(self, count: int) -> list[str]:
        """The lines after the first ``count``."""
        return self._lines[count:]


class _Listener:
    """Reads notes. Their process is on the driver's machine, and ends with this object.

    Attributes:
        notes: whom tasks tell.
    """

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        beside = NodeAffinitySchedulingStrategy(node_id=here, soft=True)
        self.notes = ray.remote(num_cpus=0, scheduling_strategy=beside)(_Notes).remote()
        self._heard = 0

    def heard(self) -> list[str]:
        """The lines since the last time; none where nobody answers."""
        import ray

        lines: list[str] = []
        with suppress(ray.exceptions.RayError):
            lines = ray.get(self.notes.since.remote(self._heard), timeout=ANSWER_S)
        self._heard += len(lines)
        return lines


@dataclass(frozen=True)
class _Job:
    """What a task is to prepare.

    Attributes:
        assignment: what all trials have in common.
        suggestion: that makes a trial of it.
        notes: where lines of progress go, if anywhere.
        note_every_s: least seconds between two lines about teacher outputs.
    """

    assignment: Assignment
    suggestion: dict[str, Any]
    notes: Any = None
    note_every_s: float = NOTE_EVERY_S


def prepare_sweep(
    assignment: Assignment, suggestion: dict[str, Any], *, console: Console, at_once: int
) -> str:
    """Build what all trials share, on one trial's resources.

    Args:
        assignment: what all trials have in common; the machine that builds must see the sweep.
        suggestion: that makes a trial of it.
        console: where to print.
        at_once: trials at once; the outputs on a large pool are computed on the resources of all.

    Returns:
        The fingerprint of the task, as workers have it.

    Raises:
        InputError: data or weights cannot be used, the data are others than those that the sweep
            began with, or the teacher was given and knows nothing.
        PdoError: the teacher cannot be built.
    """
    from pdo_search.distill.chance import warning_of

    config = assignment.config(suggestion)
    resources = config.resources
    name = f"Teacher {config.teacher.arch}"
    listener = _Listener()
    job = _Job(assignment, suggestion, listener.notes, NOTE_EVERY_S)
    run = partial(
        _run,
        console=console,
        name=name,
        listener=listener,
        storage_timeout=config.limits.storage_timeout,
    )
    if not config.teacher.is_given:
        console.print(f"{name}: looking for it in {assignment.store}", soft_wrap=True)
    row, known, pool_size, found = run(partial(_teacher, job), resources.cpus, resources.num_gpus)
    how = "found" if row.cached else f"built in {row.build_s:.0f} s"
    how = "as given" if config.teacher.is_given else how
    ((primary, value),) = row.val.items()
    console.print(
        f"Teacher {how}: val_{primary} {value:.4f}, {row.cost.params:,} params,"
        f" {row.cost.flops / 1e6:.2f} MFLOPs",
        highlight=False,
        soft_wrap=True,
    )
    if known is not None:
        console.print(f"Teacher on validation: {known}", highlight=False, soft_wrap=True)
    warning = warning_of(config.teacher, known)
    if warning is not None:
        console.print(warning, soft_wrap=True)
        log.warning("%s", warning)
    num_actors = at_once * resources.workers
    if pool_size > LARGE_POOL and num_actors > 1:
        # The actors hold the resources; the task writes what they compute.
        run(partial(_banks, job, num_actors), 0, 0)
    else:
        run(partial(_banks, job, 0), resources.cpus, resources.num_gpus)
    return str(found)


def _run(
    work: Callable[[], Any],
    cpus: float,
    gpus: float,
    *,
    console: Console,
    name: str,
    listener: _Listener,
    storage_timeout: float,
) -> Any:
    """Do work in a Ray task, telling what it notes meanwhile; what it returns.

    Raises:
        PdoError: what the work raised.
    """
    import ray

    from pdo_search.search.retries import Retries

    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_call)
    retries = Retries(MOST_DEATHS)
    while True:
        future, done = task.remote(work, storage_timeout), False
        while not done:
            done = bool(ray.wait([future], timeout=0.5)[0])
            for line in listener.heard():
                log.info("%s: %s", name, line)
                console.print(f"{name}: {line}", highlight=False, soft_wrap=True)
        try:
            return ray.get(future)
        except ray.exceptions.RayTaskError as error:
            raise _own(error) or PdoError(f"the teacher cannot be built: {error}") from error
        except ray.exceptions.RayError as error:
            _, cause, again = retries.note(0, error)
            if not again:
                raise PdoError(
                    f"the teacher cannot be built: {cause}; it may have been killed for its memory,"
                    " or by a fault in native code\n  -> `pdo-search check` runs the models in its"
                    " own process, where the fault shows"
                ) from error
            log.warning("%s: %s", name, error)
            console.print(f"{name}: {cause}; tried again", highlight=False, soft_wrap=True)


def _call(work: Callable[[], Any], storage_timeout: float) -> Any:
    with patience(storage_timeout):
        return work()


def _own(error: BaseException | None) -> PdoError | None:
    """The error of this package at the root of one of Ray's; Ray Data wraps its actors' twice.

    Ray's are of the wrapped error's class as well, and tell its traceback in their text.
    """
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) or (
        error is not None and not isinstance(error, PdoError)
    ):
        error = getattr(error, "cause", None) or error.__cause__
    return error


def _noted(notes: Any, line: str) -> None:
    """In a task: note a line; it is there when the task ends."""
    import ray

    if notes is not None:
        with suppress(ray.exceptions.RayError):
            ray.get(notes.add.remote(line), timeout=ANSWER_S)


def _full(job: _Job) -> tuple[TrialConfig, Context, Level]:
    """In a task: the trial, where it computes, and the full teacher, trained if nobody has."""
    import torch

    from pdo_search.distill.context import Context
    from pdo_search.trial.shared import check_visible
    from pdo_search.trial.worker import prepare

    given = job.assignment
    check_visible(given.sweep)
    config = given.config(job.suggestion)
    torch.set_num_threads(config.resources.threads)

    epochs = config.teacher.train.epochs if config.teacher.train else 0

    def on_epoch(seen: dict[str, float]) -> None:
        _noted(
            job.notes,
            f"epoch {seen['epoch']:.0f} of {epochs}: train_loss {seen['train_loss']:.4f},"
            f" {seen['examples_per_s']:.0f} examples/s",
        )

    device = torch.device("cuda" if config.resources.num_gpus else "cpu")
    on = Context(given.store, device, Path(given.base_dir))
    return config, on, prepare(config, on, fingerprint=given.fingerprint, on_epoch=on_epoch)


def _teacher(job: _Job) -> tuple[TeacherRow, Standing | None, int, str]:
    """In a task: the teacher's row and standing, how many examples trials will ask it about, and
    the task's fingerprint.

    What it says on validation, which every trial needs at once, is built as well.
    """
    from pdo_search.distill.chance import standing
    from pdo_search.tasks.base import Split
    from pdo_search.trial.worker import teaching_of

    config, on, full = _full(job)
    teaching = teaching_of(config, full, on)
    teaching.split_bank(0, Split.VALIDATION, on_progress=_progress(job, "validation"))
    known = standing(teaching.task, full.value)
    return full.row(teaching.task.metrics[0]), known, len(teaching.pool), teaching.task.fingerprint


def _banks(job: _Job, num_actors: int) -> None:
    """In a task: the full teacher's outputs on the views that trials ask for first, computed by
    actors, or here if there are none."""
    import torch

    from pdo_search.distill.teaching import planned_views
    from pdo_search.trial.spread_bank import spread
    from pdo_search.trial.worker import teaching_of

    config, on, full = _full(job)
    if num_actors:
        on = replace(on, device=torch.device("cpu"))
    teaching = teaching_of(config, full, on)
    for view in planned_views(config.recipe, teaching.num_views).get(0, []):
        compute = None
        if num_actors:
            compute = spread(
                config, teaching.task, view, teacher=full.path, on=on, num_actors=num_actors
            )
        teaching.pool_bank(0, view, compute=compute, on_progress=_progress(job, f"view {view}"))


def _progress(job: _Job, what: str) -> Callable[[int, int], None]:
    """Notes every few seconds how far it is: what is done at once needs no word."""
    noted_at = time.monotonic()

    def on_progress(done: int, count: int) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at > job.note_every_s:
            noted_at = time.monotonic()
            _noted(job.notes, f"outputs on {what}: {done:,} of {count:,} examples")

    return on_progress
