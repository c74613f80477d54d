"""What every source of pictures gives: arrays, labels, names, and what it left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.tasks.base import LeftOut
from pdo_search.tasks.contents import Hashes

__all__ = ["Pictures"]


@dataclass(frozen=True)
class Pictures:
    """A source's pictures.

    Attributes:
        inputs: (N, C, H, W) uint8 or float32.
        labels: (N,) int64, -1 for no label.
        class_names: names by label.
        test_inputs: the source's own test split, or None.
        test_labels: its labels.
        digest: of the inputs, where it is known without reading them all.
        hashes: of the contents of ``inputs``, where they are known without reading them all.
        test_hashes: those of ``test_inputs``.
        validation_inputs: the source's own validation split, or None.
        validation_labels: its labels.
        validation_hashes: as ``hashes``.
        left_out: files of the source that are none of these, or of whose use a user should know.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test_inputs: NDArray[Any] | None = None
    test_labels: NDArray[np.int64] | None = None
    digest: str | None = None
    hashes: Hashes | None = None
    test_hashes: Hashes | None = None
    validation_inputs: NDArray[Any] | None = None
    validation_labels: NDArray[np.int64] | None = None
    validation_hashes: Hashes | None = None
    left_out: tuple[LeftOut, ...] = ()
