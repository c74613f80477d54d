"""What tasks have in common: examples by split, and by the kinds of their heads losses, answers and
metrics. A domain overrides what is special to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pdo_search.base.columns import Taught
from pdo_search.base.errors import PdoError
from pdo_search.base.sparse import sampled_kl, topk_kl
from pdo_search.store.encoding import Keep
from pdo_search.tasks.base import (
    PARTNER,
    SHARE,
    Batch,
    Dropped,
    Examples,
    Head,
    HeadKind,
    LeftOut,
    Meter,
    Outputs,
    Split,
    Vocabulary,
)
from pdo_search.tasks.inputs import AnyInputs, Inputs
from pdo_search.tasks.kinds import (
    KINDS,
    bernoulli_kl,
    confidence_of,
    mask_of_head,
    mean_of_positions,
    shown_target,
)
from pdo_search.tasks.metrics import meter_of, metrics_of_heads

__all__ = ["BaseTask"]


class BaseTask:
    """A task over columns, whose views are the examples as they are.

    Args:
        splits: examples of all four splits.
        heads: of every model.
        seed: of views and splits.
        fingerprint: digest of all that a model's training sees.
        train_inputs: the train split before labels were taken away; by default as it is.
        dropped: what was left out of splits.
        left_out: what was left out of the source.
    """

    varies = False
    uncombined = ""

    def __init__(
        self,
        splits: Mapping[Split, Examples],
        heads: tuple[Head, ...],
        *,
        seed: int,
        fingerprint: str,
        train_inputs: Examples | None = None,
        dropped: tuple[Dropped, ...] = (),
        left_out: tuple[LeftOut, ...] = (),
    ) -> None:
        self._splits = dict(splits)
        self.heads = heads
        self.seed = seed
        self.metrics = metrics_of_heads(heads)
        self.fingerprint = fingerprint
        inputs = splits[Split.TRAIN] if train_inputs is None else train_inputs
        self.train_inputs = inputs.unlabelled()
        self.epoch_examples = len(inputs)
        self.dropped = dropped
        self.left_out = left_out
        self.kept: Mapping[str, Keep] = {}

    def examples(self, split: Split) -> Examples:
        """Examples of train, transfer or validation.

        Raises:
            PdoError: for the test split, which a search must not read.
        """
        if split is Split.TEST:
            raise PdoError("a search must not read the test split")
        return self._splits[split]

    def test_examples(self) -> Examples:
        """Examples of the test split, for the final confirmation alone."""
        return self._splits[Split.TEST]

    def draw(self, raw: Batch, ids: Tensor, view: int) -> Batch:
        """Raw inputs as they are: every view shows the same."""
        return raw

    def partners(
        self, ids: Tensor, view: int, num_partners: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """None: views mix nothing."""
        return None

    def mix(self, raw: Batch, partners: Batch, shares: Tensor) -> Batch:
        """Raw inputs mixed with their partners' at shares (B,), input by input."""
        mixed = {}
        for name, own in raw.items():
            weights = shares.view(-1, *[1] * (own.dim() - 1))
            mixed[name] = (own * weights + partners[name] * (1 - weights)).to(own.dtype)
        return mixed

    def prepare(self, raw: Batch) -> Batch:
        """Raw inputs, as they are."""
        return raw

    def forward(self, model: nn.Module, prepared: Batch) -> Outputs:
        """A model's outputs by head; a model that gives one tensor has one head."""
        outputs = model(prepared)
        return {self.heads[0].name: outputs} if isinstance(outputs, Tensor) else outputs

    def label_loss(
        self, outputs: Outputs, batch: Batch, smoothing: float = 0.0
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Loss (B,) on labels by head, and whether there is one; of mixed examples
        λ·loss(y_i) + (1-λ)·loss(y_j), where both are known (Zhang et al. 2018)."""
        losses = {}
        for head in self.heads:
            loss, known = self.head_loss(head, outputs[head.name], batch, "", smoothing)
            if SHARE in batch:
                shares = batch[SHARE]
                other, also = self.head_loss(head, outputs[head.name], batch, PARTNER, smoothing)
                loss, known = shares * loss + (1 - shares) * other, known & also
            losses[head.name] = loss, known
        return losses

    def head_loss(
        self, head: Head, outputs: Tensor, batch: Batch, prefix: str, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """Loss (B,) of one head on the labels under a prefix, and whether there is one."""
        target = shown_target(head, batch, prefix)
        return KINDS[head.kind].label_loss(outputs, target, mask_of_head(head, batch), smoothing)

    def divergence(
        self,
        head: Head,
        student: Tensor,
        taught: Taught,
        batch: Batch,
        temperature: float,
        form: str = "categorical",
    ) -> Tensor:
        """How far (B,) outputs are from a teacher's, by the head's kind; ``form`` is of categorical
        heads. Of a head that is not stored whole the dense outputs are never made."""
        mask = mask_of_head(head, batch)
        if taught.sampled:
            return mean_of_positions(sampled_kl(student, taught), mask)
        if head.kind is HeadKind.CATEGORICAL and form == "bernoulli":
            return bernoulli_kl(student, taught.dense(head.size), temperature, mask)
        if taught.index is not None and head.kind is HeadKind.CATEGORICAL:
            return mean_of_positions(topk_kl(student, taught, temperature), mask)
        return KINDS[head.kind].divergence(student, taught.dense(head.size), temperature, mask)

    def meter(self) -> Meter:
        """A meter that has counted nothing."""
        return meter_of(self.heads)

    def quality(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each answer (B,) is worth, 0 to 1: the mean over the heads that have a label."""
        found = []
        for head in self.heads:
            kind, target = KINDS[head.kind], shown_target(head, batch)
            found.append(kind.quality(outputs[head.name], target, mask_of_head(head, batch)))
        return found[0] if len(found) == 1 else torch.stack(found).nanmean(dim=0)

    def confidence(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How sure each answer (B,) is, 0 to 1: the least sure head."""
        return confidence_of(self.heads, outputs, batch)

    def objection(self, model: nn.Module, batch: Batch) -> tuple[str, str] | None:
        """None: what gives outputs of the right form is a model of the task."""
        return None

    def inputs(self) -> AnyInputs:
        """The inputs as they are."""
        examples = self.train_inputs
        shapes = {name: tuple(c.values.shape[1:]) for name, c in examples.inputs.items()}
        return Inputs(shapes)

    def vocabulary(self) -> Vocabulary | None:
        """None: inputs are no ids."""
        return None

    def example(self) -> Batch:
        """The prepared train example whose length is the median, the first of them."""
        examples = self.train_inputs
        lengths = examples.lengths()
        row = 0 if lengths is None else int(lengths.argsort(stable=True)[len(lengths) // 2])
        return self.prepare(examples.raw_inputs(torch.tensor([row])))
