"""Sections of language models: documents, tokens, how much of the teacher's outputs is stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pdo_search.config.fields import Frozen, Given, Seed
from pdo_search.config.metrics import TASK_METRICS
from pdo_search.config.task import RecordsConfig, SplitsConfig

__all__ = ["LANGUAGE", "DocumentsConfig", "LanguageTaskConfig", "TokensConfig"]

LANGUAGE = "language_model"


class DocumentsConfig(RecordsConfig):
    """Where documents come from: rows with a ``text`` and, if they have one, the name of the
    ``document`` that they are a part of. A text file is one document, with its own name; rows of
    functions that are tuples are (name, text)."""


class TokensConfig(Frozen):
    """How texts become tokens: one tokenizer for teacher and student."""

    path: Given | None = None
    """Folder of a tokenizer of the transformers or tokenizers library, such as that of the
    teacher's weights. Relative to the experiment file."""
    train: int | None = Field(default=None, ge=300, le=1 << 17)
    """Entries of a byte-level BPE that is trained on the texts of the train split alone; it is kept
    in the store and in every stored model."""
    length: int = Field(default=128, ge=2, le=1 << 14)
    """Tokens of a window, which is an example: a document is cut into windows one after the other,
    of which the last is shorter. A model sees nothing before its window."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TokensConfig:
        if (self.path is None) == (self.train is None):
            raise ValueError("is {path: FOLDER}, or {train: SIZE} with the number of its entries")
        return self


class DocumentSplitsConfig(SplitsConfig):
    """Shares of the four disjoint splits, in bytes of text; what is left is the train split."""

    group: str | None = "document"
    """A column such as document, author or speaker: all texts with the same value come into the
    same split. None cuts documents into passages of 16,384 characters, each of which may come into
    any split: for one long text."""

    @model_validator(mode="after")
    def _texts_are_their_own_labels(self) -> DocumentSplitsConfig:
        if self.labels is not None:
            raise ValueError(
                "labels: a text is its own label; leave it out, or give texts that only the teacher"
                " is to speak about as transfer_data with labelled: false"
            )
        return self


class LanguageTaskConfig(Frozen):
    """The next token of texts, from those before it."""

    kind: Literal["language_model"]
    """The domain."""
    data: DocumentsConfig
    """The documents."""
    transfer_data: DocumentsConfig | None = None
    """Other documents for the transfer split. Windows that are in ``data``, too, are left out."""
    tokenizer: TokensConfig
    """How texts become tokens, and how many of them make an example."""
    splits: DocumentSplitsConfig = DocumentSplitsConfig()
    """Shares of the splits."""
    bank: Literal["auto", "whole", "top", "sampled"] = "auto"
    """How much of a teacher's outputs on each position is stored: ``whole``, all of them; ``top``,
    the largest and the mass of the rest, which is right at temperatures up to 2 or so;
    ``sampled``, tokens drawn by the teacher's probabilities, unbiased and at temperature 1 alone;
    ``auto`` is whole up to 1,024 tokens in all, and top beyond."""
    bank_tokens: int | None = Field(default=None, ge=1, le=1 << 14)
    """How many tokens ``top`` or ``sampled`` keep of each position; None is 128 and 12."""
    seed: Seed = 0
    """Seed of the splits; apart from the search's seed, so that sweeps share them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it measures, the primary metric first."""
        return TASK_METRICS[self.kind]

    @model_validator(mode="after")
    def _consistent(self) -> LanguageTaskConfig:
        if self.transfer_data is None and self.splits.transfer == 0:
            raise ValueError("splits.transfer is 0 and there is no transfer_data: give one of them")
        if not self.data.labelled:
            raise ValueError("data.labelled is false: a text is its own label; leave it out")
        if self.bank_tokens is not None and self.bank not in ("top", "sampled"):
            raise ValueError("bank_tokens is of bank: top, or of bank: sampled")
        return self
