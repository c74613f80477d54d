"""The ladder: the full teacher and ever simpler ones, each recovered, checked and recorded.

Every level lies in the store under a key of all that determines it, so that trials that agree on
the recipe share levels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.base.seeds import seed_for
from pdo_search.config.metrics import gain_of, score_of
from pdo_search.config.recipe import Recipe, SimplifyConfig
from pdo_search.config.training import ExecutionConfig, OptimizerConfig
from pdo_search.distill.context import Context
from pdo_search.distill.evaluate import metrics_of
from pdo_search.distill.execution import USUAL, computed_by
from pdo_search.distill.feed import Feed
from pdo_search.distill.fit import fit
from pdo_search.distill.losses import label_mean
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.distill.simplify import simplified
from pdo_search.models.build import placed
from pdo_search.models.cost import Cost, measure_cost
from pdo_search.models.modelfile import load_for, save_model
from pdo_search.records import TeacherRow
from pdo_search.tasks.base import Batch, Outputs, Split, Task

__all__ = ["Attempt", "Ladder", "Level", "LevelStatus", "next_ratio"]

VERSION = 2
LEVEL_FILE = "level.json"
RECOVERY_TEMPERATURE = 2.0
RATIO_DECIMALS = 3


class LevelStatus(StrEnum):
    """How a level came about."""

    FULL = "full"
    """The teacher as it was given or trained."""
    PRUNED = "pruned"
    """Simplified from its parent."""
    KEPT_PARENT = "kept_parent"
    """Nothing was to be removed, or every ratio lost too much: the parent stands in."""


@dataclass(frozen=True)
class Attempt:
    """One ratio that was tried for a level.

    Attributes:
        ratio: share of channels removed.
        value_before: the primary metric on validation before recovery, batch norms measured anew.
        value: after recovery.
        accepted: whether the fall was small enough.
    """

    ratio: float
    value_before: float
    value: float
    accepted: bool


@dataclass(frozen=True)
class Level:
    """One teacher of the ladder.

    Attributes:
        index: 0 is the full teacher.
        key: digest of its artifact; a kept parent has the parent's.
        path: directory of its model.
        parent_key: digest of the level it was made from.
        status: how it came about.
        ratio_asked: as the recipe has it.
        ratio_applied: after backing off; 0 where the parent was kept.
        blocks_dropped: names of the blocks removed from its parent.
        attempts: every ratio tried.
        cost: measured when it was built.
        value_before: the primary metric on validation before recovery; None for the full teacher.
        value: the primary metric on validation.
        build_s: seconds to build it, whoever did.
        cached: whether it was there already.
    """

    index: int
    key: str
    path: Path
    parent_key: str | None
    status: LevelStatus
    ratio_asked: float
    ratio_applied: float
    blocks_dropped: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    cost: Cost
    value_before: float | None
    value: float
    build_s: float
    cached: bool

    def row(self, metric: str) -> TeacherRow:
        """The level's row; ``metric`` is the task's primary one."""
        before = self.value_before
        return TeacherRow(
            level=self.index,
            key=self.key,
            parent_key=self.parent_key,
            status=self.status.value,
            ratio_asked=self.ratio_asked,
            ratio_applied=self.ratio_applied,
            backoffs=sum(not attempt.accepted for attempt in self.attempts),
            blocks_dropped=len(self.blocks_dropped),
            cost=self.cost,
            score_before=None if before is None else score_of(metric, before),
            val={metric: self.value},
            val_score=score_of(metric, self.value),
            build_s=self.build_s,
            cached=self.cached,
        )


def next_ratio(attempts: Sequence[Attempt], asked: float, backoffs: int) -> float | None:
    """The ratio to try next, or None when the search for one has ended.

    A refused ratio is halved, at most ``backoffs`` times.
    """
    if any(attempt.accepted for attempt in attempts) or len(attempts) > backoffs:
        return None
    return round(asked * 0.5 ** len(attempts), RATIO_DECIMALS)


def primary_of(task: Task, model: nn.Module, device: torch.device) -> float:
    """A teacher's primary metric on validation."""
    return metrics_of(task, model, task.examples(Split.VALIDATION), device)[task.metrics[0]]


