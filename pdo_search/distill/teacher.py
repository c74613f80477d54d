"""The full teacher: loaded, trained if the experiment says so, and kept in the store.

Trained once per content: the key holds data, configuration, seed and the bytes of given weights, so
that every trial and every later sweep finds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.factory import is_factory, load_factory, source_digest
from pdo_search.base.seeds import seed_for
from pdo_search.config.model import TeacherConfig
from pdo_search.config.training import ExecutionConfig, TrainConfig
from pdo_search.distill.context import Context
from pdo_search.distill.execution import USUAL, computed_by, threads
from pdo_search.distill.feed import Feed
from pdo_search.distill.fit import fit
from pdo_search.distill.frozen import fit_heads
from pdo_search.distill.ladder import LEVEL_FILE, VERSION, Level, LevelStatus, primary_of
from pdo_search.distill.losses import label_mean
from pdo_search.models.build import build_for, placed
from pdo_search.models.cost import Cost, measure_cost
from pdo_search.models.modelfile import ModelSpec, save_model
from pdo_search.models.weights import weights_digest
from pdo_search.tasks.base import Batch, Outputs, Split, Task

__all__ = ["trained_teacher"]


def trained_teacher(
    task: Task,
    config: TeacherConfig,
    on: Context,
    *,
    seed: int,
    execution: ExecutionConfig = USUAL,
    num_threads: int | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Level:
    """Level 0 of every ladder.

    Args:
        task: the task.
        config: architecture, weights, training.
        on: where it is trained, and lies.
        seed: of initial weights and order.
        execution: how it is trained.
        num_threads: of the CPU, where it is trained there; a part of its key, since others round
            otherwise. None is as many as torch has.
        on_epoch: called after each epoch, when it is trained now.

    Raises:
        InputError: architecture or weights cannot be used.
    """

    def build(folder: Path) -> None:
        own = seed_for(seed, "teacher")
        built = build_for(task, config, seed=own, base_dir=on.base_dir, path="teacher")
        model = placed(built, on.device)
        if config.train is not None:
            _train(
                task,
                model,
                config.train,
                seed=own,
                device=on.device,
                execution=execution,
                on_epoch=on_epoch,
            )
        save_model(folder, model, ModelSpec.of(task, config, model))
        record = {
            "value": primary_of(task, model, on.device),
            "cost": asdict(measure_cost(task, model, on.device)),
        }
        (folder / LEVEL_FILE).write_text(json.dumps(record), encoding="utf-8")

    with threads(num_threads or torch.get_num_threads()):
        key = {**_key(task, config, seed, on.base_dir)}
        key |= computed_by(execution, on.device, config.arch)
        found = on.store.get_or_build("teacher", key, build)
    record = json.loads((found.path / LEVEL_FILE).read_text(encoding="utf-8"))
    build_s = json.loads((found.path / "manifest.json").read_text(encoding="utf-8"))["build_s"]
    return Level(
        index=0,
        key=found.digest,
        path=found.path,
        parent_key=None,
        status=LevelStatus.FULL,
        ratio_asked=0.0,
        ratio_applied=0.0,
        blocks_dropped=(),
        attempts=(),
        cost=Cost(**record["cost"]),
        value_before=None,
        value=record["value"],
        build_s=build_s,
        cached=not found.built,
    )


def _train(
    task: Task,
    model: nn.Module,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    execution: ExecutionConfig,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> None:
    """Train a model on the train split in place, all of it or its heads alone."""
    examples = task.examples(Split.TRAIN)
    if config.freeze is not None:
        fit_heads(
            task, model, examples, config, seed=seed, device=device, execution=execution,
            on_epoch=on_epoch,
        )  # fmt: skip
        return

    def loss_of(outputs: Outputs, batch: Batch, rows: Tensor) -> Tensor:
        return label_mean(task, outputs, batch, config.label_smoothing)

    fit(
        task,
        model,
        Feed(examples, device),
        loss_of,
        config,
        epochs=config.epochs,
        seed=seed,
        execution=execution,
        on_epoch=on_epoch,
    )


def _key(task: Task, config: TeacherConfig, seed: int, base_dir: Path | None) -> dict[str, Any]:
    """All that determines a teacher beside how it is computed."""
    key: dict[str, Any] = {
        "version": VERSION,
        "task": task.fingerprint,
        "config": config.model_dump(exclude={"force"}),
        "seed": seed,
    }
    weights = weights_digest(config, base_dir)
    if weights is not None:
        key["weights"] = weights
    if is_factory(config.arch):
        key["source"] = source_digest(load_factory(config.arch, "teacher.arch", base_dir))
    return key
