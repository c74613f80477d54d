"""Sections of tasks on texts: tokenizers, and text classification."""

from __future__ import annotations

from pydantic import Field, model_validator

from pdo_search.config.fields import Frozen, Given

__all__ = ["TokenizerConfig"]


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
