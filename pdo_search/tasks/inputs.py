"""What a model takes: kept with it, so that it can be run on raw inputs without its task.

Stored ones are checked field by field, since anybody may have written them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import FiniteFloat
from torch import Tensor

__all__ = ["PIXELS", "AnyInputs", "Inputs", "PictureInputs"]

PIXELS = "pixels"
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

    def prepared(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw inputs as the model takes them."""
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


AnyInputs = Inputs | PictureInputs
