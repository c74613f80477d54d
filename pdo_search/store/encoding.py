"""How a bank keeps a head's outputs: whole, the largest classes, sampled classes, or the positions
that show something.

Legend: N examples, b of a batch, L positions (padded), S stored rows (an example's, or one for each
of its positions), K size of a head, k classes kept of it. Knows no task.

*Half precision* (``Whole``): against float32 logits the softmax's KL error stays below 5e-5 nats
for logits up to 32 in size, 3e-6 up to 8 (tested).

*The largest* (``Top``). The rest, z, stands at one level, the same for every class of it: its
log-mean-exp ``τ log mean exp(z/τ)``, which gives the rest the mass that it has at temperature τ and
loses how it was spread. No level fits all temperatures, so it is stored at four (``REST_AT``) and
interpolated between them; below τ = 1 that of τ = 1 serves. Of logits with a standard deviation of
5, 1,500 classes: the mass is right to 0.02, and the KL error is 0.012 nats at τ = 1, 0.2 at 2, 0.24
at 4, 0.1 at 8 (tested bounds in ``tests/store/test_top_k.py``); it grows with the logits' spread
over τ. The KL from them is biased, most where the rest has much mass.

*Sampled* (``Sampled``): unbiased, at τ = 1 alone (Anshumann et al. 2025, "Sparse Logit Sampling").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Column, Taught
from pdo_search.base.errors import PdoError

__all__ = [
    "Arrays",
    "Draws",
    "File",
    "Foreground",
    "Found",
    "Keep",
    "Rows",
    "Said",
    "Sampled",
    "StoredHead",
    "Top",
    "Whole",
]

DENSE_SIZE = 1024
"""Outputs up to which a head is stored whole if nothing else is said: 2 KiB a row."""
TOP_K = 128
"""Classes kept of a larger head, in 520 bytes a row (a quarter of the largest whole one). With 64
the KL error was 2.8 times as large at τ = 1, and 1.8 and 1.4 times at 2 and 4."""
NUM_DRAWS = 12
"""Sampled classes of a row: 48 bytes. About a dozen are what the paper finds enough."""
REST_AT = (0.0, 0.25, 0.5, 1.0)
"""Inverse temperatures at which the rest's level is stored; at 0 it is the mean."""
CPU_PIECE = 1 << 18
"""Outputs of large heads that are encoded at once: they stay in the caches. Of 50,257 classes all
256 rows at once took four times as long."""
GPU_PIECE = 1 << 26
LARGEST = float(np.finfo(np.float16).max)
_UINT16 = 1 << 16

Arrays = dict[str, NDArray[Any]]
"""Stored form of some examples: file name to array (S, width)."""
Said = Mapping[str, Tensor]
"""A batch's outputs (b, K) or (b, L, K) by head, and their masks (b, L) bool by name."""
Draws = Callable[[int], Tensor]
"""Gives so many numbers (S, n) from 0 to 1 for each of a head's rows."""


@dataclass(frozen=True)
class Rows:
    """Which rows a file has.

    Attributes:
        mask: None for one row per example; else one for every position under this mask.
        most: at most so many of an example; None for all.
    """

    mask: str | None = None
    most: int | None = None


@dataclass(frozen=True)
class File:
    """One file of a bank.

    Attributes:
        dtype: as it is stored.
        width: columns.
        rows: which rows it has.
        pad: what fills examples with fewer rows up when they are read together.
    """

    dtype: DTypeLike
    width: int
    rows: Rows
    pad: float = 0

    @property
    def readable(self) -> DTypeLike:
        """The same bits as a type that torch indexes (not uint16, before torch 2.5)."""
        return np.int16 if self.dtype is np.uint16 else self.dtype

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return np.dtype(self.dtype).itemsize * self.width


class Found:
    """What a bank's files have of some examples.

    Args:
        columns: all files by name.
        lengths: (N,) positions of each example, by mask.
        rows: (B,) int64, which examples.
    """

    def __init__(
        self, columns: Mapping[str, Column], lengths: Mapping[str, Tensor], rows: Tensor
    ) -> None:
        self._columns = columns
        self._lengths = lengths
        self._rows = rows

    def take(self, name: str) -> Tensor:
        """(B, width) or (B, L, width) of a file; floating ones in torch's default type."""
        taken = self._columns[name].take(self._rows)
        return taken.to(torch.get_default_dtype()) if taken.is_floating_point() else taken

    def longest(self, mask: str) -> int:
        """Positions of the longest of the examples."""
        return int(self._lengths[mask][self._rows].max())


class Keep(Protocol):
    """How a head's outputs are kept: files, what is written into them, what they say."""

    def files(self, name: str, head: StoredHead) -> dict[str, File]:
        """The head's files by name, without the suffix."""

    def encoded(self, name: str, head: StoredHead, outputs: Said, draws: Draws) -> Arrays:
        """A batch's outputs by file.

        Raises:
            PdoError: they are not finite.
        """

    def taught(self, name: str, head: StoredHead, found: Found, temperature: float) -> Taught:
        """What the teacher says, from the files."""


