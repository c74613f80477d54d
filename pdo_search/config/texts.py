"""Sections of tasks on texts: tokenizers, and text classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from pdo_search.config.fields import Frozen, Given, Seed
from pdo_search.config.metrics import TASK_METRICS
from pdo_search.config.task import RecordsConfig, SplitsConfig

__all__ = ["TEXTS", "TextDataConfig", "TextTaskConfig", "TokenizerConfig"]

TEXTS = "text_classification"


class TokenizerConfig(Frozen):
    """How texts become numbers: one tokenizer for teacher and student."""

    path: Given | None = None
    """Folder of a tokenizer of the transformers or tokenizers library, such as that of the
    teacher's weights. Relative to the experiment file."""
    train: int | None = Field(default=None, ge=300, le=1 << 17)
    """Entries of a byte-level BPE that is trained on the texts of the train split alone; it is kept
    in the store and in every stored model."""
    max_length: int = Field(default=128, ge=4, le=8192)
    """Most tokens of a text; what comes later is cut off, and `check` says of how many texts."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizerConfig:
        if (self.path is None) == (self.train is None):
            raise ValueError("is {path: FOLDER}, or {train: SIZE} with the number of its entries")
        return self


class TextDataConfig(RecordsConfig):
    """Where texts and their labels come from."""

    source: str = "files"
    """``files``; ``wordnet``: definitions of words and the class of things that each belongs to,
    from the folder ``path`` of WordNet's files (by default that of Debian's package wordnet-base);
    or ``module:function`` that returns a torch ``Dataset``, a data set of Hugging Face, a frame of
    pandas or polars, a mapping of columns, a list of rows, or such by split."""
    text: str | int | None = None
    """What the source calls the column of texts; ``text`` by default. The same as ``columns: {text:
    …}``."""
    label: str | int | None = None
    """What the source calls the column of classes, by name or number; ``label`` by default. The
    same as ``columns: {label: …}``."""
    part: Literal["nouns", "verbs", "all"] | None = None
    """Of ``wordnet``: nouns, which have 26 classes and are the default, verbs with 15, or all words
    with 45."""

    @property
    def named_columns(self) -> Mapping[str, str | int]:
        """``columns``, with ``text`` and ``label``."""
        own = {"text": self.text, "label": self.label}
        return {**self.columns, **{name: own for name, own in own.items() if own is not None}}

    @model_validator(mode="after")
    def _once(self) -> TextDataConfig:
        for name in ("text", "label"):
            if getattr(self, name) is not None and name in self.columns:
                raise ValueError(f"`{name}` stands in `columns` as well: give it once")
        if self.part is not None and self.source != "wordnet":
            raise ValueError("`part` is of source wordnet: leave it out")
        return self


class TextTaskConfig(Frozen):
    """Texts and their classes."""

    kind: Literal["text_classification"] = "text_classification"
    """The domain."""
    data: TextDataConfig
    """The labelled source. Rows without a label join the transfer split."""
    transfer_data: TextDataConfig | None = None
    """Another, possibly unlabelled source for the transfer split. Its texts that are in the
    labelled source, too, are left out."""
    tokenizer: TokenizerConfig
    """How texts become numbers."""
    splits: SplitsConfig = SplitsConfig()
    """Shares of the splits."""
    seed: Seed = 0
    """Seed of the splits; apart from the search's seed, so that sweeps share them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it measures, the primary metric first."""
        return TASK_METRICS[self.kind]

    @model_validator(mode="after")
    def _has_transfer(self) -> TextTaskConfig:
        splits = self.splits
        if self.transfer_data is None and splits.transfer == 0 and splits.labels is None:
            raise ValueError("splits.transfer is 0 and there is no transfer_data: give one of them")
        if not self.data.labelled:
            raise ValueError("data.labelled is false: texts without labels belong in transfer_data")
        return self
