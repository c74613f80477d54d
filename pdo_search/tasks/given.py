"""Pictures that a user's function returns: what they must be. Splitting comes later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdo_search.config.schema import DataConfig
from pdo_search.errors import InputError
from pdo_search.tasks.factory import call_factory, load_factory

__all__ = ["Given", "given_arrays"]


class Given(NamedTuple):
    """What a data factory gave.

    Attributes:
        inputs: (N, C, H, W) uint8 or float32.
        labels: (N,) int64, -1 for no label.
        class_names: names by label.
        test_inputs: its own test split, or None.
        test_labels: those of the test split.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test_inputs: NDArray[Any] | None = None
    test_labels: NDArray[np.int64] | None = None


def given_arrays(config: DataConfig, path: str, base_dir: Path | None) -> Given:
    """Call a data factory and check what it returns.

    Args:
        config: names the factory and its arguments.
        path: where it stands in the experiment, such as ``task.data``.
        base_dir: folder whose modules are the user's.

    Raises:
        InputError: the factory cannot be used, or its result is not what it should be.
    """
    where = f"{path}.source"
    function = load_factory(config.source, where, base_dir)
    result = call_factory(function, config.args, name=config.source, path=where)
    if isinstance(result, tuple | list) and len(result) in (2, 3):
        result = dict(zip(("inputs", "targets", "class_names"), result, strict=False))
    if not isinstance(result, Mapping) or not {"inputs", "targets"} <= set(result):
        raise InputError(
            "the factory must return (inputs, targets[, class_names]), or a mapping with inputs,"
            " targets and optionally class_names, test_inputs, test_targets",
            path=where,
            value=config.source,
        )
    inputs, labels = _checked(result["inputs"], result["targets"], where)
    names = tuple(str(n) for n in result.get("class_names", ()))
    names = names or tuple(str(k) for k in range(int(labels.max()) + 1))
    if labels.max() >= len(names) or labels.min() < -1:
        raise InputError(
            f"targets must lie in -1…{len(names) - 1}",
            path=where,
            value=(int(labels.min()), int(labels.max())),
        )
    if "test_inputs" in result:
        return Given(
            inputs, labels, names, *_checked(result["test_inputs"], result["test_targets"], where)
        )
    return Given(inputs, labels, names)


def _checked(inputs: Any, targets: Any, where: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    inputs, labels = np.asarray(inputs), np.asarray(targets)
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.ndim != 4 or labels.shape != (len(inputs),):
        raise InputError(
            "inputs must have the shape (N, C, H, W) or (N, H, W), and targets (N,)",
            path=where,
            value=(inputs.shape, labels.shape),
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError("targets must be whole numbers", path=where, value=str(labels.dtype))
    if inputs.dtype != np.uint8:
        inputs = inputs.astype(np.float32)
        if not np.isfinite(inputs).all():
            raise InputError("inputs hold NaN or infinity", path=where)
    return inputs, labels.astype(np.int64)
