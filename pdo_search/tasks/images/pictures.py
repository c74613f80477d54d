"""What every source of pictures gives: arrays and labels by split, names, and what it left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.contents import Hashes

__all__ = ["Labelled", "Pictures"]


@dataclass(frozen=True)
class Labelled:
    """The pictures of a split.

    Attributes:
        inputs: (N, C, H, W) uint8 or float32.
        labels: (N,) int64, -1 for no label.
        hashes: (N,) of the contents, where they are known without reading them all.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    hashes: Hashes | None = None


@dataclass(frozen=True)
class Pictures:
    """A source's pictures.

    Attributes:
        parts: by split: train, and the splits that the source has of its own.
        class_names: names by label.
        digest: of the inputs, where it is known without reading them all.
        left_out: files of the source that are none of these, or of whose use a user should know.
    """

    parts: Mapping[Split, Labelled]
    class_names: tuple[str, ...]
    digest: str | None = None
    left_out: tuple[LeftOut, ...] = ()

    @property
    def train(self) -> Labelled:
        """The train split: all of a source that has no other."""
        return self.parts[Split.TRAIN]