class Ladder:
    """The levels of one recipe, built when they are first asked for.

    Args:
        task: the task.
        full: level 0.
        recipe: ``prune_ratio`` and ``simplify``.
        on: where levels are recovered and run, and lie.
        seed: of recovery.
        execution: how recovery is computed.
    """

    def __init__(
        self,
        task: Task,
        full: Level,
        recipe: Recipe,
        on: Context,
        *,
        seed: int,
        execution: ExecutionConfig = USUAL,
    ) -> None:
        self.task = task
        self.ratio = round(recipe.prune_ratio, RATIO_DECIMALS)
        self.simplify: SimplifyConfig = recipe.simplify
        self.on = on
        self.seed = seed
        self.execution = execution
        self._levels = [full]
        self._models: dict[str, nn.Module] = {}

    def level(self, index: int) -> Level:
        """The level, and before it all above it, built if nobody has.

        Raises:
            Infeasible: the architecture cannot be simplified.
        """
        while len(self._levels) <= index:
            self._levels.append(self._next(self._levels[-1]))
        return self._levels[index]

    def built(self) -> tuple[Level, ...]:
        """The levels asked for so far."""
        return tuple(self._levels)

    def model(self, index: int) -> nn.Module:
        """The level's model on the device, in evaluation mode; shared, not to be changed."""
        level = self.level(index)
        if level.key not in self._models:
            self._models[level.key] = self._loaded(level)
        return self._models[level.key]

    def _loaded(self, level: Level) -> nn.Module:
        model, _ = load_for(self.task, level.path, self.on.base_dir)
        return placed(model, self.on.device).eval()

    def _next(self, parent: Level) -> Level:
        if self.ratio == 0 and self.simplify.drop_blocks == 0:
            return _kept(parent, (), 0.0, build_s=0.0, cached=True)
        key = {
            "version": VERSION,
            "parent": parent.key,
            "task": self.task.fingerprint,
            "ratio": self.ratio,
            "simplify": self.simplify.model_dump(exclude={"timeout"}),
            "seed": self.seed,
            **computed_by(self.execution, self.on.device),
        }
        found = self.on.store.get_or_build("level", key, lambda folder: self._build(folder, parent))
        record = json.loads((found.path / LEVEL_FILE).read_text(encoding="utf-8"))
        build_s = json.loads((found.path / "manifest.json").read_text(encoding="utf-8"))["build_s"]
        attempts = tuple(Attempt(**a) for a in record["attempts"])
        if record["status"] == LevelStatus.KEPT_PARENT.value:
            return _kept(parent, attempts, self.ratio, build_s=build_s, cached=not found.built)
        accepted = attempts[-1]
        return Level(
            index=parent.index + 1,
            key=found.digest,
            path=found.path,
            parent_key=parent.key,
            status=LevelStatus.PRUNED,
            ratio_asked=self.ratio,
            ratio_applied=accepted.ratio,
            blocks_dropped=tuple(record["blocks_dropped"]),
            attempts=attempts,
            cost=Cost(**record["cost"]),
            value_before=accepted.value_before,
            value=accepted.value,
            build_s=build_s,
            cached=not found.built,
        )

    def _build(self, folder: Path, parent: Level) -> None:
        """Prune, recover and check until a ratio is accepted or none is left."""
        attempts: list[Attempt] = []
        dropped: tuple[str, ...] = ()
        while (ratio := next_ratio(attempts, self.ratio, self.simplify.backoffs)) is not None:
            model, spec = load_for(self.task, parent.path, self.on.base_dir)
            calibration = Calibration(self.task, self.on.device)
            model, dropped = simplified(
                self.task,
                model,
                ratio,
                self.simplify,
                device=self.on.device,
                calibration=calibration,
            )
            if sum(p.numel() for p in model.parameters()) == parent.cost.params:
                # No layer is wide enough to lose channels at this ratio, nor at a smaller one.
                break
            refresh_statistics(model, calibration)
            before = primary_of(self.task, model, self.on.device)
            self._recover(model, parent)
            after = primary_of(self.task, model, self.on.device)
            fall = -gain_of(self.task.metrics[0], parent.value, after)
            accepted = fall <= self.simplify.max_drop
            attempts.append(Attempt(ratio, before, after, accepted))
        record: dict[str, Any] = {"attempts": [asdict(a) for a in attempts]}
        if attempts and attempts[-1].accepted:
            spec = replace(spec, dropped_blocks=(*spec.dropped_blocks, *dropped))
            save_model(folder, model, spec)
            cost = measure_cost(self.task, model, self.on.device)
            record |= {
                "status": LevelStatus.PRUNED.value,
                "blocks_dropped": dropped,
                "cost": asdict(cost),
            }
        else:
            record["status"] = LevelStatus.KEPT_PARENT.value
        (folder / LEVEL_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _recover(self, model: nn.Module, parent: Level) -> None:
        """Short self-distillation from the parent on the train split.

        Where few examples have labels, on those of the transfer split as well, as many in all as
        the train split would have had.
        """
        teacher = self._loaded(parent)
        examples = self.task.examples(Split.TRAIN)
        epochs = self.simplify.recovery_epochs
        if len(examples) < self.task.epoch_examples:
            examples = examples.followed_by(self.task.examples(Split.TRANSFER))
            epochs *= self.task.epoch_examples / len(examples)
        feed = Feed(examples, self.on.device)

        def loss_of(outputs: Outputs, batch: Batch, rows: Tensor) -> Tensor:
            with torch.no_grad():
                said = self.task.forward(teacher, batch)
            total = label_mean(self.task, outputs, batch)
            for head in self.task.heads:
                taught = Taught(said[head.name])
                total = (
                    total
                    + self.task.divergence(
                        head, outputs[head.name], taught, batch, RECOVERY_TEMPERATURE
                    ).mean()
                )
            return total

        fit(
            self.task,
            model,
            feed,
            loss_of,
            OptimizerConfig(lr=self.simplify.recovery_lr),
            epochs=epochs,
            seed=seed_for(self.seed, "recovery", parent.index),
            execution=self.execution,
        )


def _kept(
    parent: Level, attempts: tuple[Attempt, ...], asked: float, *, build_s: float, cached: bool
) -> Level:
    """The parent, standing in for a level that was not to be had."""
    return replace(
        parent,
        index=parent.index + 1,
        parent_key=parent.key,
        status=LevelStatus.KEPT_PARENT,
        ratio_asked=asked,
        ratio_applied=0.0,
        blocks_dropped=(),
        attempts=attempts,
        value_before=None,
        build_s=build_s,
        cached=cached,
    )
