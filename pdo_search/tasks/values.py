"""Values that users' code returns: what they are in words, and tensors as NumPy has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Words", "described", "of_tensor"]


def of_tensor(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array on the CPU; half precision becomes float32."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()  # NumPy has no bfloat16.
    return tensor.cpu().resolve_conj().resolve_neg().numpy()


def described(value: object) -> str:
    """What a value is, in a few words."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if value is None:
        return "None: nothing"
    if isinstance(value, np.ndarray | Tensor):
        return f"{kind} of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, Mapping):
        return f"{kind} with the keys {', '.join(str(k) for k in list(value)[:8])}"
    if isinstance(value, tuple | list):
        of = ", ".join(type(part).__name__ for part in value[:4])
        return f"{kind} of {len(value)}: {of}{', …' if len(value) > 4 else ''}"
    return kind


class Words(str):
    """A description that a message shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
