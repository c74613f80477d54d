"""What a language model is judged by: bits per byte, perplexity, right next tokens.

Legend: B windows, L positions (padded), K tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught
from pdo_search.base.sparse import topk_kl
from pdo_search.tasks.base import Batch, Head, Outputs, target_of
from pdo_search.tasks.kinds import shown_target
from pdo_search.tasks.language.windows import BYTES

__all__ = ["BitsMeter"]


class BitsMeter:
    """Sums over positions, in double precision; every position counts alike.

    ``bits_per_byte`` is the cross-entropy of the text over its bytes, which does not hang on the
    tokenizer; ``loss`` that over its tokens, in nats, and ``perplexity`` its exponential.
    """

    names: ClassVar = ("bits_per_byte", "perplexity", "accuracy", "loss", "agreement", "kl")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._sums: dict[str, Tensor] = {}

    def update(
        self, outputs: Outputs, batch: Batch, taught: Mapping[str, Taught] | None = None
    ) -> None:
        """Count a batch."""
        assert self._head.positions is not None
        own, target = outputs[self._head.name], shown_target(self._head, batch)
        mask = batch[self._head.positions]
        known = (target >= 0) & mask
        nats = F.cross_entropy(own[known], target[known], reduction="none")
        self._add("positions", known)
        self._add("nats", nats)
        self._add("hits", own[known].argmax(dim=-1) == target[known])
        self._add("bytes", batch[target_of(BYTES)][known])
        if taught is not None and not taught[self._head.name].sampled:
            said = taught[self._head.name].to(own.device)
            best = said.values.argmax(dim=-1)
            if said.index is not None:
                best = said.index.gather(-1, best[..., None]).squeeze(-1)
            self._add("compared", mask)
            self._add("same", (own.argmax(dim=-1) == best)[mask])
            self._add("apart", _apart(own, said)[mask])

    def _add(self, name: str, values: Tensor) -> None:
        total = values.double().sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def compute(self) -> dict[str, float]:
        """Values by name."""
        loss = self._mean("nats", "positions")
        found = {
            "bits_per_byte": self._mean("nats", "bytes") / math.log(2),
            "perplexity": (self._sums["nats"] / self._sums["positions"]).exp().item(),
            "accuracy": self._mean("hits", "positions"),
            "loss": loss,
        }
        if "compared" in self._sums:
            found["agreement"] = self._mean("same", "compared")
            found["kl"] = self._mean("apart", "compared")
        return found

    def _mean(self, total: str, count: str) -> float:
        """NaN where nothing was counted."""
        return (self._sums[total] / self._sums[count]).item()


def _apart(student: Tensor, teacher: Taught) -> Tensor:
    """(B, L) KL(teacher ‖ student) in nats, at temperature 1."""
    if teacher.index is not None:
        return topk_kl(student, teacher, 1.0)
    log_s, log_t = F.log_softmax(student, dim=-1), F.log_softmax(teacher.values, dim=-1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1)
