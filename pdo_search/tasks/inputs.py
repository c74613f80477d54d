"""What a model takes: kept with it, so that it can be run on raw inputs without its task.

Stored ones are checked field by field, since anybody may have written them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import FiniteFloat
from torch import Tensor

from pdo_search.base.columns import Column
from pdo_search.tasks.tokenizers import MAX_DEFINITION, Tokenizer, tokenizer_of

__all__ = [
    "PIXELS",
    "TOKENS",
    "AnyInputs",
    "Inputs",
    "PictureInputs",
    "SequenceInputs",
    "TextInputs",
]

PIXELS = "pixels"
TOKENS = "tokens"
MAX_INPUT = 1 << 24
"""Values of one example: four thousand by four thousand pixels."""


@dataclass(frozen=True)
class Inputs:
    """Inputs that models take as they are.

    Attributes:
        shapes: of one example's entry, or of one of its positions, by input.
        kind: what tells stored ones apart.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kind: Literal["plain"] = "plain"

    def __post_init__(self) -> None:
        if any(
            math.prod(shape) > MAX_INPUT or min(shape, default=1) < 1
            for shape in self.shapes.values()
        ):
            raise ValueError(f"shapes are {dict(self.shapes)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by output: none are known."""
        return ()

    @property
    def num_ids(self) -> int | None:
        """How many ids an input has, where its numbers are ids: that is not known."""
        return None

    @property
    def max_length(self) -> int | None:
        """Most positions of an example: not known."""
        return None

    def prepared(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw inputs as the model takes them."""
        return raw


@dataclass(frozen=True)
class TextInputs:
    """Texts by the ids of a tokenizer, and the names of their classes, if they have any.

    Attributes:
        class_names: names by output.
        tokenizer: its definition, as ``Tokenizer`` has it.
        max_length: most ids of a text; what comes later is cut off.
        continues: whether a model says how a text goes on: then the mark of a text's end, which
            stands between texts, is what it reads first, and the only mark.
        kind: what tells stored ones apart.
    """

    class_names: tuple[str, ...]
    tokenizer: str
    max_length: int
    continues: bool = False
    kind: Literal["texts"] = "texts"

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= MAX_INPUT or len(self.tokenizer) > MAX_DEFINITION:
            raise ValueError(f"max_length is {self.max_length}, or the tokenizer is too large")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one position, by input: ids are numbers."""
        return {TOKENS: ()}

    @property
    def num_ids(self) -> int:
        """How many ids there are."""
        return self.read_by.size

    @property
    def read_by(self) -> Tokenizer:
        """The tokenizer."""
        return tokenizer_of(self.tokenizer)

    def begun(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as what goes on reads them: ids of any length, the first of them the mark."""
        end = self.read_by.end
        if end is None:
            raise ValueError("the tokenizer has no mark for the end of a text")
        return [[end, *ids] for ids in self.read_by.encode(texts, marks=False).rows]

    def column(self, texts: Sequence[str]) -> Column:
        """Texts as a model takes them, ids (S,) int32."""
        if self.continues:
            rows = [ids[: self.max_length] for ids in self.begun(texts)]
        else:
            rows = self.read_by.encode(texts, self.max_length).rows
        ids = [torch.tensor(row, dtype=torch.int32) for row in rows]
        return Column.ragged(ids, self.read_by.padding)

    def prepared(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw inputs, as they are."""
        return raw


@dataclass(frozen=True)
class PictureInputs:
    """Pictures of one size, normalised by channel, and the names of their classes.

    Attributes:
        input_shape: (C, H, W).
        class_names: names by output.
        mean: per channel, of raw inputs: the model's own.
        std: per channel, of raw inputs, above 0: the model's own.
        unit: raw value that a configured normalization calls 1: 255 for bytes. Above 0.
        kind: what tells stored ones apart.
    """

    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    unit: FiniteFloat = 1.0
    kind: Literal["pictures"] = "pictures"

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1 or math.prod(self.input_shape) > MAX_INPUT:
            raise ValueError(f"input_shape is {self.input_shape}")
        if not len(self.mean) == len(self.std) == self.input_shape[0]:
            raise ValueError("mean and std have not one number per channel")
        if min(*self.std, self.unit) <= 0:
            raise ValueError(f"std is {self.std}, unit {self.unit}: inputs are divided by them")

    def prepared(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw pictures (B, C, H, W), in the values that the source has, normalised."""
        pictures = raw[PIXELS]

        def by_channel(numbers: tuple[float, ...]) -> Tensor:
            return torch.tensor(numbers, device=pictures.device).view(1, -1, 1, 1)

        return {PIXELS: (pictures.float() - by_channel(self.mean)) / by_channel(self.std)}


SequenceInputs = Inputs | TextInputs
"""Of models of batches by name."""
AnyInputs = SequenceInputs | PictureInputs
