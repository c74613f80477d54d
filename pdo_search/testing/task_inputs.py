"""The suite of a task's examples: splits, batches, views."""

from __future__ import annotations

import pytest
import torch

from pdo_search.base.errors import PdoError
from pdo_search.tasks.base import IDS, LABELLED, Batch, Split, Task, mask_of
from pdo_search.testing.batches import FEW, assert_same, few, own_of, splits_of

__all__ = ["InputsContract"]


class InputsContract:
    """Tests of a task's examples; part of ``TaskContract``, which has the fixtures."""

    def test_ids_are_unique_over_all_splits(self, task: Task) -> None:
        """And every example has one."""
        splits = splits_of(task)
        ids = torch.cat([examples.ids for examples in splits.values()])
        assert len(torch.unique(ids)) == len(ids) == sum(map(len, splits.values()))
        assert all(map(len, splits.values()))
        assert task.epoch_examples > 0

    def test_no_content_is_in_two_splits(self, task: Task) -> None:
        """Whatever the ids say."""
        seen: dict[bytes, Split] = {}
        for split, examples in splits_of(task).items():
            for row in range(len(examples)):
                own = own_of(examples.raw_inputs(torch.tensor([row])), 0)
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
        examples = splits_of(task)[split]
        index = few(examples)
        raw = examples.raw_inputs(index)
        before = {name: values.clone() for name, values in raw.items()}
        prepared = task.prepare(raw)
        assert_same(raw, before)
        for row, place in enumerate(index):
            alone = task.prepare(examples.raw_inputs(place[None]))
            own = own_of(prepared, row)
            assert_same(own, own_of(alone, 0), 1e-6)
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
        index = few(examples)
        views = [task.draw(examples.raw_inputs(index), examples.ids[index], v) for v in (0, 1, 0)]
        differ = False
        for row, place in enumerate(index):
            one = place[None]
            alone = task.draw(examples.raw_inputs(one), examples.ids[one], 0)
            first, second, again = (own_of(view, row) for view in views)
            assert_same(first, own_of(alone, 0))
            assert_same(first, again)
            differ |= any(not torch.equal(first[name], second[name]) for name in first)
        assert differ or not task.varies

    def test_partners_are_drawn_for_each_example_alone(self, task: Task) -> None:
        """From those that there are; at a share of one the example stays what it is."""
        examples = task.examples(Split.TRAIN)
        index = few(examples)
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
        assert_same(task.mix(raw, others, torch.ones(len(index))), raw)
