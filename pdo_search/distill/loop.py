"""The training loop of one trial: init, stages, fine-tuning, one epoch after the other.

Owns the order of things and nothing else: what a stage is, how losses are formed, what adapts and
which examples are admitted are pure functions in the modules beside it. Knows a ``Worker``, not
where it runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.schema import Recipe, TrialConfig
from pdo_search.distill.adapt import Tuning, adapt
from pdo_search.distill.cost import Cost
from pdo_search.distill.curriculum import admit, difficulty, progress_at
from pdo_search.distill.evaluate import evaluate, outputs_of
from pdo_search.distill.losses import DIVERGENCES, hard_label_loss, masked_mean, standardized
from pdo_search.distill.optim import lr_factor, make_optimizer, set_hyperparameters
from pdo_search.distill.protocol import Report, Worker
from pdo_search.distill.seeds import seed_for
from pdo_search.distill.stage import Phase, Stage, StageEnd, plan_stages, reassign, stage_end
from pdo_search.distill.state import TrialState
from pdo_search.distill.teaching import Teaching
from pdo_search.distill.timing import PhaseClock
from pdo_search.errors import PdoError
from pdo_search.store.bank import Bank
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.models import set_dropout

__all__ = ["Distillation", "Diverged", "initial_state"]

CHECKPOINT_EVERY_S = 30.0


class Diverged(PdoError):
    """The student's loss became infinite or not a number."""


