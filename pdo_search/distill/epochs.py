"""Training by the epoch: which examples the student sees, what its teacher says, and the loss.

Owns an epoch's updates. Whether a stage ends after them, what adapts and what is kept is ``loop``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.base.errors import PdoError
from pdo_search.base.seeds import seed_for
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.curriculum import admit, progress_at
from pdo_search.distill.evaluate import usual_numbers
from pdo_search.distill.losses import IN_TRAIN, head_weights, terms
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.distill.order import epoch_batches
from pdo_search.distill.protocol import Worker
from pdo_search.distill.stage import Phase, Stage
from pdo_search.distill.state import TrialState
from pdo_search.distill.step import Updates
from pdo_search.distill.teaching import Teaching
from pdo_search.distill.timing import PhaseClock
from pdo_search.models.build import set_dropout
from pdo_search.records import Trained
from pdo_search.store.bank import Bank
from pdo_search.tasks.base import Batch, Outputs

__all__ = ["Diverged", "Epochs"]

NUM_LOSSES = 4
"""The whole, and its divergence, avg and init terms."""


class Diverged(PdoError):
    """The student's loss became infinite or not a number."""


class Epochs:
    """The epochs of one trial's training.

    Args:
        config: the trial.
        teaching: its task, pool and teacher outputs.
        student: on the worker's device; trained in place, from the state's weights if it has some.
        worker: the process that runs it.
        state: how far training has come; learned weights and scores are put there.
        clock: counts where the time goes.

    Attributes:
        updates: of the student, with their optimizer.
        calibration: by which the student's statistics are measured.
        steps: updates of an epoch.
        batch_size: examples per update, over all workers.
        first_step_at: when the first update began, in seconds since 1970; None before.
    """

    def __init__(
        self,
        config: TrialConfig,
        teaching: Teaching,
        student: nn.Module,
        worker: Worker,
        state: TrialState,
        clock: PhaseClock,
    ) -> None:
        self.config = config
        self.recipe = config.recipe
        self.task = task = teaching.task
        self.teaching = teaching
        self.student = student
        self.worker = worker
        self.device = worker.device
        self.state = state
        self.clock = clock
        if state.epoch:
            student.load_state_dict(state.model)
        self.updates = Updates(
            task, student, self.recipe.optimizer, config.execution, worker.wrap_model
        )
        if state.epoch:
            self.updates.optimizer.load_state_dict(state.optimizer)
        self.calibration = Calibration(task, self.device)
        batch = min(self.recipe.optimizer.batch_size, task.epoch_examples)
        self.batch_size = batch - batch % worker.world_size or worker.world_size
        self.steps = max(1, task.epoch_examples // self.batch_size)
        lengths = teaching.pool.examples.lengths()
        self.lengths = None if lengths is None else lengths.cpu()
        self.first_step_at: float | None = None

    def train(self, stage: Stage) -> Trained:
        """Train on an epoch's number of examples; losses and quality of the epoch.

        Raises:
            Diverged: the loss became infinite or not a number.
            Infeasible: a teacher could not be simplified as the recipe wants.
        """
        bank = self._open_bank(stage)
        state, recipe, epoch = self.state, self.recipe, self.state.epoch
        # Dropout draws from the global generator; per epoch, so that a resumed trial draws alike.
        torch.manual_seed(seed_for(self.config.seed, "dropout", epoch, self.worker.rank))
        set_dropout(self.updates.through, state.tuning.dropout)
        admitted = self._admitted(stage)
        batches = self._batches(admitted, epoch)
        totals = torch.zeros(NUM_LOSSES + len(self.task.heads) + 2, device=self.device)
        self.updates.through.train()
        for step in range(self.steps):
            with self.clock.phase("data"):
                rows, batch = next(batches)
            taught = self._taught(stage, bank, rows, batch)
            with self.clock.phase("student"):
                if self.first_step_at is None:
                    self.first_step_at = time.time()
                made = self.updates(
                    batch,
                    partial(self._loss, stage, batch, taught),
                    progress=(epoch * self.steps + step) / (recipe.epochs * self.steps),
                    lr_scale=state.tuning.lr_scale,
                    weight_decay=state.tuning.weight_decay,
                )
                quality = self.task.quality(made.outputs, batch)
                counted = batch[IN_TRAIN] & ~quality.isnan()
                right = torch.where(counted, quality, 0).sum()
                *losses, by_head = made.losses
                totals += torch.cat([torch.stack([*losses, right, counted.sum()]), by_head])
        with self.clock.phase("student"):
            # Here a GPU has done what was launched above: the epoch's only wait for it.
            sums = self.worker.mean(totals).tolist()
        if not math.isfinite(sums[0]):
            raise Diverged(f"the loss became {sums[0]} in epoch {epoch + 1} (lr {made.lr:.3g})")
        right_sum, counted_sum, *by_head_sums = sums[NUM_LOSSES:]
        names = [head.name for head in self.task.heads]
        if recipe.loss.heads == "learned":
            state.head_weights = head_weights(
                {n: total / self.steps for n, total in zip(names, by_head_sums, strict=True)}
            )
        loss, kl, avg, init = (total / self.steps for total in sums[:NUM_LOSSES])
        return Trained(
            lr=made.lr,
            admitted=len(admitted) / len(self.teaching.pool) if stage.level is not None else 1.0,
            train_loss=loss,
            loss_kl=kl,
            loss_avg=avg,
            loss_init=init,
            train_quality=right_sum / max(counted_sum, 1),
        )

    def _open_bank(self, stage: Stage) -> Bank | None:
        """The stage's teacher outputs, where they are stored; the first time, this builds level and
        bank."""
        if stage.level is None or self.recipe.teacher_outputs == "online":
            return None
        with self.clock.phase("teacher"):
            return self.teaching.pool_bank(stage.level, self._view)

    @property
    def _view(self) -> int:
        """The recorded view that the current epoch sees."""
        return self.state.epoch % self.teaching.num_views

    def _batches(self, admitted: Tensor, epoch: int) -> Iterator[tuple[Tensor, Batch]]:
        """The epoch's batches, this rank's share of each: rows of the pool, and what they hold."""
        rank, world_size = self.worker.rank, self.worker.world_size
        whole = epoch_batches(
            admitted,
            self.steps,
            self.batch_size,
            lengths=self.lengths,
            seed=self.config.seed,
            epoch=epoch,
        )
        shares = [rows[rank::world_size].to(self.device) for rows in whole]
        return zip(shares, self.teaching.pool.batches(self._view, shares), strict=True)

    def _taught(
        self, stage: Stage, bank: Bank | None, rows: Tensor, batch: Batch
    ) -> dict[str, Taught] | None:
        """What the stage's teacher says about a batch: stored, or run now."""
        if stage.level is None:
            return None
        if bank is not None:
            assert stage.temperature is not None
            with self.clock.phase("data"):
                return self.teaching.taught(bank, rows, batch, stage.temperature)
        with self.clock.phase("teacher"), torch.no_grad():
            said = self.task.forward(self.teaching.ladder.model(stage.level), batch)
            return {head: Taught(found) for head, found in usual_numbers(said).items()}

    def _loss(
        self,
        stage: Stage,
        batch: Batch,
        taught: dict[str, Taught] | None,
        outputs: Outputs,
    ) -> tuple[Tensor, ...]:
        """The batch's loss and its three unweighted terms, KL, avg (transfer), init (train); and
        each head's loss.

        All are means over the batch, in which an example without the label in question counts 0.
        """
        config = self.recipe.loss
        found = terms(
            self.task,
            config,
            outputs,
            batch,
            taught=taught,
            temperature=stage.temperature or 1.0,
            smoothing=self.state.tuning.label_smoothing,
            weights=self.state.head_weights or (config.heads if config.heads != "learned" else {}),
        )
        kl, avg, init = found.kl, found.avg, found.init
        nothing = torch.zeros_like(init)
        if stage.phase in (Phase.INIT, Phase.FINETUNE):
            return init, nothing, nothing, init, found.by_head
        if taught is None:
            # Every label counts alike: weights beside a searched learning rate would only mistune.
            return init + avg, nothing, avg, init, found.by_head
        total = config.kl * kl + config.avg * avg + config.init * init
        return total, kl, avg, init, found.by_head

    def _admitted(self, stage: Stage) -> Tensor:
        """Indices into the pool that this epoch may use."""
        pool, curriculum = self.teaching.pool, self.recipe.curriculum
        if stage.phase is Phase.LABELS:
            return torch.nonzero(pool.examples.labelled.cpu()).flatten()
        if stage.phase is not Phase.STAGE:
            return torch.arange(pool.num_train)
        if curriculum.start >= 1:
            return torch.arange(len(pool))
        if self.state.scores is None:
            self.state.scores = self.worker.broadcast(self._scores())
        progress = progress_at(self.state.epoch - self.recipe.init_epochs, self.recipe.stage_epochs)
        seed = seed_for(self.config.seed, "curriculum")
        return admit(self.state.scores, curriculum, progress, seed)

    def _scores(self) -> Tensor:
        kind = self.recipe.curriculum.difficulty
        if kind != "student_loss":
            with self.clock.phase("teacher"):
                return self.teaching.difficulty(kind)
        refresh_statistics(self.student, self.calibration)
        return self.teaching.difficulty(kind, self.student)
