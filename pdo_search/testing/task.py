"""The suite of ``tasks.base.Task``: what the loop, the bank and the tables rely on in every domain.

Legend: B examples in a batch, L positions (padded), K size of a head.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.base.errors import PdoError
from pdo_search.base.seeds import seed_for
from pdo_search.config.metrics import METRICS, score_of
from pdo_search.config.schema import AnyTaskConfig, TrialConfig
from pdo_search.distill.evaluate import metrics_of
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.build import build_for
from pdo_search.tasks import build_task
from pdo_search.tasks.base import (
    IDS,
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
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

__all__ = ["TaskContract"]

FEW = 24
"""Examples that most tests look at."""
MANY = 200
SURE = 30.0
"""A logit of certainty."""
FINGERPRINT = """
import sys
from pathlib import Path
from pdo_search.config import TrialConfig
from pdo_search.tasks import build_task
config = TrialConfig.model_validate_json(sys.argv[1])
print(build_task(config.task, Path(sys.argv[2])).fingerprint)
"""
DISTANCES = (HeadKind.CATEGORICAL, HeadKind.BERNOULLI, HeadKind.POINTER)
"""Kinds whose divergence is one of distributions."""


def _examples(task: Task) -> dict[Split, Examples]:
    searched = {s: task.examples(s) for s in Split if s is not Split.TEST}
    return {**searched, Split.TEST: task.test_examples()}


def _few(examples: Examples, count: int = FEW) -> Tensor:
    """Indices of some examples, from all over a split."""
    return torch.linspace(0, len(examples) - 1, min(count, len(examples))).long()


def _batch(task: Task, examples: Examples, index: Tensor) -> Batch:
    """Prepared examples and their labels."""
    return examples.batch(index) | task.prepare(examples.raw_inputs(index))


def _own(batch: Batch, row: int) -> dict[str, Tensor]:
    """What a batch holds of one example, without padding."""
    found = {}
    for name, values in batch.items():
        mask = batch.get(mask_of(name))
        found[name] = values[row] if mask is None else values[row][mask[row]]
    return {name: values for name, values in found.items() if not name.endswith(mask_of(""))}


def _assert_same(found: Batch, expected: Batch, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance, equal_nan=True
        )


def _outputs(task: Task, model: nn.Module, batch: Batch, seed: int = 0) -> Outputs:
    """Arbitrary outputs of the form that a model's have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        plain = task.forward(model.eval(), batch)
    return {
        name: torch.randn(found.shape, generator=generator).to(found.dtype) * 3
        for name, found in plain.items()
    }


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


