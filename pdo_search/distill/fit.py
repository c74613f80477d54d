"""Supervised training of a model on the train split: teachers and recovering rungs alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pdo_search.config.schema import OptimizerConfig
from pdo_search.distill.feed import Feed
from pdo_search.distill.optim import clip_gradients, lr_factor, make_optimizer, set_hyperparameters
from pdo_search.distill.seeds import seed_for
from pdo_search.tasks.base import Task

__all__ = ["BatchLoss", "fit", "refresh_batch_norm"]

NORM_BATCH = 256

BatchLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss of a batch: student logits (N, C), prepared inputs (N, C, H, W), targets (N,)."""


def fit(
    task: Task,
    model: nn.Module,
    feed: Feed,
    loss_of: BatchLoss,
    config: OptimizerConfig,
    *,
    epochs: float,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Train in place. Every epoch sees another recorded view of every example.

    Args:
        task: makes views and outputs.
        model: on the device of the examples; left in evaluation mode.
        feed: N examples with labels.
        loss_of: the loss of a batch.
        config: optimizer and schedule.
        epochs: passes over the examples; may be a fraction.
        seed: of order and dropout.
        on_epoch: called with ``epoch``, ``train_loss`` and ``images_per_s``.
    """
    head, examples = task.heads[0].name, feed.examples
    batch = min(config.batch_size, len(examples))
    steps = len(examples) // batch
    total = round(epochs * steps)
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(seed_for(seed, "fit"))
    torch.manual_seed(seed_for(seed, "fit", "dropout"))
    device = examples.targets.device
    parameters = list(model.parameters())
    model.train()
    for update in range(total):
        epoch, step = divmod(update, steps)
        if step == 0:
            started, losses = time.perf_counter(), torch.zeros((), device=device)
            order = torch.randperm(len(examples), generator=generator).to(device)
            batches = torch.split(order[: steps * batch], batch)
            loaded = feed.batches(batches)
        picked = batches[step]
        inputs = task.view(next(loaded), examples.ids[picked], epoch)
        logits = task.forward(model, inputs)[head]
        loss = loss_of(logits, inputs, examples.targets[picked])
        set_hyperparameters(
            optimizer,
            lr=config.lr * lr_factor(config, update / total),
            weight_decay=config.weight_decay,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm is not None:
            clip_gradients(parameters, config.clip_norm)
        optimizer.step()
        losses += loss.detach()
        if on_epoch is not None and step == steps - 1:
            seconds = time.perf_counter() - started
            on_epoch(
                {
                    "epoch": epoch + 1,
                    "train_loss": losses.item() / steps,
                    "images_per_s": steps * batch / seconds,
                }
            )
    model.eval()


def refresh_batch_norm(model: nn.Module, inputs: Tensor) -> None:
    """Measure batch norms' statistics anew, as plain means over batches.

    Surgery makes the stored ones wrong, and a recovery of few steps does not bring their running
    means home (Wu and Johnson 2021, section 3, "PreciseBN").

    Args:
        model: changed in place; its mode is left as it was.
        inputs: (N, C, H, W) prepared, in no order of classes.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in torch.split(inputs, NORM_BATCH):
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
