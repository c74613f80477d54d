"""Arrays out of what users return: tensors, lists, pictures of Pillow, data sets of torch.

Knows no classes and no splits: what the arrays must hold is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pdo_search.base.errors import InputError
from pdo_search.tasks.values import Words, described, of_tensor

__all__ = ["as_array", "fields_of"]

FIELDS = ("inputs", "targets", "class_names", "test_inputs", "test_targets")
WANTED = (
    "the factory must return (inputs, targets[, class_names]), a mapping with inputs, targets and"
    " optionally class_names, test_inputs, test_targets, or a torch Dataset of such pairs"
)
GREY = frozenset({"1", "L"})
DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})
"""Modes of Pillow with more than 8 bits, which a conversion to grey or RGB would cut off."""


def fields_of(result: Any, name: str, path: str) -> dict[str, Any]:
    """The parts of what a data factory returned, by their names; None is as good as left out.

    Args:
        result: what it returned.
        name: ``module:function``.
        path: where the name stands in the experiment, for messages.

    Raises:
        InputError: it is not what a factory must return; says what it is.
    """
    refused = partial(InputError, f"{WANTED}; it returned {described(result)}", path=path)
    if isinstance(result, Dataset):
        return _of_dataset(result, name, path)
    if isinstance(result, DataLoader):
        raise refused(value=name, remedy="return the data set that the loader reads")
    if isinstance(result, tuple | list) and len(result) in (2, 3):
        if all(isinstance(part, tuple | list) and len(part) == 2 for part in result[:2]):
            raise refused(
                value=name,
                remedy="return a mapping: {'inputs': …, 'targets': …, 'test_inputs': …,"
                " 'test_targets': …}",
            )
        result = dict(zip(FIELDS[:3], result, strict=False))
    if not isinstance(result, Mapping):
        raise refused(value=name, remedy="return inputs, targets")
    found = {k: result[k] for k in FIELDS if k in result and result[k] is not None}
    if not {"inputs", "targets"} <= set(found):
        keys = [str(key) for key in result]
        raise refused(value=keys, remedy=f"name the keys {', '.join(FIELDS)}")
    for part, other in (("test_inputs", "test_targets"), ("test_targets", "test_inputs")):
        if part in found and other not in found:
            raise InputError(
                f"{other} is missing: the factory returned {part}",
                path=path,
                value=[str(key) for key in result],
                remedy=f"return {other} as well, or leave {part} out",
            )
    return found


def _of_dataset(dataset: Any, name: str, path: str) -> dict[str, Any]:
    """All examples of a map-style torch Dataset of pairs."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(
            f"{WANTED}; it returned {described(dataset)}, which has no length",
            path=path,
            value=name,
            remedy="return a Dataset with __len__ and __getitem__",
        )
    pairs = [dataset[index] for index in range(len(dataset))]
    wrong = next((p for p in pairs if not isinstance(p, tuple | list) or len(p) != 2), None)
    if wrong is not None:
        raise InputError(
            f"an example of the Dataset is {described(wrong)}, not (picture, target)",
            path=path,
            value=name,
            remedy="return a Dataset whose examples are pairs",
        )
    names = getattr(dataset, "classes", None)
    found = {"inputs": [x for x, _ in pairs], "targets": [y for _, y in pairs]}
    return found if names is None else {**found, "class_names": names}


def as_array(value: Any, what: str, path: str) -> NDArray[Any]:
    """An array of a tensor, a list of tensors, of arrays or of pictures; an array stays itself.

    Args:
        value: what the user gave.
        what: its name, such as ``inputs``.
        path: where the factory stands in the experiment, for messages.

    Raises:
        InputError: it is none of them, or its parts are of different shapes.
    """
    if isinstance(value, Tensor):
        return of_tensor(value)
    parts = value if isinstance(value, tuple | list) else []
    if any(isinstance(part, Image.Image) for part in parts):
        value = _of_pictures(parts, what, path)
    elif any(isinstance(part, Tensor) for part in parts):
        value = [of_tensor(p) if isinstance(p, Tensor) else np.asarray(p) for p in parts]
    if isinstance(value, tuple | list):
        _refuse_ragged([p.shape for p in value if isinstance(p, np.ndarray)], what, path)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        ragged = "inhomogeneous" in str(error)
        raise InputError(
            f"{what} have different sizes" if ragged else f"{what} are no array: {error}",
            path=path,
            value=Words(described(value)),
            remedy=f"return {what} as one array",
        ) from None
    if array.dtype.kind not in "biufcUS" and not _is_text(array):
        raise InputError(
            f"{what} are no array of numbers",
            path=path,
            value=Words(described(value)),
            remedy=f"return {what} as a NumPy array or a torch tensor",
        )
    return array


def _is_text(array: NDArray[Any]) -> bool:
    """Whether an array of objects holds strings, as a column of pandas does."""
    return array.ndim == 1 and len(array) > 0 and all(isinstance(v, str) for v in array)


def _of_pictures(parts: Sequence[Any], what: str, path: str) -> list[NDArray[np.uint8]]:
    """Pictures of Pillow as arrays (C, H, W): grey if all are, else RGB."""
    modes = {part.mode if isinstance(part, Image.Image) else described(part) for part in parts}
    if not all(isinstance(part, Image.Image) for part in parts) or modes & DEEP:
        raise InputError(
            f"{what} are a list of pictures with others than of 8 bits in it",
            path=path,
            value=sorted(modes),
            remedy="convert all of them in the factory, such as by picture.convert('RGB')",
        )
    _refuse_ragged([(part.height, part.width) for part in parts], what, path)
    if modes <= GREY:
        return [np.asarray(part.convert("L"), np.uint8)[None] for part in parts]
    return [np.moveaxis(np.asarray(part.convert("RGB"), np.uint8), -1, 0) for part in parts]


def _refuse_ragged(shapes: Sequence[tuple[int, ...]], what: str, path: str) -> None:
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise InputError(
            f"{what} are pictures of different sizes"
            if what.endswith("inputs")
            else f"{what} have different shapes",
            path=path,
            value=(shapes[0], other),
            remedy="scale or crop all of them to one size in the factory",
        )