@dataclass(frozen=True)
class Whole:
    """All K outputs, in half precision."""

    def files(self, name: str, head: StoredHead) -> dict[str, File]:
        """One file."""
        return {name: File(np.float16, head.size, Rows(head.positions))}

    def encoded(self, name: str, head: StoredHead, outputs: Said, draws: Draws) -> Arrays:
        """The outputs, cut to what half precision can hold."""
        return {name: _half(_own(name, head, outputs))}

    def taught(self, name: str, head: StoredHead, found: Found, temperature: float) -> Taught:
        """The outputs."""
        return Taught(found.take(name))


@dataclass(frozen=True)
class Top:
    """The largest classes of a categorical head, and the level of the rest.

    Attributes:
        classes: k.
    """

    classes: int = TOP_K

    def files(self, name: str, head: StoredHead) -> dict[str, File]:
        """Values, classes, and levels of the rest."""
        rows = Rows(head.positions)
        return {
            f"{name}.top": File(np.float16, self.classes, rows),
            f"{name}.index": File(_index_dtype(head.size), self.classes, rows),
            f"{name}.rest": File(np.float16, len(REST_AT), rows),
        }

    def encoded(self, name: str, head: StoredHead, outputs: Said, draws: Draws) -> Arrays:
        """The k largest, in falling order, and the rest's log-mean-exp at ``REST_AT``."""
        pieces = [self._largest(piece) for piece in _pieces(_own(name, head, outputs))]
        top, index, levels = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return {
            f"{name}.top": _half(top),
            f"{name}.index": index.cpu().numpy().astype(_index_dtype(head.size)),
            f"{name}.rest": _half(levels),
        }

    def _largest(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(S, k) values and classes of the largest of (S, K), and (S, 4) levels of the rest."""
        top, index = values.topk(self.classes, dim=1)
        rest, count = values.scatter(1, index, -math.inf), values.shape[1] - self.classes
        levels = [values.scatter(1, index, 0.0).sum(dim=1) / count]
        levels += [((rest * at).logsumexp(dim=1) - math.log(count)) / at for at in REST_AT[1:]]
        return top, index, torch.stack(levels, dim=1)

    def taught(self, name: str, head: StoredHead, found: Found, temperature: float) -> Taught:
        """The k largest; the rest at its level for a temperature, at most the least of them."""
        top = found.take(f"{name}.top")
        level = _interpolated(found.take(f"{name}.rest"), 1 / temperature)
        rest = torch.minimum(level, top[..., -1:])
        return Taught(top, _index(found, f"{name}.index", head.size), rest)


@dataclass(frozen=True)
class Sampled:
    """Classes of a categorical head, drawn from the teacher's softmax at temperature 1, and their
    log-probabilities.

    Draw j of n is the class at a random quantile between j/n and (j+1)/n. The mean of any function
    of the class over the draws is then unbiased, as that of independent draws, with a variance that
    is no larger; a class of probability 1/n or more is missing hardly ever.

    Attributes:
        draws: n.
    """

    draws: int = NUM_DRAWS

    def files(self, name: str, head: StoredHead) -> dict[str, File]:
        """Log-probabilities and classes."""
        rows = Rows(head.positions)
        return {
            f"{name}.logp": File(np.float16, self.draws, rows),
            f"{name}.index": File(_index_dtype(head.size), self.draws, rows),
        }

    def encoded(self, name: str, head: StoredHead, outputs: Said, draws: Draws) -> Arrays:
        """The classes at random quantiles of the softmax."""
        values = _own(name, head, outputs)
        quantiles = (torch.arange(self.draws) + draws(self.draws)) / self.draws
        pieces = _pieces(values), torch.split(quantiles.to(values.device), _piece_rows(values))
        drawn = [_at(piece, own) for piece, own in zip(*pieces, strict=True)]
        logp, index = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return {
            f"{name}.logp": _half(logp),
            f"{name}.index": index.cpu().numpy().astype(_index_dtype(head.size)),
        }

    def taught(self, name: str, head: StoredHead, found: Found, temperature: float) -> Taught:
        """Drawn classes and their log-probabilities at temperature 1, whatever is asked for."""
        logp = found.take(f"{name}.logp")
        return Taught(logp, _index(found, f"{name}.index", head.size), sampled=True)


@dataclass(frozen=True)
class Foreground:
    """All K outputs of an example's positions that show something; the others stand at one level,
    the mean of their outputs.

    Attributes:
        positions: so many of an example.
        scored_by: the head, of the same positions, by whose foreground score they are chosen; the
            heads that have it in common keep the same positions.
        background: which of that head's classes is the background, in a softmax: the score is 1
            minus its probability. None for sigmoids: the score is the largest of their outputs.
    """

    positions: int
    scored_by: str
    background: int | None = None

    def files(self, name: str, head: StoredHead) -> dict[str, File]:
        """Values, their places among the example's positions, and the level of the others."""
        assert head.positions is not None
        rows = Rows(head.positions, self.positions)
        return {
            name: File(np.float16, head.size, rows),
            f"{name}.level": File(np.float16, head.size, Rows()),
            self._places: File(np.int32, 1, rows, pad=-1),
        }

    def encoded(self, name: str, head: StoredHead, outputs: Said, draws: Draws) -> Arrays:
        """Of positions with equal scores the first are kept."""
        assert head.positions is not None
        mask = outputs[head.positions]
        own = _own(name, head, outputs)
        values = own.new_zeros(*mask.shape, head.size)
        values[mask] = own
        score = self._score(outputs[self.scored_by]).masked_fill(~mask, -math.inf)
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept, others = mask & (rank < self.positions), mask & (rank >= self.positions)
        count = others.sum(dim=1, keepdim=True).clamp(min=1)
        level = (values * others[..., None]).sum(dim=1) / count
        places = (mask.cumsum(dim=1) - 1)[kept]
        return {
            name: _half(values[kept]),
            f"{name}.level": _half(level),
            self._places: places[:, None].cpu().numpy().astype(np.int32),
        }

    def taught(self, name: str, head: StoredHead, found: Found, temperature: float) -> Taught:
        """Outputs (B, L, K) of all positions: a student's take as much memory."""
        assert head.positions is not None
        length = found.longest(head.positions)
        places = found.take(self._places).long()
        # What pads the kept ones goes to one position more than there are.
        places = places.where(places >= 0, length).expand(-1, -1, head.size)
        level = found.take(f"{name}.level")[:, None].repeat(1, length + 1, 1)
        return Taught(level.scatter_(1, places, found.take(name))[:, :length])

    @property
    def _places(self) -> str:
        return f"{self.scored_by}.places{self.positions}"

    def _score(self, scorer: Tensor) -> Tensor:
        """A score (b, L) that orders as the foreground's probability, without its ties at 1."""
        if self.background is None:
            return scorer.float().amax(dim=-1)
        return -F.log_softmax(scorer.float(), dim=-1)[..., self.background]


@dataclass(frozen=True)
class StoredHead:
    """A head as the bank knows it.

    Attributes:
        size: K.
        positions: None for one answer per example; else the name of the mask of those positions
            that have one.
        keep: how its outputs are kept; None for whole up to ``DENSE_SIZE``, the largest above it.
    """

    size: int
    positions: str | None = None
    keep: Keep | None = None

    @property
    def kept(self) -> Keep:
        """How its outputs are kept."""
        if self.keep is not None:
            return self.keep
        return Whole() if self.size <= DENSE_SIZE else Top()

    def key(self) -> dict[str, Any]:
        """All that its files depend on, as plain values."""
        return {"size": self.size, "positions": self.positions, "keep": repr(self.kept)}


def _own(name: str, head: StoredHead, outputs: Said) -> Tensor:
    """A batch's outputs (S, K) at unmasked positions, float32, as far as half precision reaches.

    Raises:
        PdoError: they are not finite.
    """
    own = outputs[name]
    if head.positions is not None:
        own = own[outputs[head.positions]]
    if not torch.isfinite(own).all():
        raise PdoError("the teacher gives outputs that are not finite")
    return own.float().clamp(-LARGEST, LARGEST)


def _pieces(values: Tensor) -> tuple[Tensor, ...]:
    """Rows (S, K) in pieces, so that what is computed between is small."""
    return torch.split(values, _piece_rows(values))


def _piece_rows(values: Tensor) -> int:
    piece = CPU_PIECE if values.device.type == "cpu" else GPU_PIECE
    return max(piece // values.shape[1], 1)


def _at(logits: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """(S, n) log-probabilities and classes at quantiles (S, n) of the softmax of (S, K)."""
    logp = F.log_softmax(logits, dim=1)
    below = logp.exp().cumsum(dim=1, dtype=torch.float64)
    index = torch.searchsorted(below, quantiles * below[:, -1:], right=True)
    index.clamp_(max=logits.shape[1] - 1)
    return logp.gather(1, index), index


def _half(values: Tensor) -> NDArray[Any]:
    return values.half().cpu().numpy()


def _interpolated(levels: Tensor, at: float) -> Tensor:
    """The rest's level (…, 1) at an inverse temperature."""
    high = next((k for k, known in enumerate(REST_AT) if known >= at), len(REST_AT) - 1)
    low = max(high - 1, 0)
    weight = min((at - REST_AT[low]) / (REST_AT[high] - REST_AT[low]), 1.0) if high else 1.0
    return levels[..., low, None] * (1 - weight) + levels[..., high, None] * weight


def _index_dtype(size: int) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if size <= _UINT16 else np.int32


def _index(found: Found, name: str, size: int) -> Tensor:
    """int64 classes of a file that torch may read as signed."""
    index = found.take(name).long()
    return index & (_UINT16 - 1) if size <= _UINT16 else index
