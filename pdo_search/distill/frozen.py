"""Heads fitted on the states of a body that stays as it is: every example is encoded once.

Legend: N examples, D width of the states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.config.training import ExecutionConfig, TrainConfig
from pdo_search.distill.evaluate import by_length, evaluation_batches
from pdo_search.distill.feed import Feed
from pdo_search.distill.fit import fit
from pdo_search.distill.losses import label_mean
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.tasks.base import Batch, Examples, Outputs, Task

__all__ = ["fit_heads", "refuse_frozen"]

STATES = "states"


def refuse_frozen(task: Task, model: nn.Module, path: str) -> None:
    """Refuse a model whose body cannot be frozen.

    Raises:
        InputError: it is not made of a body and heads of whole examples, or no two epochs show the
            same examples.
    """
    if task.varies or not isinstance(model, BodyAndHeads):
        problem = "the task augments its examples" if task.varies else "it is of one piece"
    elif any(head.positions is not None or head.tied is not None for head in task.heads):
        problem = "its heads read every position"
    else:
        return
    raise InputError(
        f"the teacher's body cannot be encoded once: {problem}",
        path=f"{path}.train.freeze",
        value="body",
        remedy="leave freeze out: the whole teacher is then trained, for which smaller learning"
        " rates serve",
    )


def fit_heads(
    task: Task,
    model: nn.Module,
    examples: Examples,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    execution: ExecutionConfig,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Train a model's heads in place, in the time of one pass through its body.

    Args:
        task: makes inputs and losses.
        model: of a body and heads, on ``device``; left in evaluation mode.
        examples: with labels.
        config: optimizer and number of passes.
        seed: of the order.
        device: where to train.
        execution: precision.
        on_epoch: called after each pass over the states.

    Raises:
        InputError: see ``refuse_frozen``.
    """
    refuse_frozen(task, model, "teacher")
    assert isinstance(model, BodyAndHeads)
    model.eval()
    encoded = _encoded(task, model, examples, device)
    heads = _Heads(model)
    view = cast(Task, _OfStates(task))

    def loss_of(outputs: Outputs, batch: Batch, rows: Tensor) -> Tensor:
        return label_mean(task, outputs, batch, config.label_smoothing)

    fit(
        view,
        heads,
        Feed(encoded, device),
        loss_of,
        config,
        epochs=config.epochs,
        seed=seed,
        execution=execution,
        on_epoch=on_epoch,
    )
    model.eval()


@torch.no_grad()
def _encoded(task: Task, model: BodyAndHeads, examples: Examples, device: torch.device) -> Examples:
    """The examples with the body's states (N, D) as their one input; those of like length are
    encoded together."""
    order = by_length(examples, torch.arange(len(examples)))
    states = torch.empty(len(examples), model.body.width, device=device)
    for rows in evaluation_batches(task, examples, device, order):
        raw = {name: part.to(device) for name, part in examples.raw_inputs(rows).items()}
        states[rows.to(device)] = model.pooled({**raw, **task.prepare(raw)})[1]
    rows = torch.arange(len(examples)) if examples.rows is None else examples.rows
    targets = {name: column.select(rows) for name, column in examples.targets.items()}
    return Examples({STATES: Column(states)}, targets, None, examples.ids, examples.labelled)


class _Heads(nn.Module):
    """The heads of a model, which they share with it, as a model of states."""

    def __init__(self, model: BodyAndHeads) -> None:
        super().__init__()
        self.out = model.out
        self._names = [head.name for head in model.heads]

    def forward(self, batch: Batch) -> Outputs:
        return {n: layer(batch[STATES]) for n, layer in zip(self._names, self.out, strict=True)}


class _OfStates:
    """A task whose inputs are states, which need no preparation."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def draw(self, raw: Batch, ids: Tensor, view: int) -> Batch:
        return raw

    def prepare(self, raw: Batch) -> Batch:
        return raw

    def forward(self, model: nn.Module, prepared: Batch) -> Outputs:
        outputs: Outputs = model(prepared)
        return outputs
