"""What a bank holds, before any of it is computed: heads, examples, positions, and so the files,
their sizes and the chunks in which they are built. Knows no teacher.

Legend: N examples, S rows of a file, b of a batch, L positions (padded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdo_search.base.errors import PdoError
from pdo_search.base.seeds import seed_for
from pdo_search.store.encoding import Arrays, File, Rows, Said, StoredHead

__all__ = ["CHUNK", "CHUNK_POSITIONS", "Outputs", "Plan", "starts_of"]

CHUNK = 1024
"""Most examples of a chunk: what a builder that dies loses at most."""
CHUNK_POSITIONS = 1 << 16
"""Most positions of a chunk, unless one example has more."""

Outputs = Callable[[Tensor], Iterable[tuple[Tensor, Said]]]
"""The teacher's outputs on examples (n,) int64, which are asked for by length, shortest first. They
come in batches of its own choice, each with its examples (b,)."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a bank holds.

    Attributes:
        heads: by name.
        num_examples: N.
        lengths: (N,) int64, how many positions of each example are unmasked, by mask, for the masks
            of the heads.
        seed: of the classes that are drawn.
    """

    heads: Mapping[str, StoredHead]
    num_examples: int
    lengths: Mapping[str, Tensor]
    seed: int = 0

    @cached_property
    def files(self) -> dict[str, File]:
        """Files by name, without the suffix."""
        return {
            name: file
            for head, stored in self.heads.items()
            for name, file in stored.kept.files(head, stored).items()
        }

    @property
    def nbytes(self) -> int:
        """Size of a bank: of one view of one teacher."""
        rows = sum(self.num_rows(file.rows) * file.row_bytes for file in self.files.values())
        return rows + sum(8 * (len(lengths) + 1) for lengths in self.lengths.values())

    @cached_property
    def _starts(self) -> dict[Rows, Tensor]:
        return {
            file.rows: starts_of(self.lengths[file.rows.mask], file.rows.most)
            for file in self.files.values()
            if file.rows.mask is not None
        }

    def num_rows(self, rows: Rows) -> int:
        """S of a file."""
        whole: int = self.span(rows, slice(0, self.num_examples)).stop
        return whole

    def span(self, rows: Rows, examples: slice) -> slice:
        """Where successive examples lie in a file."""
        if rows.mask is None:
            return examples
        starts = self._starts[rows]
        return slice(int(starts[examples.start]), int(starts[examples.stop]))

    def _places(self, rows: Rows, examples: Tensor) -> Tensor:
        """(S,) int64 where the rows of examples (b,) lie in a file, one example after the other."""
        if rows.mask is None:
            return examples
        starts = self._starts[rows]
        first, count = starts[examples], starts[examples + 1] - starts[examples]
        before = count.cumsum(0) - count
        return torch.arange(int(count.sum())) + (first - before).repeat_interleave(count)

    def chunks(self) -> list[slice]:
        """The chunks, in order: bounded by examples and by positions, a function of these alone."""
        if not self.lengths:
            firsts = range(0, self.num_examples, CHUNK)
            return [slice(first, min(first + CHUNK, self.num_examples)) for first in firsts]
        ends = self._longest.cumsum(0)
        chunks, first = [], 0
        while first < self.num_examples:
            before = int(ends[first - 1]) if first else 0
            fit = int(torch.searchsorted(ends, before + CHUNK_POSITIONS, right=True))
            last = min(max(fit, first + 1), first + CHUNK, self.num_examples)
            chunks.append(slice(first, last))
            first = last
        return chunks

    @cached_property
    def _longest(self) -> Tensor:
        """(N,) positions of each example under the mask that has the most of them."""
        return torch.stack(list(self.lengths.values())).amax(dim=0)

    def encoded(self, outputs: Outputs, chunk: slice) -> Arrays:
        """A chunk's outputs as they are stored.

        Raises:
            PdoError: the outputs are not finite, or their masks leave other numbers of positions
                than the plan has.
        """
        spans = {name: self.span(file.rows, chunk) for name, file in self.files.items()}
        arrays: Arrays = {
            name: np.empty((span.stop - span.start, self.files[name].width), self.files[name].dtype)
            for name, span in spans.items()
        }
        examples, seen = torch.arange(chunk.start, chunk.stop), 0
        if self.lengths:
            examples = examples[self._longest[chunk].argsort(stable=True)]
        for own, said in outputs(examples):
            own = own.cpu()
            seen += len(own)
            for name, values in self._encoded_batch(own, said).items():
                places = self._places(self.files[name].rows, own) - spans[name].start
                arrays[name][places.numpy()] = values
        assert seen == len(examples), "outputs of some examples are missing"
        return arrays

    def _encoded_batch(self, examples: Tensor, outputs: Said) -> Arrays:
        for mask, lengths in self.lengths.items():
            if not torch.equal(outputs[mask].sum(dim=1).cpu(), lengths[examples]):
                raise PdoError(
                    f"the mask {mask!r} leaves other numbers of positions than were announced"
                )
        batch: Arrays = {}
        for name, head in self.heads.items():
            rows, seed = Rows(head.positions), seed_for(self.seed, "classes", name)

            def draws(count: int, rows: Rows = rows, seed: int = seed) -> Tensor:
                return _uniform(seed, self._places(rows, examples), count)

            batch |= head.kept.encoded(name, head, outputs, draws)
        return batch


def starts_of(lengths: Tensor, most: int | None = None) -> Tensor:
    """(N + 1,) int64, where the rows of each example begin, and the end of the last.

    Args:
        lengths: (N,) int64 positions of each.
        most: rows of an example at most; None for one per position.
    """
    count = lengths if most is None else lengths.clamp(max=most)
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _uniform(seed: int, rows: Tensor, count: int) -> Tensor:
    """(S, count) float64 from 0 to 1, a function of the seed and the rows' (S,) places alone: a
    counter-based hash (splitmix64)."""
    first = rows.numpy().astype(np.uint64)[:, None] * np.uint64(count)
    z: NDArray[np.uint64] = np.add(
        first, np.arange(1, count + 1), dtype=np.uint64, casting="unsafe"
    )
    z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)
