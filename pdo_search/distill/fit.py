"""Training of a model on examples with a fixed loss: teachers, recovering levels, composites."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pdo_search.base.seeds import seed_for
from pdo_search.config.training import ExecutionConfig, OptimizerConfig
from pdo_search.distill.execution import USUAL
from pdo_search.distill.feed import Feed
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.distill.step import Updates
from pdo_search.tasks.base import IDS, Batch, Outputs, Task

__all__ = ["BatchLoss", "fit"]

BatchLoss = Callable[[Outputs, Batch, Tensor], Tensor]
"""Loss of a batch: outputs, the prepared batch with its labels, rows of the examples (B,)."""


def fit(
    task: Task,
    model: nn.Module,
    feed: Feed,
    loss_of: BatchLoss,
    config: OptimizerConfig,
    *,
    epochs: float,
    seed: int,
    execution: ExecutionConfig = USUAL,
    augments: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Train in place, and measure the statistics of norms in the end.

    Args:
        task: makes views and outputs.
        model: on the device of the examples; left in evaluation mode.
        feed: N examples.
        loss_of: the loss of a batch, a mean over it.
        config: optimizer and schedule.
        epochs: passes over the examples; may be a fraction.
        seed: of order and dropout.
        execution: precision. What is trained for a few epochs is not compiled.
        augments: whether every epoch sees another recorded view of every example, or the plain one.
        on_epoch: called with ``epoch``, ``train_loss`` and ``examples_per_s``.
    """
    examples = feed.examples
    device = examples.ids.device
    batch = min(config.batch_size, len(examples))
    steps = len(examples) // batch
    total = round(epochs * steps)
    plain = execution.model_copy(update={"compile": False})
    updates = Updates(task, model, config, plain)
    generator = torch.Generator().manual_seed(seed_for(seed, "fit"))
    torch.manual_seed(seed_for(seed, "fit", "dropout"))
    updates.through.train()
    for update in range(total):
        epoch, step = divmod(update, steps)
        if step == 0:
            started, losses = time.perf_counter(), torch.zeros((), device=device)
            order = torch.randperm(len(examples), generator=generator).to(device)
            batches = torch.split(order[: steps * batch], batch)
            loaded = feed.batches(batches)
        rows, raw = batches[step], next(loaded)
        labels = examples.labels(rows)
        drawn = task.draw(raw, labels[IDS], epoch) if augments else raw
        prepared = {**raw, **task.prepare(drawn), **labels}
        loss = partial(_alone, loss_of, prepared, rows)
        losses += updates(prepared, loss, progress=update / total).losses[0]
        if on_epoch is not None and step == steps - 1:
            # A GPU has done the epoch's work when its losses are known.
            train_loss = losses.item() / steps
            seconds = time.perf_counter() - started
            on_epoch(
                {
                    "epoch": epoch + 1,
                    "train_loss": train_loss,
                    "examples_per_s": steps * batch / seconds,
                }
            )
    refresh_statistics(model, Calibration(task, device))
    model.eval()


def _alone(loss_of: BatchLoss, batch: Batch, rows: Tensor, outputs: Outputs) -> tuple[Tensor]:
    return (loss_of(outputs, batch, rows),)
