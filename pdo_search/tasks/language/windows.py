"""Documents as tokens, cut into windows. Knows no source and no split.

Legend: N documents, M windows, S positions of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.tasks.tokenizers import Tokenizer

__all__ = ["BYTES", "NEXT", "Windows", "end_of_text", "windows_of"]

NEXT, BYTES = "token", "bytes"
"""The head, whose target is the token that follows; and the bytes of text that it stands for."""
NO_TARGET = -1
AT_ONCE = 1 << 20
"""Characters that are given to a tokenizer at once."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of documents, one after the other.

    The tokens are one stream, in which a mark stands before every document and after the last. What
    is wanted at a position is the next token of the stream: the mark at a document's end.

    Attributes:
        stream: (S + 1,) int64.
        bytes_of: (S,) float32, bytes of text that each wanted token stands for: those of its
            document shared out evenly, so that their sum over documents is exact.
        offsets: (M + 1,) int64, where each window begins.
        documents: (N + 1,) int64, the first window of each document.
    """

    stream: Tensor
    bytes_of: Tensor
    offsets: Tensor
    documents: Tensor

    def tokens(self, padding: int) -> Column:
        """What a model reads."""
        return Column(self.stream[:-1], self.offsets, padding)

    def targets(self) -> dict[str, Column]:
        """What is wanted, and its bytes."""
        wanted = Column(self.stream[1:], self.offsets, NO_TARGET)
        return {NEXT: wanted, BYTES: Column(self.bytes_of, self.offsets)}


def end_of_text(tokenizer: Tokenizer) -> int:
    """The mark between documents.

    Raises:
        InputError: the tokenizer has none.
    """
    if tokenizer.end is None:
        raise InputError(
            "the tokenizer has no token that ends a text, such as <|endoftext|> or </s>",
            path="task.tokenizer.path",
            remedy="add one to it, or train one: tokenizer: {train: 4000}",
        )
    return tokenizer.end


def windows_of(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> Windows:
    """Cut documents into windows; a document's last one is as short as what is left.

    Args:
        texts: N documents.
        tokenizer: marks no beginning or end here.
        length: positions of a window.

    Raises:
        InputError: the tokenizer has no mark for the end of a text.
    """
    end = end_of_text(tokenizer)
    stream, shares, offsets, documents, first = [], [], [np.zeros(1, np.int64)], [0], 0
    for batch in _batches(texts):
        for text, ids in zip(batch, tokenizer.encode(batch, marks=False).rows, strict=True):
            count = len(ids) + 1
            stream.append(np.array([end, *ids], np.int64))
            shares.append(np.full(count, len(text.encode()) / count, np.float32))
            cuts = np.append(np.arange(length, count, length), count)
            offsets.append(first + cuts)
            documents.append(documents[-1] + len(cuts))
            first += count
    stream.append(np.array([end], np.int64))
    return Windows(
        torch.from_numpy(np.concatenate(stream)),
        torch.from_numpy(np.concatenate(shares)),
        torch.from_numpy(np.concatenate(offsets)),
        torch.tensor(documents),
    )


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, about so many characters at a time."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
