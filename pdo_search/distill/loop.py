"""The training loop of one trial: init, stages, fine-tuning, one epoch after the other.

Owns the order of things and nothing else: what an epoch does is ``epochs``; what a stage is and
what adapts are pure functions in the modules beside it. Knows a ``Worker``, not where it runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from pdo_search.config.metrics import gain_of, reaches, score_of, share_of
from pdo_search.config.recipe import Recipe
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.adapt import Hyperparameters, adapt
from pdo_search.distill.epochs import Epochs
from pdo_search.distill.evaluate import Evaluated, evaluated
from pdo_search.distill.feed import resident
from pdo_search.distill.norms import refresh_statistics
from pdo_search.distill.protocol import Report, Worker
from pdo_search.distill.stage import Phase, Stage, StageEnd, plan_stages, reassign, stage_end
from pdo_search.distill.state import TrialState
from pdo_search.distill.teaching import Teaching
from pdo_search.distill.timing import PhaseClock
from pdo_search.models.cost import Cost
from pdo_search.records import (
    Decision,
    EpochRow,
    Row,
    Seconds,
    StageRow,
    Trained,
    TrialRow,
    tables_of,
)
from pdo_search.tasks.base import Split

__all__ = ["Distillation", "initial_state"]

CHECKPOINT_EVERY_S = 30.0


def initial_state(config: TrialConfig) -> TrialState:
    """The state of a trial that has not begun."""
    optimizer = config.recipe.optimizer
    tuning = Hyperparameters(
        lr_scale=1.0,
        weight_decay=optimizer.weight_decay,
        label_smoothing=optimizer.label_smoothing,
        dropout=config.student.dropout,
    )
    return TrialState(plan=plan_stages(config.recipe), tuning=tuning)


class Distillation:
    """One trial's training.

    Args:
        config: the trial.
        teaching: its task, pool and teacher outputs.
        student: the student on the worker's device, at its initial weights; trained in place.
        cost: the student's cost.
        worker: the process that runs it.
        state: where to go on from; ``initial_state(config)`` to begin.
        save: keeps the state; called by rank 0 at every stage's end, after the epochs of
            ``save_after``, and after an epoch when the last time was ``CHECKPOINT_EVERY_S`` ago.
        finish: called by rank 0 when training ends; makes composite and artifacts and returns
            further rows.
        facts: what is known of the trial before training.
    """

    def __init__(
        self,
        config: TrialConfig,
        *,
        teaching: Teaching,
        student: nn.Module,
        cost: Cost,
        worker: Worker,
        state: TrialState,
        save: Callable[[TrialState], None],
        finish: Callable[[TrialState], Sequence[Row]],
        facts: TrialRow,
    ) -> None:
        self.config = config
        self.recipe: Recipe = config.recipe
        self.task = task = teaching.task
        self.metric = task.metrics[0]
        self.teaching = teaching
        self.worker = worker
        self.device = worker.device
        self.cost = cost
        self.state = state
        self.save = save
        self.finish = finish
        self.facts = facts
        self.clock = PhaseClock()
        self.student = student
        self.epochs = Epochs(config, teaching, student, worker, state, self.clock)
        self.validation = resident(task.examples(Split.VALIDATION), self.device)
        validation_bank = teaching.split_bank(0, Split.VALIDATION)
        self.teacher_on_validation = partial(teaching.taught, validation_bank)
        self._saved_at = time.monotonic()
        self._known_levels: set[int] = {
            row["level"] for report in state.reports for row in report["rows"].get("teachers", [])
        }

    def run(self) -> TrialState:
        """Train to the end of the plan, or until the worker asks to stop.

        Raises:
            Diverged: the loss became infinite or not a number.
            Infeasible: a teacher could not be simplified as the recipe wants.
        """
        state = self.state
        while not state.done:
            epoch_started = time.perf_counter()
            stage = state.stage
            trained = self.epochs.train(stage)
            with self.clock.phase("evaluation"):
                metrics = self._metrics(stage)
            wall_s = time.perf_counter() - epoch_started
            epoch, ended = self._close_epoch(stage, trained, metrics, wall_s)
            more = self.finish(state) if state.done and self.worker.rank == 0 else ()
            report = self._record(epoch, ended, [*more, *self._new_teacher_rows()])
            with self.clock.phase("waiting"):
                wanted = ended is not None or state.epoch in self.config.save_after
                self._checkpoint(force=wanted)
                self.worker.report(report)
            if self.worker.should_stop():
                break
        return state

    def _metrics(self, stage: Stage) -> dict[str, float]:
        """The student's metrics, on every rank; none after an epoch that nobody asks about."""
        last = self.state.stage_epoch + 1 >= stage.epochs
        if not (last or self._watched):
            return {}
        found: Evaluated | None = None
        # On every rank: norms that synchronise by themselves wait for the others.
        refresh_statistics(self.student, self.epochs.calibration)
        if self.worker.rank == 0:
            found = evaluated(
                self.task, self.student, self.validation, self.device, self.teacher_on_validation
            )
        found = self.worker.broadcast(found)
        assert found is not None
        self.state.val_quality = found.quality
        return found.metrics

    @property
    def _watched(self) -> bool:
        """Whether every epoch is evaluated, not the stages' last ones alone."""
        recipe = self.recipe
        targets = (recipe.target, recipe.target_of_teacher)
        has_target = any(target is not None for target in targets)
        return self.config.evaluation == "epoch" or recipe.curriculum.adaptive or has_target

    def _score(self, metrics: dict[str, float]) -> float | None:
        """The primary metric as a score; None where nothing was measured."""
        return score_of(self.metric, metrics[self.metric]) if metrics else None

    def _close_epoch(
        self, stage: Stage, trained: Trained, metrics: dict[str, float], wall_s: float
    ) -> tuple[EpochRow, StageRow | None]:
        """Advance the state by an epoch; its row, and its stage's if that ends. Decides whether
        stage and trial end."""
        state = self.state
        state.epoch += 1
        if metrics:
            state.values.append(metrics[self.metric])
        state.train_quality = trained.train_quality
        seconds = self.clock.take()
        state.seconds += seconds
        state.totals += seconds
        state.wall_s += wall_s
        examples = self.epochs.steps * self.epochs.batch_size
        tuning = state.tuning
        epoch = EpochRow(
            epoch=state.epoch,
            stage=stage.index,
            phase=stage.phase.value,
            temperature=stage.temperature,
            weight_decay=tuning.weight_decay,
            label_smoothing=tuning.label_smoothing,
            dropout=tuning.dropout,
            trained=trained,
            val=metrics,
            val_score=self._score(metrics),
            examples_per_s=_rate(examples, seconds),
            seconds=seconds,
            wall_s=wall_s,
            reported_at=time.time(),
        )
        ended = self._ended(stage)
        if ended is None:
            return epoch, None
        return epoch, self._close_stage(stage, ended, metrics, examples)

    def _ended(self, stage: Stage) -> StageEnd | None:
        state = self.state
        goals = [self.recipe.target]
        if self.recipe.target_of_teacher is not None:
            whole = self.teaching.ladder.level(0).value
            goals.append(share_of(self.metric, whole, self.recipe.target_of_teacher))
        now = state.values[-1] if state.values else math.nan
        if any(goal is not None and reaches(self.metric, now, goal) for goal in goals):
            return StageEnd.TARGET
        later = state.plan[state.position + 1 :]
        is_last = not any(s.phase is Phase.STAGE for s in later)
        curriculum = self.recipe.curriculum
        return stage_end(
            stage, state.stage_epoch, state.values, curriculum, metric=self.metric, is_last=is_last
        )

    def _close_stage(
        self, stage: Stage, ended: StageEnd, metrics: dict[str, float], examples: int
    ) -> StageRow:
        """The stage's row; moves the state to the next stage, adapted, or to the end."""
        state = self.state
        used = state.stage_epoch
        value = metrics[self.metric]
        gain = 1.0 if state.entered_at is None else gain_of(self.metric, state.entered_at, value)
        tuning, said = state.tuning, "last stage"
        state.done = ended is StageEnd.TARGET or state.position + 1 == len(state.plan)
        if not state.done:
            tuning, said = adapt(
                state.tuning,
                initial_state(self.config).tuning,
                self.recipe.adapt,
                gain=gain,
                gap=state.train_quality - state.val_quality,
            )
        row = StageRow(
            stage=stage.index,
            phase=stage.phase.value,
            teacher_level=stage.level,
            first_epoch=state.epoch - used + 1,
            last_epoch=state.epoch,
            ended_by=ended.value,
            temperature=stage.temperature,
            val=metrics,
            val_score=self._score(metrics),
            cost=self.cost,
            lr_scale=tuning.lr_scale,
            weight_decay=tuning.weight_decay,
            label_smoothing=tuning.label_smoothing,
            dropout=tuning.dropout,
            adaptation=said,
            examples_per_s=_rate(used * examples, state.seconds),
            seconds=state.seconds,
            wall_s=state.wall_s,
        )
        if not state.done:
            state.plan = reassign(state.plan, state.position, used)
            state.position += 1
            state.tuning = tuning
            state.stage_began, state.entered_at = state.epoch, value
            state.values, state.seconds, state.wall_s = [], Seconds(), 0.0
        return row

    def _new_teacher_rows(self) -> list[Row]:
        """Rows of the levels that have taught in this trial and were not yet reported."""
        if self.recipe.method == "scratch":
            return []
        new = [r for r in self.teaching.ladder.built() if r.index not in self._known_levels]
        self._known_levels.update(r.index for r in new)
        return [r.row(self.metric) for r in new]

    def _record(self, epoch: EpochRow, ended: StageRow | None, more: Sequence[Row]) -> Report:
        """The epoch's report, added to the state."""
        state = self.state
        stages_done = sum("stages" in r["rows"] for r in state.reports) + (ended is not None)
        measured = TrialRow(val=epoch.val, val_score=epoch.val_score)
        flat = {
            "epoch": state.epoch,
            "stage": epoch.stage,
            "phase": epoch.phase,
            "stage_end": ended is not None,
            "stages_done": stages_done,
            "done": state.done,
            **self.cost.columns(),
            **measured.columns(),
        }
        if ended is not None and state.done:
            hit = ended.ended_by == StageEnd.TARGET.value
            flat["decision"] = (Decision.TARGET_REACHED if hit else Decision.COMPLETED).value
        trial = replace(
            measured,
            epochs_done=state.epoch,
            stages_done=stages_done,
            seconds=state.totals,
            examples_per_s=epoch.examples_per_s,
        )
        facts = replace(self.facts, first_step_at=self.epochs.first_step_at)
        first = [] if state.reports else [facts]
        stages = [] if ended is None else [ended]
        report = Report(flat, tables_of([trial, *first, epoch, *stages, *more]))
        state.reports.append({"metrics": report.metrics, "rows": report.rows})
        return report

    def _checkpoint(self, *, force: bool) -> None:
        now = time.monotonic()
        if self.worker.rank or not (force or now - self._saved_at >= CHECKPOINT_EVERY_S):
            return
        self.state.model = self.student.state_dict()
        self.state.optimizer = self.epochs.updates.optimizer.state_dict()
        self.save(self.state)
        self._saved_at = now


def _rate(examples: int, seconds: Seconds) -> float:
    """Examples per second of the student's training."""
    return examples / max(seconds.student_s + seconds.data_s, 1e-9)