class TaskContract:
    """Tests of a task.

    The fixture ``config``, of the scope of a class, gives a short trial of it whose student can
    learn something in its first epoch. ``other`` is a task of other data; a domain whose seed is
    not all of that, or whose targets are not those of its heads, overrides it and ``perfect``.
    """

    @pytest.fixture(scope="class")
    def base_dir(self) -> Path:
        """What paths and factories of ``config`` refer to."""
        return Path.cwd()

    @pytest.fixture(scope="class")
    def other(self, config: TrialConfig) -> AnyTaskConfig:
        """The same task on other data."""
        return config.task.model_copy(update={"seed": config.task.seed + 1})

    @pytest.fixture(scope="class")
    def task(self, config: TrialConfig, base_dir: Path) -> Task:
        """The task under test."""
        return build_task(config.task, base_dir)

    @pytest.fixture(scope="class")
    def model(self, config: TrialConfig, task: Task, base_dir: Path) -> nn.Module:
        """The trial's student, untrained."""
        seed = seed_for(config.seed, "student")
        return build_for(task, config.student, seed=seed, base_dir=base_dir)

    @pytest.fixture
    def batch(self, task: Task) -> Batch:
        """Some prepared examples of the train split, with labels."""
        examples = task.examples(Split.TRAIN)
        return _batch(task, examples, _few(examples))

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

    def test_heads_and_metrics_are_named_and_known(self, task: Task) -> None:
        """The first metric says what better is."""
        assert task.heads
        assert len({head.name for head in task.heads}) == len(task.heads)
        known = [METRICS[name.rpartition(".")[2]] for name in task.metrics]
        assert len(set(task.metrics)) == len(known)
        assert known[0].mode is not None

    def test_ids_are_unique_over_all_splits(self, task: Task) -> None:
        """And every example has one."""
        splits = _examples(task)
        ids = torch.cat([examples.ids for examples in splits.values()])
        assert len(ids.unique()) == len(ids) == sum(map(len, splits.values()))
        assert all(map(len, splits.values()))
        assert task.epoch_examples > 0

    def test_no_content_is_in_two_splits(self, task: Task) -> None:
        """Whatever the ids say."""
        seen: dict[bytes, Split] = {}
        for split, examples in _examples(task).items():
            for row in range(len(examples)):
                own = _own(examples.raw_inputs(torch.tensor([row])), 0)
                content = b"".join(own[name].numpy().tobytes() for name in sorted(own))
                assert seen.setdefault(content, split) is split

    def test_a_search_cannot_read_the_test_split(self, task: Task) -> None:
        """Only a confirmation can, by another name."""
        with pytest.raises(PdoError):
            task.examples(Split.TEST)

    def test_inputs_of_train_come_without_labels(self, task: Task) -> None:
        """They hold no example of validation or test."""
        assert not task.train_inputs.labelled.any()
        for examples in (task.examples(Split.VALIDATION), task.test_examples()):
            assert not torch.isin(task.train_inputs.ids, examples.ids).any()

    def test_a_batch_has_ids_labels_and_masks(self, task: Task, batch: Batch) -> None:
        """A mask is true from the first position to the example's last."""
        assert {len(values) for values in batch.values()} == {FEW}
        assert batch[IDS].dtype is torch.int64
        assert batch[LABELLED].dtype is torch.bool
        masks = {name for name in batch if name.endswith(mask_of(""))}
        masks |= {head.positions for head in task.heads if head.positions is not None}
        for name in masks:
            mask = batch[name]
            assert mask.dtype is torch.bool
            assert mask.dim() == 2
            assert mask.any(dim=1).all()
            assert torch.equal(mask, mask.cummin(dim=1).values.bool())

    @pytest.mark.parametrize("split", list(Split))
    def test_prepared_inputs_are_numbers_of_the_example_alone(
        self, task: Task, split: Split
    ) -> None:
        """Whatever else is in the batch; and what was prepared is as it was."""
        examples = _examples(task)[split]
        index = _few(examples)
        raw = examples.raw_inputs(index)
        before = {name: values.clone() for name, values in raw.items()}
        prepared = task.prepare(raw)
        _assert_same(raw, before)
        for row, place in enumerate(index):
            alone = task.prepare(examples.raw_inputs(place[None]))
            own = _own(prepared, row)
            _assert_same(own, _own(alone, 0), 1e-6)
            assert all(values.isfinite().all() for values in own.values())

    def test_an_exported_model_prepares_its_inputs_alike(self, task: Task) -> None:
        """``inputs`` is all that it knows of the task."""
        raw = task.examples(Split.VALIDATION).raw_inputs(slice(0, FEW))
        found, expected = task.inputs().prepared(dict(raw)), task.prepare(raw)
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)

    def test_a_view_is_a_function_of_seed_id_and_view(self, task: Task) -> None:
        """Not of the batch that it is drawn in, nor of what was drawn before."""
        examples = task.examples(Split.TRAIN)
        index = _few(examples)
        views = [task.draw(examples.raw_inputs(index), examples.ids[index], v) for v in (0, 1, 0)]
        differ = False
        for row, place in enumerate(index):
            one = place[None]
            alone = task.draw(examples.raw_inputs(one), examples.ids[one], 0)
            first, second, again = (_own(view, row) for view in views)
            _assert_same(first, _own(alone, 0))
            _assert_same(first, again)
            differ |= any(not torch.equal(first[name], second[name]) for name in first)
        assert differ or not task.varies

    def test_partners_are_drawn_for_each_example_alone(self, task: Task) -> None:
        """From those that there are; at a share of one the example stays what it is."""
        examples = task.examples(Split.TRAIN)
        index = _few(examples)
        ids, count = examples.ids[index], torch.full((len(index),), 5)
        found = task.partners(ids, 1, count)
        if found is None:
            return
        partners, shares = found
        assert ((partners >= 0) & (partners < count)).all()
        assert ((shares >= 0) & (shares <= 1)).all()
        for row in range(len(index)):
            alone = task.partners(ids[row : row + 1], 1, count[:1])
            assert alone is not None
            assert (alone[0][0], alone[1][0]) == (partners[row], shares[row])
        raw = task.draw(examples.raw_inputs(index), ids, 1)
        others = task.draw(examples.raw_inputs(index.flip(0)), ids.flip(0), 1)
        _assert_same(task.mix(raw, others, torch.ones(len(index))), raw)

    def test_a_model_answers_with_every_head(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """Outputs (B, K), or (B, L, K) of a head with positions."""
        outputs = task.forward(model, batch)
        assert set(outputs) == {head.name for head in task.heads}
        for head in task.heads:
            positions = () if head.positions is None else batch[head.positions].shape[1:]
            if head.kind is HeadKind.POINTER and head.positions is None:
                positions = outputs[head.name].shape[1:2]
            assert outputs[head.name].shape == (FEW, *positions, head.size)
            assert outputs[head.name].isfinite().all()

    def test_an_example_is_answered_alike_alone_and_among_longer_ones(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """A model does not look at the padding."""
        examples = task.examples(Split.TRAIN)
        model.eval()
        together = task.forward(model, batch)
        for row, place in enumerate(_few(examples)):
            alone = task.forward(model, _batch(task, examples, place[None]))
            for name, found in alone.items():
                expected = together[name][row]
                own = expected[: found.shape[1]] if expected.dim() > 1 else expected
                torch.testing.assert_close(found[0], own, rtol=1e-4, atol=1e-4)

    def test_the_example_is_one_that_models_take(self, task: Task, model: nn.Module) -> None:
        """It is prepared, and alone in its batch."""
        outputs = task.forward(model.eval(), task.example())
        assert {len(found) for found in outputs.values()} == {1}

    def test_a_label_loss_is_one_number_per_example_and_has_a_gradient(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """It is zero, and so is its gradient, where there is no label."""
        outputs = _outputs(task, model, batch)
        for smoothing in (0.0, 0.1):
            leaves = {name: found.clone().requires_grad_() for name, found in outputs.items()}
            losses = task.label_loss(leaves, batch, smoothing)
            assert set(losses) == set(leaves)
            torch.stack([loss.sum() for loss, _ in losses.values()]).sum().backward()
            for name, (loss, known) in losses.items():
                assert loss.shape == known.shape == (FEW,)
                assert known.dtype is torch.bool
                assert loss.isfinite().all()
                assert not loss[~known].any()
                gradient = leaves[name].grad
                assert gradient is not None
                assert gradient.isfinite().all()
                assert not gradient[~known].any()
        assert any(known.any() for _, known in losses.values())

    def test_without_labels_there_is_no_loss_and_no_quality(
        self, task: Task, model: nn.Module
    ) -> None:
        """A whole batch may be unlabelled, and a gradient through it is zero."""
        examples = task.examples(Split.TRAIN).unlabelled()
        batch = _batch(task, examples, _few(examples))
        leaves = {
            name: found.requires_grad_() for name, found in _outputs(task, model, batch).items()
        }
        for loss, known in task.label_loss(leaves, batch).values():
            assert not known.any()
            assert not loss.any()
            if loss.requires_grad:
                loss.sum().backward()
        assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves.values())
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
        outputs, taught = (_outputs(task, model, batch, seed) for seed in (0, 1))
        _assert_same(
            _judged(task, outputs, changed, taught), _judged(task, outputs, hidden, taught)
        )
        found = _measured(task, outputs, changed, taught)
        assert found == pytest.approx(_measured(task, outputs, hidden, taught), nan_ok=True)

    def test_padding_changes_nothing(self, task: Task, model: nn.Module, batch: Batch) -> None:
        """Neither outputs nor targets of positions that are none."""
        outputs, taught, noise = (_outputs(task, model, batch, seed) for seed in (0, 1, 2))
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
        _assert_same(found, _judged(task, outputs, batch, taught), 1e-5)
        measured = _measured(task, changed, filled, others)
        assert measured == pytest.approx(_measured(task, outputs, batch, taught), rel=1e-5)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_a_divergence_is_zero_for_the_same_and_has_a_gradient(
        self, task: Task, model: nn.Module, batch: Batch, temperature: float
    ) -> None:
        """It is one number per example, never negative, also of outputs that are certain."""
        outputs, taught = (_outputs(task, model, batch, seed) for seed in (0, 1))
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
        guessed = _outputs(task, model, batch)
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
        outputs = _outputs(task, model, batch)
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
        index = _few(examples, MANY)
        whole = self._metered(task, model, examples, [index], alone=False)
        assert set(whole) == set(task.metrics)
        for size in (1, 7):
            order = index.flip(0)
            found = self._metered(task, model, examples, list(order.split(size)), alone=False)
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
            batch = _batch(task, examples, index)
            with torch.no_grad():
                outputs = task.forward(model, batch)
            taught = {name: Taught(1.5 * found.flip(-1)) for name, found in outputs.items()}
            meter.update(outputs, batch, None if alone else taught)
        return meter.compute()

    def test_a_model_agrees_with_itself(self, task: Task, model: nn.Module, batch: Batch) -> None:
        """Agreement is 1 and the divergence 0."""
        outputs = _outputs(task, model, batch)
        found = _measured(task, outputs, batch, outputs)
        assert found["agreement"] == 1
        assert found["kl"] == pytest.approx(0, abs=1e-5)

    def test_a_fingerprint_is_of_the_data_and_of_nothing_else(
        self, config: TrialConfig, other: AnyTaskConfig, task: Task, base_dir: Path
    ) -> None:
        """Another process finds the same one; of other data it is another one."""
        assert build_task(other, base_dir).fingerprint != task.fingerprint
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT, config.model_dump_json(), str(base_dir)],
            capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == task.fingerprint

    def test_the_loop_trains_a_student_of_it(
        self, config: TrialConfig, task: Task, model: nn.Module, base_dir: Path, tmp_path: Path
    ) -> None:
        """After its first epoch the loss on validation is lower than before."""
        device = torch.device("cpu")
        before = metrics_of(task, model, task.examples(Split.VALIDATION), device)["loss"]
        worker = LocalWorker(stop_after=1)
        places = Places(str(tmp_path / "store"), str(tmp_path), str(base_dir), "t0000", 0)
        run_trial(config, worker, places=places)
        assert worker.reports[0].metrics["val_loss"] < before