def initial_state(config: TrialConfig) -> TrialState:
    """The state of a trial that has not begun."""
    optimizer = config.recipe.optimizer
    tuning = Tuning(
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
        task: its task.
        teaching: pool and teacher outputs.
        student: the student on the worker's device, at its initial weights; trained in place.
        cost: the student's cost.
        worker: the process that runs it.
        state: where to go on from; ``initial_state(config)`` to begin.
        save: keeps the state; called by rank 0 at every stage's end, and after an epoch when the
            last time was ``CHECKPOINT_EVERY_S`` ago.
        finish: called by rank 0 when training ends; makes composite and artifacts and returns
            further rows by table (``trials`` with at most one row).
        facts: columns of the trial's row that are known before training.
    """

    def __init__(
        self,
        config: TrialConfig,
        *,
        task: Task,
        teaching: Teaching,
        student: nn.Module,
        cost: Cost,
        worker: Worker,
        state: TrialState,
        save: Callable[[TrialState], None],
        finish: Callable[[TrialState], dict[str, list[dict[str, Any]]]],
        facts: Mapping[str, Any],
    ) -> None:
        self.config = config
        self.recipe: Recipe = config.recipe
        self.task = task
        self.head = task.heads[0].name
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
        self.optimizer = make_optimizer(student, self.recipe.optimizer)
        if state.epoch:
            student.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
        self.model = worker.wrap_model(student)
        self.validation = task.examples(Split.VALIDATION)
        self.teacher_validation = teaching.split_logits(0, Split.VALIDATION)
        batch = min(self.recipe.optimizer.batch_size, teaching.pool.num_train)
        self.batch_size = batch - batch % worker.world_size or worker.world_size
        self.steps = max(1, teaching.pool.num_train // self.batch_size)
        self._saved_at = time.monotonic()
        self._first_step_at: float | None = None
        self._known_rungs: set[int] = {
            row["rung"] for report in state.reports for row in report["rows"].get("teachers", [])
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
            bank = self._open_bank(stage)
            trained = self._train_epoch(stage, bank)
            with self.clock.phase("evaluation"):
                metrics = self.worker.broadcast(self._evaluate() if self.worker.rank == 0 else {})
            rows = self._close_epoch(stage, trained, metrics, time.perf_counter() - epoch_started)
            if state.done and self.worker.rank == 0:
                for table, more in self.finish(state).items():
                    rows.setdefault(table, []).extend(more)
            rows["teachers"] = self._new_teacher_rows()
            report = self._record(stage, metrics, rows)
            with self.clock.phase("waiting"):
                self._checkpoint(force=report.metrics["stage_end"])
                self.worker.report(report)
            if self.worker.should_stop():
                break
        return state

    def _open_bank(self, stage: Stage) -> Bank | None:
        """The stage's teacher outputs; the first time, this builds rung and bank."""
        if stage.rung is None:
            return None
        with self.clock.phase("teacher"):
            return self.teaching.pool_bank(stage.rung)

    def _train_epoch(self, stage: Stage, bank: Bank | None) -> dict[str, float]:
        """Train on as many examples as the train split has; losses and accuracy of the epoch."""
        state, recipe, teaching = self.state, self.recipe, self.teaching
        epoch, pool = state.epoch, teaching.pool
        # Dropout draws from the global generator; per epoch, so that a resumed trial draws alike.
        torch.manual_seed(seed_for(self.config.seed, "dropout", epoch, self.worker.rank))
        set_dropout(self.student, state.tuning.dropout)
        admitted = self._admitted(stage)
        order = self._order(admitted, epoch)
        view = epoch % teaching.num_views
        peak = recipe.optimizer.lr * state.tuning.lr_scale
        totals = torch.zeros(6, device=self.device)
        lr = peak
        self.model.train()
        for step in range(self.steps):
            with self.clock.phase("data"):
                first = step * self.batch_size + self.worker.rank
                rows = order[first : (step + 1) * self.batch_size : self.worker.world_size]
                inputs = pool.inputs(view, rows)
                targets = pool.examples.targets[rows]
                in_train = rows < pool.num_train
                taught = self._taught(bank, view, rows)
            with self.clock.phase("student"):
                if self._first_step_at is None:
                    self._first_step_at = time.time()
                progress = (epoch * self.steps + step) / (recipe.epochs * self.steps)
                lr = peak * lr_factor(recipe.optimizer, progress)
                set_hyperparameters(self.optimizer, lr=lr, weight_decay=state.tuning.weight_decay)
                logits = self.task.forward(self.model, inputs)[self.head]
                parts = self._loss(stage, logits, taught, targets, in_train)
                self.optimizer.zero_grad(set_to_none=True)
                parts[0].backward()  # type: ignore[no-untyped-call]
                if recipe.optimizer.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.student.parameters(), recipe.optimizer.clip_norm)
                self.optimizer.step()
                with torch.no_grad():
                    hits = ((logits.argmax(dim=1) == targets) & in_train).sum()
                    totals += torch.stack([*(p.detach() for p in parts), hits, in_train.sum()])
        sums = self.worker.mean(totals).tolist()
        if not math.isfinite(sums[0]):
            raise Diverged(f"the loss became {sums[0]} in epoch {epoch + 1} (lr {lr:.3g})")
        losses = {
            name: total / self.steps
            for name, total in zip(
                ("train_loss", "loss_kl", "loss_avg", "loss_init"), sums[:4], strict=True
            )
        }
        return {
            **losses,
            "train_accuracy": sums[4] / max(sums[5], 1),
            "lr": lr,
            "admitted": len(admitted) / len(pool) if bank else 1.0,
        }

    def _taught(self, bank: Bank | None, view: int, rows: Tensor) -> Tensor | None:
        if bank is None:
            return None
        views = torch.full((len(rows),), view, dtype=torch.long)
        return bank.rows(self.head, views, rows.cpu()).to(self.device)

    def _loss(
        self,
        stage: Stage,
        logits: Tensor,
        taught: Tensor | None,
        targets: Tensor,
        in_train: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The batch's loss and its three unweighted terms: KL, avg (transfer), init (train)."""
        weights = self.recipe.loss
        hard = hard_label_loss(logits, targets, self.state.tuning.label_smoothing)
        init = masked_mean(hard, in_train)
        nothing = torch.zeros_like(init)
        if stage.phase in (Phase.INIT, Phase.FINETUNE):
            return init, nothing, nothing, init
        avg = masked_mean(hard, ~in_train & (targets >= 0))
        if taught is None:
            # Every label counts alike: weights beside a searched learning rate would only mistune.
            return hard.mean(), nothing, avg, init
        if weights.standardize:
            student, teacher = standardized(logits), standardized(taught)
        else:
            student, teacher = logits, taught
        assert stage.temperature is not None
        kl = DIVERGENCES[weights.kl_form](student, teacher, stage.temperature).mean()
        return weights.kl * kl + weights.avg * avg + weights.init * init, kl, avg, init

    def _admitted(self, stage: Stage) -> Tensor:
        """Indices into the pool that this epoch may use."""
        teaching, curriculum = self.teaching, self.recipe.curriculum
        if stage.phase is Phase.LABELS:
            return torch.nonzero(teaching.pool.examples.targets.cpu() >= 0).flatten()
        if stage.phase is not Phase.STAGE:
            return torch.arange(teaching.pool.num_train)
        if curriculum.start >= 1:
            return torch.arange(len(teaching.pool))
        if self.state.scores is None:
            self.state.scores = self.worker.broadcast(self._scores())
        progress = progress_at(self.state.epoch - self.recipe.init_epochs, self.recipe.stage_epochs)
        seed = seed_for(self.config.seed, "curriculum")
        return admit(self.state.scores, curriculum, progress, seed)

    def _scores(self) -> Tensor:
        teaching, kind = self.teaching, self.recipe.curriculum.difficulty
        with self.clock.phase("teacher"):
            full = teaching.pool_bank(0)
        count = len(teaching.pool)
        teacher = full.rows(self.head, torch.zeros(count, dtype=torch.long), torch.arange(count))
        student = None
        if kind == "student_loss":
            student = outputs_of(self.task, self.student, teaching.pool.examples, self.device)[
                self.head
            ]
        return difficulty(
            kind,
            teacher_NC=teacher,
            student_NC=None if student is None else student.cpu(),
            targets_N=teaching.pool.examples.targets.cpu(),
        ).clone()

    def _order(self, admitted: Tensor, epoch: int) -> Tensor:
        """The epoch's examples, batch after batch: shuffled passes over what is admitted."""
        needed = self.steps * self.batch_size
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, "order", epoch))
        passes = [
            admitted[torch.randperm(len(admitted), generator=generator)]
            for _ in range(math.ceil(needed / len(admitted)))
        ]
        return torch.cat(passes)[:needed].to(self.device)

    def _evaluate(self) -> dict[str, float]:
        return evaluate(
            self.task, self.student, self.validation, self.teacher_validation, self.device
        )

    def _close_epoch(
        self, stage: Stage, trained: dict[str, float], metrics: dict[str, float], wall_s: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Advance the state by an epoch; its rows. Decides whether stage and trial end."""
        state = self.state
        state.epoch += 1
        state.accuracies.append(metrics["val_accuracy"])
        state.train_accuracy = trained["train_accuracy"]
        seconds = self.clock.take()
        for name, value in seconds.items():
            state.seconds[name] = state.seconds.get(name, 0.0) + value
            state.totals[name] = state.totals.get(name, 0.0) + value
        state.seconds["wall_s"] = state.seconds.get("wall_s", 0.0) + wall_s
        examples = self.steps * self.batch_size
        rate = examples / max(seconds["student_s"] + seconds["data_s"], 1e-9)
        tuning = state.tuning
        epoch_row = {
            "epoch": state.epoch,
            "stage": stage.index,
            "phase": stage.phase.value,
            "temperature": stage.temperature,
            "weight_decay": tuning.weight_decay,
            "label_smoothing": tuning.label_smoothing,
            "dropout": tuning.dropout,
            **trained,
            **metrics,
            **seconds,
            "images_per_s": rate,
            "wall_s": wall_s,
            "reported_at": time.time(),
        }
        rows: dict[str, list[dict[str, Any]]] = {"epochs": [epoch_row]}
        ended = self._ended(stage, metrics["val_accuracy"])
        if ended is not None:
            rows["stages"] = [self._close_stage(stage, ended, metrics, examples)]
        return rows

    def _ended(self, stage: Stage, accuracy: float) -> StageEnd | None:
        goals = [self.recipe.target]
        if self.recipe.target_of_teacher is not None:
            goals.append(self.recipe.target_of_teacher * self.teaching.ladder.rung(0).val_accuracy)
        if any(goal is not None and accuracy >= goal for goal in goals):
            return StageEnd.TARGET
        state = self.state
        later = state.plan[state.position + 1 :]
        is_last = not any(s.phase is Phase.STAGE for s in later)
        return stage_end(stage, state.accuracies, self.recipe.curriculum, is_last=is_last)

    def _close_stage(
        self, stage: Stage, ended: StageEnd, metrics: dict[str, float], examples: int
    ) -> dict[str, Any]:
        """The stage's row; moves the state to the next stage, adapted, or to the end."""
        state = self.state
        used = len(state.accuracies)
        accuracy = metrics["val_accuracy"]
        gain = accuracy - (state.entered_at if state.entered_at is not None else 0.0)
        tuning, said = state.tuning, "last stage"
        state.done = ended is StageEnd.TARGET or state.position + 1 == len(state.plan)
        if not state.done:
            tuning, said = adapt(
                state.tuning,
                initial_state(self.config).tuning,
                self.recipe.adapt,
                gain=gain,
                train_accuracy=state.train_accuracy,
                val_accuracy=accuracy,
            )
        training_s = max(state.seconds["student_s"] + state.seconds["data_s"], 1e-9)
        row = {
            "stage": stage.index,
            "phase": stage.phase.value,
            "teacher_rung": stage.rung,
            "first_epoch": state.epoch - used + 1,
            "last_epoch": state.epoch,
            "ended_by": ended.value,
            "temperature": stage.temperature,
            **metrics,
            "params": self.cost.params,
            "flops": self.cost.flops,
            "latency_ms": self.cost.latency_ms,
            "lr_scale": tuning.lr_scale,
            "weight_decay": tuning.weight_decay,
            "label_smoothing": tuning.label_smoothing,
            "dropout": tuning.dropout,
            "adaptation": said,
            "images_per_s": used * examples / training_s,
            **state.seconds,
        }
        if not state.done:
            state.plan = reassign(state.plan, state.position, used)
            state.position += 1
            state.tuning = tuning
            state.accuracies, state.seconds, state.entered_at = [], {}, accuracy
        return row

    def _new_teacher_rows(self) -> list[dict[str, Any]]:
        """Rows of the rungs that have taught in this trial and were not yet reported."""
        if self.recipe.method == "scratch":
            return []
        new = [r for r in self.teaching.ladder.built() if r.index not in self._known_rungs]
        self._known_rungs.update(r.index for r in new)
        return [r.row() for r in new]

    def _record(
        self,
        stage: Stage,
        metrics: Mapping[str, float],
        rows: dict[str, list[dict[str, Any]]],
    ) -> Report:
        """The epoch's report, added to the state."""
        state = self.state
        ended = bool(rows.get("stages"))
        flat: dict[str, Any] = {
            "epoch": state.epoch,
            "stage": stage.index,
            "phase": stage.phase.value,
            "stage_end": ended,
            "stages_done": sum("stages" in r["rows"] for r in state.reports) + ended,
            "done": state.done,
            **metrics,
        }
        if state.done:
            hit = rows["stages"][0]["ended_by"] == StageEnd.TARGET.value
            flat["decision"] = "target_reached" if hit else "completed"
        trial_row: dict[str, Any] = {
            "epochs_done": state.epoch,
            "stages_done": flat["stages_done"],
            **metrics,
            **state.totals,
            "images_per_s": rows["epochs"][0]["images_per_s"],
        }
        if not state.reports:
            trial_row.update(self.facts, first_step_at=self._first_step_at)
        for more in rows.pop("trials", []):
            trial_row.update(more)
        report = Report(flat, {**rows, "trials": [trial_row]})
        state.reports.append({"metrics": report.metrics, "rows": report.rows})
        return report

    def _checkpoint(self, *, force: bool) -> None:
        now = time.monotonic()
        if self.worker.rank or not (force or now - self._saved_at >= CHECKPOINT_EVERY_S):
            return
        self.state.model = self.student.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        self.save(self.state)
        self._saved_at = now
