"""The suite of what a task says of outputs: losses, divergences, answers, metrics.

Legend: B examples in a batch, L positions (padded), K size of a head.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.config.metrics import METRICS, score_of
from pdo_search.tasks.base import (
    LABELLED,
    Batch,
    Examples,
    Head,
    HeadKind,
    Meter,
    Outputs,
    Split,
    Task,
    mask_of,
    target_of,
)
from pdo_search.testing.batches import FEW, assert_same, batch_of, few, outputs_like

__all__ = ["OutputsContract"]

MANY = 200
SURE = 30.0
"""A logit of certainty."""
DISTANCES = (HeadKind.CATEGORICAL, HeadKind.BERNOULLI, HeadKind.POINTER)
"""Kinds whose divergence is one of distributions."""


def _judged(task: Task, outputs: Outputs, batch: Batch, taught: Outputs) -> dict[str, Tensor]:
    """All that a task says of outputs, one number per example each."""
    losses = task.label_loss(outputs, batch)
    said = {f"loss {name}": loss for name, (loss, _) in losses.items()}
    said |= {f"known {name}": known for name, (_, known) in losses.items()}
    for head in task.heads:
        said[f"divergence {head.name}"] = task.divergence(
            head, outputs[head.name], Taught(taught[head.name]), batch, 2.0
        )
    said["quality"] = task.quality(outputs, batch)
    said["confidence"] = task.confidence(outputs, batch)
    return said


def _measured(task: Task, outputs: Outputs, batch: Batch, taught: Outputs) -> dict[str, float]:
    meter = task.meter()
    meter.update(outputs, batch, {name: Taught(values) for name, values in taught.items()})
    return meter.compute()


class OutputsContract:
    """Tests of losses and metrics; part of ``TaskContract``, which has the fixtures."""

    def perfect(self, head: Head, batch: Batch, like: Tensor) -> Tensor:
        """Outputs of the shape of ``like`` that say what the targets say, and are sure of it."""
        target = batch[target_of(head.name)]
        if head.kind is HeadKind.REGRESSION:
            return target.nan_to_num().to(like.dtype)
        if head.kind is HeadKind.BERNOULLI:
            return (target.to(like.dtype) * 2 - 1) * SURE
        answer = target.clamp(min=0)
        if head.kind is HeadKind.POINTER:
            return torch.zeros_like(like).scatter(1, answer[:, None], SURE)
        return torch.zeros_like(like).scatter(-1, answer[..., None], SURE)

    def test_a_label_loss_is_one_number_per_example_and_has_a_gradient(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """It is zero, and so is its gradient, where there is no label."""
        outputs = outputs_like(task, model, batch)
        for smoothing in (0.0, 0.1):
            leaves = {name: found.clone().requires_grad_() for name, found in outputs.items()}
            losses = task.label_loss(leaves, batch, smoothing)
            assert set(losses) == set(leaves)
            total = torch.stack([loss for loss, _ in losses.values()]).sum()
            gradients = dict(
                zip(leaves, torch.autograd.grad(total, [*leaves.values()]), strict=True)
            )
            for name, (loss, known) in losses.items():
                assert loss.shape == known.shape == (FEW,)
                assert known.dtype is torch.bool
                assert loss.isfinite().all()
                assert not loss[~known].any()
                assert gradients[name].isfinite().all()
                assert not gradients[name][~known].any()
        assert any(known.any() for _, known in losses.values())

    def test_without_labels_there_is_no_loss_and_no_quality(
        self, task: Task, model: nn.Module
    ) -> None:
        """A whole batch may be unlabelled, and a gradient through it is zero."""
        examples = task.examples(Split.TRAIN).unlabelled()
        batch = batch_of(task, examples, few(examples))
        leaves = {
            name: found.requires_grad_() for name, found in outputs_like(task, model, batch).items()
        }
        for loss, known in task.label_loss(leaves, batch).values():
            assert not known.any()
            assert not loss.any()
            if loss.requires_grad:
                found = torch.autograd.grad(loss.sum(), [*leaves.values()], allow_unused=True)
                assert not any(gradient is not None and gradient.any() for gradient in found)
        assert task.quality(leaves, batch).isnan().all()

    def test_hidden_labels_cannot_leak(self, task: Task, model: nn.Module, batch: Batch) -> None:
        """Neither into what is trained by, nor into what is measured."""
        shown = torch.arange(FEW) % 2 == 0
        hidden = {**batch, LABELLED: batch[LABELLED] & shown}
        assert hidden[LABELLED].any()
        changed = dict(hidden)
        for name, values in batch.items():
            if name.startswith(target_of("")) and not name.endswith(mask_of("")):
                rows = shown.view(-1, *[1] * (values.dim() - 1))
                changed[name] = torch.where(rows, values, torch.zeros_like(values))
        outputs, taught = (outputs_like(task, model, batch, seed) for seed in (0, 1))
        assert_same(_judged(task, outputs, changed, taught), _judged(task, outputs, hidden, taught))
        found = _measured(task, outputs, changed, taught)
        assert found == pytest.approx(_measured(task, outputs, hidden, taught), nan_ok=True)

    def test_padding_changes_nothing(self, task: Task, model: nn.Module, batch: Batch) -> None:
        """Neither outputs nor targets of positions that are none."""
        outputs, taught, noise = (outputs_like(task, model, batch, seed) for seed in (0, 1, 2))
        padded = {head.name: head.positions for head in task.heads if head.positions is not None}
        changed, others, filled = dict(outputs), dict(taught), dict(batch)
        for name, positions in padded.items():
            mask = batch[positions][..., None]
            changed[name] = torch.where(mask, outputs[name], 50 * noise[name])
            others[name] = torch.where(mask, taught[name], -50 * noise[name])
        for name, values in batch.items():
            own = batch.get(mask_of(name))
            if name.startswith(target_of("")) and own is not None:
                own = own.view(*own.shape, *[1] * (values.dim() - 2))
                filled[name] = torch.where(own, values, torch.zeros_like(values))
        found = _judged(task, changed, filled, others)
        assert_same(found, _judged(task, outputs, batch, taught), 1e-5)
        measured = _measured(task, changed, filled, others)
        assert measured == pytest.approx(_measured(task, outputs, batch, taught), rel=1e-5)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_a_divergence_is_zero_for_the_same_and_has_a_gradient(
        self, task: Task, model: nn.Module, batch: Batch, temperature: float
    ) -> None:
        """It is one number per example, never negative, also of outputs that are certain."""
        outputs, taught = (outputs_like(task, model, batch, seed) for seed in (0, 1))
        for head in task.heads:
            for scale in (1.0, SURE):
                student = (scale * outputs[head.name]).requires_grad_()
                teacher = scale * taught[head.name]
                apart, none = (
                    task.divergence(head, student, Taught(said), batch, temperature)
                    for said in (teacher, student.detach())
                )
                assert apart.shape == none.shape == (FEW,)
                assert apart.isfinite().all()
                assert apart.mean() > 0
                assert none.abs().max() < 1e-3 * max(1.0, apart.max().item())
                if head.kind in DISTANCES:
                    assert apart.min() > -1e-4
                (gradient,) = torch.autograd.grad(apart.sum(), student)
                assert gradient.isfinite().all()

    def test_who_says_what_the_targets_say_is_right(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """Its quality is 1, its loss the lowest, and it is surer than one that guesses."""
        guessed = outputs_like(task, model, batch)
        right = {h.name: self.perfect(h, batch, guessed[h.name]) for h in task.heads}
        quality = task.quality(right, batch)
        assert torch.equal(quality[~quality.isnan()], torch.ones_like(quality[~quality.isnan()]))
        assert not quality.isnan().all()
        others = task.label_loss(guessed, batch)
        for name, (loss, known) in task.label_loss(right, batch).items():
            assert (loss <= others[name][0] + 1e-6).all()
            assert loss[known].mean() < others[name][0][known].mean()
        assert (task.confidence(right, batch) >= task.confidence(guessed, batch)).all()
        primary = task.metrics[0]
        best, usual = (_measured(task, found, batch, guessed) for found in (right, guessed))
        assert score_of(primary, best[primary]) > score_of(primary, usual[primary])

    def test_quality_and_confidence_are_shares(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """Quality is not a number where no head has a label, and nowhere else."""
        outputs = outputs_like(task, model, batch)
        quality, confidence = task.quality(outputs, batch), task.confidence(outputs, batch)
        assert quality.shape == confidence.shape == (FEW,)
        known = torch.stack([k for _, k in task.label_loss(outputs, batch).values()]).any(dim=0)
        assert torch.equal(quality.isnan(), ~known)
        for values in (quality[known], confidence):
            assert ((values >= 0) & (values <= 1)).all()

    def test_a_meter_gives_what_was_declared_whatever_the_batches(
        self, task: Task, model: nn.Module
    ) -> None:
        """Without a teacher all but how far the model is from it."""
        examples = task.examples(Split.VALIDATION)
        index = few(examples, MANY)
        whole = self._metered(task, model, examples, [index], alone=False)
        assert set(whole) == set(task.metrics)
        for size in (1, 7):
            order = index.flip(0)
            found = self._metered(
                task, model, examples, list(torch.split(order, size)), alone=False
            )
            assert found == pytest.approx(whole, rel=1e-6, abs=1e-6, nan_ok=True)
        alone = self._metered(task, model, examples, [index], alone=True)
        ofteacher = ("agreement", "kl")
        assert set(alone) == {n for n in task.metrics if n.rpartition(".")[2] not in ofteacher}
        for name, value in whole.items():
            metric = METRICS[name.rpartition(".")[2]]
            assert not metric.is_share or 0 <= value <= 1, name

    @staticmethod
    def _metered(
        task: Task, model: nn.Module, examples: Examples, batches: list[Tensor], *, alone: bool
    ) -> dict[str, float]:
        """Metrics of an untrained model, beside a teacher that differs from it a little."""
        meter: Meter = task.meter()
        model.eval()
        for index in batches:
            batch = batch_of(task, examples, index)
            with torch.no_grad():
                outputs = task.forward(model, batch)
            taught = {name: Taught(1.5 * found.flip(-1)) for name, found in outputs.items()}
            meter.update(outputs, batch, None if alone else taught)
        return meter.compute()

    def test_a_model_agrees_with_itself(self, task: Task, model: nn.Module, batch: Batch) -> None:
        """Agreement is 1 and the divergence 0."""
        outputs = outputs_like(task, model, batch)
        found = _measured(task, outputs, batch, outputs)
        assert found["agreement"] == 1
        assert found["kl"] == pytest.approx(0, abs=1e-5)
