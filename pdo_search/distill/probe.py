"""What can be known of a model before anything is trained: it is run once, as a sweep will run it.

Whether it can be pruned and stored is tried in ``rehearsal``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.schema import ModelConfig, OptimizerConfig
from pdo_search.distill.execution import USUAL, threads
from pdo_search.distill.losses import hard_label_loss
from pdo_search.distill.step import Updates
from pdo_search.models.layout import placed
from pdo_search.tasks.base import Split, Task

__all__ = ["probe"]

PICTURES = 2
SURE = 1e-4


def probe(
    task: Task, model: nn.Module, config: ModelConfig, path: str, *, batch: int | None
) -> list[str]:
    """Run a model on two pictures, one, and make an update; its weights are as before.

    Args:
        task: gives pictures and labels.
        model: on the CPU; placed there, its mode is left as it was.
        config: how it was built.
        path: where it stands in the experiment, for messages.
        batch: fewest examples of an update; None of a model that nothing trains.

    Returns:
        Lines about what may not be meant.

    Raises:
        InputError: it cannot be run or trained.
    """
    was_training, kept = model.training, copy.deepcopy(model.state_dict())
    placed(model, torch.device("cpu"))
    said: list[str] = []
    try:
        with _surroundings(), threads(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            said += _evaluated(task, model)
            if batch is not None:
                said += _trained(task, model, min(batch, PICTURES))
    except _Refused as error:
        raise InputError(
            str(error), path=f"{path}.arch", value=config.arch, remedy=error.remedy
        ) from None
    finally:
        model.load_state_dict(kept)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return [f"Warning: {path}: {line}" for line in said]


class _Refused(Exception):
    """The model is not fit for use.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def _evaluated(task: Task, model: nn.Module) -> list[str]:
    """Lines about a model's outputs in evaluation mode."""
    model.eval()
    examples = task.examples(Split.TRAIN)
    inputs = task.prepare(examples.inputs(torch.arange(PICTURES) % len(examples)))
    with torch.inference_mode():
        with _told("in evaluation mode", f"a batch of {PICTURES}"):
            logits = _logits(task, model, inputs)
        # The last batch of a split has what is left over.
        with _told("in evaluation mode", "a batch of 1"):
            _logits(task, model, inputs[:1])
    if not logits.isfinite().all():
        raise _Refused(
            "its outputs are not finite numbers", "give weights and a normalization that make such"
        )
    if (logits >= 0).all() and bool(((logits.sum(dim=1) - 1).abs() < SURE).all()):
        return [
            "its outputs are probabilities, and a temperature or a loss needs logits; leave out the"
            " softmax at its end"
        ]
    if bool((logits.logsumexp(dim=1).abs() < SURE).all()):
        return ["its outputs are log-probabilities; they serve as logits, but for loss.standardize"]
    return []


def _trained(task: Task, model: nn.Module, batch: int) -> list[str]:
    """Lines about a model after an update; it is changed."""
    if not any(p.requires_grad for p in model.parameters()):
        raise _Refused(
            "it has nothing to train: no parameter wants a gradient",
            "leave some parameters with requires_grad",
        )
    model.train()
    examples = task.examples(Split.TRAIN)
    rows = torch.arange(max(batch, 1)) % len(examples)
    inputs = task.prepare(examples.inputs(rows))
    targets = torch.arange(len(rows)) % task.heads[0].size
    with _told("in training mode", f"a batch of {len(rows)}"):
        _logits(task, model, inputs)
    updates = Updates(task, model, OptimizerConfig(), USUAL)

    def loss_of(logits: Tensor) -> tuple[Tensor]:
        if not logits.requires_grad:
            raise _Refused(
                "no parameter has an effect on its outputs that a gradient could follow",
                "leave out detach() and no_grad() on the way from its parameters to its outputs",
            )
        return (hard_label_loss(logits, targets).mean(),)

    with _told("in an update", f"a batch of {len(rows)}"):
        updates(inputs, loss_of, progress=0.5)
    model.eval()
    with torch.inference_mode():
        noise = torch.randn(PICTURES, *task.input_shape)
        one, other = _logits(task, model, noise)
    if torch.equal(one, other):
        return ["it gives the same outputs for all pictures, even after an update"]
    return []


def _logits(task: Task, model: nn.Module, inputs: Tensor) -> Tensor:
    """A model's outputs (N, C).

    Raises:
        _Refused: they are something else.
    """
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    head = task.heads[0]
    found = task.forward(model, inputs)[head.name]
    if (torch.get_default_dtype(), torch.is_grad_enabled()) != before:
        raise _Refused(
            "its forward changes torch's default type or whether gradients are recorded",
            "set them back where its forward ends",
        )
    mode = "training" if model.training else "evaluation"
    if not isinstance(found, Tensor):
        raise _Refused(
            f"in {mode} mode it returns a {type(found).__name__}, not the logits alone",
            "switch auxiliary outputs off, such as `args: {aux_logits: false}`, or wrap it in an"
            " nn.Module whose forward returns the logits alone",
        )
    if found.shape != (len(inputs), head.size):
        raise _Refused(
            f"in {mode} mode it maps a batch of {len(inputs)} to {tuple(found.shape)}, not to"
            f" {(len(inputs), head.size)}",
            "keep the batch's dimension: squeeze and view by dimension, not all at once",
        )
    if not found.is_floating_point():
        raise _Refused(
            f"its outputs are of {found.dtype}, not logits", "return the logits, not the class"
        )
    return found


@contextmanager
def _told(where: str, what: str) -> Iterator[None]:
    """Turn an error of a model's own code into a refusal.

    Raises:
        _Refused: there is one.
    """
    try:
        yield
    except _Refused:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        remedy = "mend its code; it must take batches of any size, in both modes"
        if "more than 1 value per channel" in first:
            remedy = "give batch_size two examples for each worker: batch norm needs them"
        raise _Refused(
            f"{where} it fails on {what}: {type(error).__name__}: {first}", remedy
        ) from error


@contextmanager
def _surroundings() -> Iterator[None]:
    """Set back what a model's code may set for the whole process."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
