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
from pdo_search.config.model import ModelConfig
from pdo_search.config.training import OptimizerConfig
from pdo_search.distill.execution import USUAL, threads
from pdo_search.distill.losses import label_mean
from pdo_search.distill.step import Updates
from pdo_search.models.layout import placed
from pdo_search.tasks.base import Batch, Head, HeadKind, Outputs, Split, Task

__all__ = ["probe"]

EXAMPLES = 2
SURE = 1e-4


def probe(
    task: Task, model: nn.Module, config: ModelConfig, path: str, *, batch: int | None
) -> list[str]:
    """Run a model on two examples, one, and make an update; its weights are as before.

    Args:
        task: gives examples and labels.
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
                said += _trained(task, model, min(batch, EXAMPLES))
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
    batch = _batch(task, EXAMPLES)
    with torch.inference_mode():
        with _told("in evaluation mode", f"a batch of {EXAMPLES}"):
            outputs = _outputs(task, model, batch)
        # The last batch of a split has what is left over.
        with _told("in evaluation mode", "a batch of 1"):
            _outputs(task, model, {name: part[:1] for name, part in batch.items()})
    if not all(found.isfinite().all() for found in outputs.values()):
        raise _Refused(
            "its outputs are not finite numbers", "give weights and a normalization that make such"
        )
    if task.heads[0].kind is not HeadKind.CATEGORICAL:
        return []
    logits = outputs[task.heads[0].name].flatten(0, -2)
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
    count = max(batch, 1)
    shown = _batch(task, count)
    with _told("in training mode", f"a batch of {count}"):
        _outputs(task, model, shown)
    updates = Updates(task, model, OptimizerConfig(), USUAL)

    def loss_of(outputs: Outputs) -> tuple[Tensor]:
        if not any(found.requires_grad for found in outputs.values()):
            raise _Refused(
                "no parameter has an effect on its outputs that a gradient could follow",
                "leave out detach() and no_grad() on the way from its parameters to its outputs",
            )
        return (label_mean(task, outputs, shown),)

    with _told("in an update", f"a batch of {count}"):
        updates(shown, loss_of, progress=0.5)
    model.eval()
    with torch.inference_mode():
        batch_of_two = _batch(task, EXAMPLES)
        noisy = {
            name: torch.randn_like(part) if part.is_floating_point() else part
            for name, part in batch_of_two.items()
        }
        said = _outputs(task, model, noisy)
    if all(torch.equal(found[0], found[1]) for found in said.values()):
        return ["it gives the same outputs for all examples, even after an update"]
    return []


def _batch(task: Task, count: int) -> Batch:
    """The first train examples, prepared, with their labels; again from the first where they are
    too few."""
    examples = task.examples(Split.TRAIN)
    batch = examples.batch(torch.arange(count) % len(examples))
    return {**batch, **task.prepare(batch)}


def _outputs(task: Task, model: nn.Module, batch: Batch) -> Outputs:
    """A model's outputs by head.

    Raises:
        _Refused: they are something else.
    """
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    outputs = task.forward(model, batch)
    if (torch.get_default_dtype(), torch.is_grad_enabled()) != before:
        raise _Refused(
            "its forward changes torch's default type or whether gradients are recorded",
            "set them back where its forward ends",
        )
    for head in task.heads:
        _check_output(head, outputs.get(head.name), batch, model)
    return outputs


def _check_output(head: Head, found: object, batch: Batch, model: nn.Module) -> None:
    """Refuse what is no head's output.

    Raises:
        _Refused: it is something else.
    """
    mode = "training" if model.training else "evaluation"
    count = len(next(iter(batch.values())))
    if not isinstance(found, Tensor):
        raise _Refused(
            f"in {mode} mode it returns a {type(found).__name__}, not the logits alone",
            "switch auxiliary outputs off, such as `args: {aux_logits: false}`, or wrap it in an"
            " nn.Module whose forward returns the logits alone",
        )
    positions = () if head.positions is None else batch[head.positions].shape[1:]
    wanted = (count, *positions, head.size)
    if found.shape != wanted:
        raise _Refused(
            f"in {mode} mode it maps a batch of {count} to {tuple(found.shape)}, not to {wanted}",
            "keep the batch's dimension: squeeze and view by dimension, not all at once",
        )
    if not found.is_floating_point():
        raise _Refused(
            f"its outputs are of {found.dtype}, not logits", "return the logits, not the class"
        )


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
