"""The worker function: one trial, from its configuration to its finished student.

Puts the pieces together (task, teacher, ladder, student, loop, composite, checkpoint) on the device
that a ``Worker`` gives. Knows neither Tune nor Ray Train: the adapters beside it do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdo_search.base.errors import Infeasible, InputError, StoreError
from pdo_search.base.scratch import scratch_folder
from pdo_search.base.seeds import seed_for
from pdo_search.base.storage import Storage, patience
from pdo_search.config.keep import keep_of
from pdo_search.config.metrics import score_of
from pdo_search.config.recipe import Recipe
from pdo_search.config.run import LimitsConfig
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.combine import combine
from pdo_search.distill.context import Context
from pdo_search.distill.execution import make_deterministic, threads
from pdo_search.distill.ladder import Ladder, Level
from pdo_search.distill.loop import Distillation, initial_state
from pdo_search.distill.norms import Calibration
from pdo_search.distill.protocol import Report, Worker
from pdo_search.distill.simplify import cut
from pdo_search.distill.state import TrialState, pack, unpack
from pdo_search.distill.teacher import trained_teacher
from pdo_search.distill.teaching import Teaching
from pdo_search.distill.tested import tested_composite, tested_student, tested_teacher
from pdo_search.models.build import build_for, placed
from pdo_search.models.cost import Cost, cost_of
from pdo_search.models.modelfile import ModelSpec, load_for
from pdo_search.records import FullTeacher, Row, TrialRow
from pdo_search.store.encoding import DENSE_SIZE
from pdo_search.tasks.base import Task
from pdo_search.trial.checkpoints import CheckpointFile
from pdo_search.trial.protocol import Places

__all__ = ["build_student", "prepare", "run_trial", "teaching_of"]


def prepare(
    config: TrialConfig,
    on: Context,
    *,
    fingerprint: str | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Level:
    """Build what all trials share: the task's data and the full teacher, in the store.

    Args:
        config: any trial of the sweep.
        on: where the teacher is trained, and lies.
        fingerprint: that the task must have; None for any.
        on_epoch: called after each epoch of the teacher's training.

    Raises:
        InputError: data or weights cannot be used, or the data are others than they were.
    """
    make_deterministic(config.execution)
    task = on.task(config.task)
    _check_fingerprint(task, fingerprint)
    return trained_teacher(
        task,
        config.teacher,
        on,
        seed=config.teacher_seed,
        execution=config.execution,
        num_threads=config.resources.teacher_threads,
        on_epoch=on_epoch,
    )


def teaching_of(config: TrialConfig, full: Level, on: Context) -> Teaching:
    """A trial's pool and teacher outputs, apart from the trial: to build them beforehand.

    Args:
        config: the trial.
        full: the full teacher, from ``prepare``.
        on: where teachers run, and lie.
    """
    return _teaching(config, _ladder(config, on.task(config.task), full, on))


def _ladder(config: TrialConfig, task: Task, full: Level, on: Context) -> Ladder:
    """A trial's ladder, under the seed that all trials of its sweep share."""
    seed, execution = config.teacher_seed, config.execution
    return Ladder(task, full, config.recipe, on, seed=seed, execution=execution)


def _teaching(config: TrialConfig, ladder: Ladder) -> Teaching:
    # Of the trial, not of the device: a large pool's outputs come from actors on other devices.
    count = 0 if config.resources.num_gpus else config.resources.threads
    return Teaching(ladder, config.recipe, count)


def run_trial(config: TrialConfig, worker: Worker, *, places: Places) -> None:
    """Run a trial from its beginning or from its checkpoint, reporting after every epoch.

    A trial that goes on first reports again what its checkpoint holds, epoch by epoch: rows that
    the driver has already are ignored there, rows that it lost are filled in.

    Raises:
        Infeasible: the student breaks a limit, a teacher cannot be simplified, or memory ran out.
        Diverged: the loss became infinite or not a number.
        InputError: data or weights cannot be used.
    """
    try:
        with patience(config.limits.storage_timeout), threads(config.resources.threads):
            _run(config, worker, places)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = str(error) or type(error).__name__
        raise Infeasible(f"out of memory on {worker.device}: {said}") from error


def _run(config: TrialConfig, worker: Worker, places: Places) -> None:
    on = places.context(worker.device)
    level = prepare(config, on, fingerprint=places.fingerprint)
    task = on.task(config.task)
    ladder = _ladder(config, task, level, on)
    student, spec = build_student(config, task, ladder)
    student = placed(student, worker.device)
    cost = worker.broadcast(cost_of(task, student, spec.arch, worker.device))
    check_limits(cost, config.limits)
    check_standardize(config.recipe, task)

    checkpoint = CheckpointFile(places.sweep, places.checkpoint)
    config_key = hashlib.sha256(
        config.model_dump_json(exclude={"resources", "limits", "save_after"}).encode()
    ).hexdigest()
    state = worker.broadcast(_restored(checkpoint, config_key) if worker.rank == 0 else None)
    if state is None:
        state = initial_state(config)
    for report in state.reports:
        worker.report(Report(report["metrics"], report["rows"]))
        if worker.should_stop():
            return
    if state.done:
        return

    teaching = _teaching(config, ladder)

    def tested(models: Path) -> Iterator[Row]:
        examples = task.test_examples()
        yield tested_student(task, student, examples, on.device)
        yield tested_teacher(task, level, examples, on)
        if config.recipe.composite is not None:
            yield tested_composite(
                task,
                models / "composite",
                examples,
                on,
                student_cost=cost,
                teacher_cost=ladder.level(config.recipe.num_stages).cost,
            )

    def finish(_: TrialState) -> list[Row]:
        with scratch_folder("model") as scratch:
            rows = combine(config, task, teaching, student, spec, cost, scratch / "out")
            Storage(places.sweep).publish(scratch / "out", places.artifact)
            if config.confirms:
                rows += tested(scratch / "out")
        return rows

    training = Distillation(
        config,
        teaching=teaching,
        student=student,
        cost=cost,
        worker=worker,
        state=state,
        save=lambda now: checkpoint.write(pack(now, config_key)),
        finish=finish,
        facts=_facts(task, cost, ladder.level(0)),
    )
    training.run()


def build_student(config: TrialConfig, task: Task, ladder: Ladder) -> tuple[nn.Module, ModelSpec]:
    """The student at its initial weights, on the CPU, and how to build it again.

    ``arch: teacher`` is what ``keep`` says of the full teacher, weights kept.

    Raises:
        Infeasible: the teacher cannot be shrunk.
        InputError: weights do not fit.
    """
    keep, base_dir = keep_of(config.student), ladder.on.base_dir
    if config.student.is_cut:
        model, spec = load_for(task, ladder.level(0).path, base_dir)
        # Channels are judged by their weights alone.
        by = None if keep.keys() == {"channels"} else Calibration(task, torch.device("cpu"))
        dropped = cut(task, model, keep, config.recipe.simplify, by)
        names = (*spec.dropped_blocks, *dropped)
        return model, ModelSpec.of(task, config.teacher, model, names)
    seed = seed_for(config.seed, "student")
    model = build_for(task, config.student, seed=seed, base_dir=base_dir)
    if keep:
        cut(task, model, keep, config.recipe.simplify, None)
    return model, ModelSpec.of(task, config.student, model)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a device or in main memory.

    Torch (2.4 to 2.14) raises a plain RuntimeError where its allocator of main memory fails.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    refused = ("can't allocate memory", "not enough memory", "std::bad_alloc")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in refused)


def _check_fingerprint(task: Task, expected: str | None) -> None:
    """Refuse data that are others than those the sweep began with.

    Raises:
        InputError: they are; a sweep on several data compares nothing.
    """
    if expected not in (None, task.fingerprint):
        raise InputError(
            f"the data on {socket.gethostname()} are not those that the sweep began with",
            path="task.data",
            remedy="a source must give the same examples in the same order at every call: let a"
            " factory draw with a fixed seed, and leave files as they are while a sweep runs",
        )


def check_limits(cost: Cost, limits: LimitsConfig) -> None:
    """Refuse a student that costs more than the limits allow.

    Raises:
        Infeasible: names the first limit that is broken.
    """
    for name, limit in (
        ("params", limits.params),
        ("flops", limits.flops),
        ("latency_ms", limits.latency_ms),
    ):
        value = getattr(cost, name)
        if limit is not None and value > limit:
            raise Infeasible(f"{name} {value:.6g} is over the limit {limit:.6g}")


def check_standardize(recipe: Recipe, task: Task) -> None:
    """Refuse to standardize the logits of a head that is not stored whole.

    Raises:
        Infeasible: the stored logits lack the spread of the others.
    """
    largest = max(head.size for head in task.heads)
    if recipe.loss.standardize and largest > DENSE_SIZE:
        raise Infeasible(
            f"loss.standardize needs the spread of all logits, and of a head of {largest} classes"
            f" (more than {DENSE_SIZE}) only the largest are stored"
        )


def _restored(checkpoint: CheckpointFile, config_key: str) -> TrialState | None:
    sealed = checkpoint.read()
    if sealed is None:
        return None
    try:
        return unpack(sealed, config_key)
    except StoreError as error:
        checkpoint.set_aside(error)
        return None


def _facts(task: Task, cost: Cost, teacher: Level) -> TrialRow:
    """What is known of the trial before training."""
    full = FullTeacher(
        teacher.cost.params,
        teacher.cost.flops,
        teacher.cost.latency_ms,
        score_of(task.metrics[0], teacher.value),
    )
    return TrialRow(cost=cost, teacher=full, host=socket.gethostname(), pid=os.getpid())
