"""Pictures that a user's function returns: what they must be. Splitting comes later."""

from __future__ import annotations

import logging
import math
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.base.factory import call_factory, load_factory
from pdo_search.base.user_code import user_code
from pdo_search.config.task import DataConfig
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.arrays import as_array, fields_of
from pdo_search.tasks.images.pictures import Labelled, Pictures
from pdo_search.tasks.values import described

__all__ = ["given_pictures"]

log = logging.getLogger(__name__)

CHUNK = 1_024
CHANNELS_LAST = (1, 3, 4)
SHOWN = 6
MIDDLE, BRIGHT = 128, 255
OTHER_SCALE = 20
"""Two splits of the same pictures do not differ so much in their largest value."""


def given_pictures(config: DataConfig, path: str, base_dir: Path | None) -> Pictures:
    """Call a data factory and check what it returns.

    Args:
        config: names the factory and its arguments.
        path: where it stands in the experiment, such as ``task.data``. The classes of ``task.data``
            must be complete; another source may lack some of them.
        base_dir: folder whose modules are the user's.

    Raises:
        InputError: the factory cannot be used, or its result is not what it should be.
    """
    where = f"{path}.source"
    function = load_factory(config.source, where, base_dir)
    # A generator that the factory seeds, or draws from, goes on as if it had not been called.
    with torch.random.fork_rng(devices=[]):
        result = call_factory(function, config.args, name=config.source, path=where)
        with user_code(config.source, where):  # A Dataset loads its examples here.
            found = fields_of(result, config.source, where)
            names = _names(found.pop("class_names", None), where)
            arrays = {what: as_array(value, what, where) for what, value in found.items()}
    part = _checked(arrays["inputs"], arrays["targets"], "", where)
    if part.low == part.high:
        raise InputError(
            f"all inputs are {part.low:g} everywhere: there is nothing to learn from",
            path=where,
            value=part.inputs.shape,
            remedy="see that the factory reads its pictures, and does not round floats of 0 to 1"
            " to bytes",
        )
    if path == "task.data" and config.labelled:
        _refuse_incomplete(part.labels, names, where)
    names = names or tuple(str(k) for k in range(int(part.labels.max()) + 1))
    _refuse_unknown(part.labels, names, "targets", where)
    _warn_of_scale(part, where)
    parts = {Split.TRAIN: Labelled(part.inputs, part.labels)}
    if "test_inputs" not in arrays:
        return Pictures(parts, names)
    test = _checked(arrays["test_inputs"], arrays["test_targets"], "test_", where)
    _refuse_other(test, part, where)
    _refuse_unknown(test.labels, names, "test_targets", where)
    parts[Split.TEST] = Labelled(test.inputs, test.labels)
    return Pictures(parts, names)


class _Part(NamedTuple):
    """A split's pictures and labels, the type they were given in, their least and largest value."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    dtype: np.dtype[Any]
    low: float
    high: float


def _names(given: Any, where: str) -> tuple[str, ...]:
    """Names by label, () where there are none.

    Raises:
        InputError: they are no list of names.
    """
    if given is None:
        return ()
    if isinstance(given, str | bytes | dict) or not hasattr(given, "__iter__"):
        raise InputError(
            f"class_names must be a list of names, one by one for targets 0, 1, …; they are"
            f" {described(given)}",
            path=where,
            value=given,
            remedy="return them as a list, or leave them out",
        )
    names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in given)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"class_names has {twice[0]!r} twice",
            path=where,
            value=names[:SHOWN],
            remedy="give every class a name of its own",
        )
    hidden = [name for name in names if not name.isprintable()]
    if hidden:
        raise InputError(
            "a class's name has a character that cannot be shown",
            path=where,
            value=hidden[0],
            remedy="return names of one line, such as by ' '.join(name.split())",
        )
    return names


def _checked(inputs: NDArray[Any], targets: NDArray[Any], prefix: str, where: str) -> _Part:
    """Pictures (N, C, H, W) and labels (N,) of what was given for a split."""
    if inputs.ndim == 1 and targets.ndim > 2:
        raise InputError(
            "inputs and targets have changed places",
            path=where,
            value=(inputs.shape, targets.shape),
            remedy="return inputs first: inputs, targets",
        )
    pictures = _pictures(inputs, f"{prefix}inputs", where)
    labels = _labels(targets, f"{prefix}targets", where)
    if len(pictures) != len(labels):
        raise InputError(
            f"there are {len(pictures):,} {prefix}inputs and {len(labels):,} {prefix}targets",
            path=where,
            value=(inputs.shape, targets.shape),
            remedy="return one target for each picture",
        )
    low, high = _range(pictures, f"{prefix}inputs", where)
    return _Part(pictures, labels, inputs.dtype, low, high)


def _pictures(inputs: NDArray[Any], what: str, where: str) -> NDArray[Any]:
    """Pictures (N, C, H, W), uint8 or float32.

    Raises:
        InputError: they are none.
    """
    refused = partial(InputError, path=where, value=(inputs.shape, str(inputs.dtype)))
    if inputs.dtype.kind not in "biuf":
        raise refused(
            f"{what} are {'complex numbers' if inputs.dtype.kind == 'c' else 'text'}, not pictures",
            remedy="read the pictures' files in the factory, and return whole or real numbers",
        )
    if inputs.ndim == 0 or len(inputs) == 0:
        raise refused(f"{what} hold no examples", remedy="see that the factory finds its files")
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.ndim != 4 or 0 in inputs.shape:
        raise refused(
            f"{what} must have the shape (N, C, H, W) or (N, H, W)",
            remedy=_reshaped(inputs, what),
        )
    rows, columns, last = inputs.shape[1:]
    if last in CHANNELS_LAST and min(rows, columns) > max(CHANNELS_LAST):
        raise refused(
            f"{what} of the shape {inputs.shape} look like (N, H, W, C), not (N, C, H, W)",
            remedy=f"return np.moveaxis({what}, -1, 1); of a tensor, {what}.permute(0, 3, 1, 2)",
        )
    if inputs.dtype == np.uint8:
        return inputs
    with np.errstate(over="ignore"):  # Infinity is refused in words.
        return inputs.astype(np.float32, copy=False)


def _reshaped(inputs: NDArray[Any], what: str) -> str:
    """What to do about a shape that no pictures have."""
    if inputs.ndim == 2:
        for channels in (1, 3):
            edge = math.isqrt(inputs.shape[1] // channels)
            if edge > 1 and channels * edge * edge == inputs.shape[1]:
                return f"return {what}.reshape(-1, {channels}, {edge}, {edge})"
    return "return one picture of channels, rows and columns per example"


def _range(inputs: NDArray[Any], what: str, where: str) -> tuple[float, float]:
    """The least and the largest value, found in parts: no copy of many pictures is made.

    Raises:
        InputError: a value is no number.
    """
    low, high = math.inf, -math.inf
    for first in range(0, len(inputs), CHUNK):
        part = inputs[first : first + CHUNK]
        least, largest = float(part.min()), float(part.max())
        if not math.isfinite(least + largest):
            wrong = ~np.isfinite(part).reshape(len(part), -1).all(1)
            raise InputError(
                f"{what} hold NaN or infinity, or numbers that float32 cannot hold, first in"
                f" example {first + int(wrong.argmax())}",
                path=where,
                value=(least, largest),
                remedy="replace them, such as by np.nan_to_num, or leave these examples out",
            )
        low, high = min(low, least), max(high, largest)
    return low, high


def _labels(targets: NDArray[Any], what: str, where: str) -> NDArray[np.int64]:
    """Labels (N,).

    Raises:
        InputError: they are not whole numbers, or not one per example.
    """
    refused = partial(InputError, path=where, value=(targets.shape, str(targets.dtype)))
    if targets.dtype.kind in "USO":
        raise refused(
            f"{what} are text, such as {str(targets.flat[0])!r}; they must be whole numbers"
            if targets.size
            else f"{what} are empty",
            remedy=f"names, {what} = np.unique({what}, return_inverse=True), and return"
            " (inputs, targets, names)",
        )
    if targets.ndim != 1:
        one_hot = targets.ndim == 2 and targets.shape[1] > 1
        if one_hot and ((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all():
            raise refused(f"{what} are one-hot, not (N,)", remedy=f"return {what}.argmax(1)")
        flat = targets.ndim > 0 and targets.size == len(targets)
        raise refused(
            f"{what} must have the shape (N,): one class per example",
            remedy=f"return {what}.reshape(-1)" if flat else "return the number of the class",
        )
    if targets.dtype.kind not in "biu":
        whole = targets.dtype.kind == "f" and (targets == np.floor(targets)).all()
        raise refused(
            f"{what} must be whole numbers"
            + ("; these are floats without fractions" if whole else ""),
            remedy=f"return {what}.astype(int)" if whole else "return the number of the class",
        )
    return targets.astype(np.int64)


def _refuse_incomplete(labels: NDArray[np.int64], names: tuple[str, ...], where: str) -> None:
    """Refuse classes without examples, which nothing can be trained for.

    Raises:
        InputError: targets begin above 0, have gaps, or are all one.
    """
    seen = np.unique(labels[labels >= 0])
    renumber = "np.unique(targets, return_inverse=True)[1]"
    refused = partial(InputError, path=where, value=seen[:SHOWN].tolist())
    if not len(seen):
        raise refused(
            "all targets are negative, which is for examples without a label",
            remedy="return the numbers of their classes, from 0 on",
        )
    first, last = int(seen[0]), int(seen[-1])
    if first > 0 and last >= len(names):
        contiguous = last - first + 1 == len(seen) and len(names) in (0, len(seen))
        raise refused(
            f"targets begin at {first}, and classes are counted from 0",
            remedy=f"return targets - {first}" if contiguous else f"return {renumber}",
        )
    count = max(len(names), last + 1)
    if count == 1:
        raise refused("all targets are 0, and a classifier needs two classes", remedy="add one")
    if len(seen) == count or last >= len(names) > 0:
        return
    known = set(seen.tolist())
    gaps = list(islice((k for k in range(count) if k not in known), SHOWN))
    shown = ", ".join(f"{k} ({names[k]!r})" if names else str(k) for k in gaps)
    raise refused(
        f"targets have gaps: no example is of class {shown}"
        + (f" and {count - len(seen) - len(gaps):,} more" if count - len(seen) > SHOWN else ""),
        remedy="leave their names out of class_names and return " + renumber
        if names
        else f"return {renumber}",
    )


def _refuse_unknown(
    labels: NDArray[np.int64], names: tuple[str, ...], what: str, where: str
) -> None:
    """Refuse labels beyond the classes; a test split has no unlabelled examples, either."""
    lowest = -1 if what == "targets" else 0
    low, high = int(labels.min()), int(labels.max())
    if lowest <= low and high < len(names):
        return
    if low < lowest:
        remedy = f"leave out the examples whose {what} are below {lowest}"
    elif low >= 1 and high == len(names):
        remedy = f"return {what} - 1: classes are counted from 0"
    else:
        remedy = "give class_names one name for each class, and number the classes as they stand"
        remedy += " there"
    raise InputError(
        f"{what} must lie in {lowest}…{len(names) - 1}: there are {len(names)} classes",
        path=where,
        value=(low, high),
        remedy=remedy,
    )


def _warn_of_scale(part: _Part, where: str) -> None:
    """Warn of values that look like those of another type."""
    if part.dtype == np.uint8 and part.high <= 1:
        told = "bytes of 0 and 1: return floats, if they are masks"
    elif part.dtype != np.uint8 and part.low >= 0 and MIDDLE < part.high <= BRIGHT:
        told = (
            f"{part.dtype} from {part.low:g} to {part.high:g}: return inputs.astype(np.uint8), if"
            " they are bytes"
        )
    else:
        return
    log.warning(
        "%s: inputs are %s. Pre-trained weights take bytes of 0 to 255 or floats of 0 to 1",
        where,
        told,
    )


def _refuse_other(test: _Part, part: _Part, where: str) -> None:
    """Refuse a test split of other pictures than a model of the inputs takes.

    Raises:
        InputError: shape, type or scale differ.
    """
    shapes = test.inputs.shape[1:], part.inputs.shape[1:]
    if shapes[0] != shapes[1]:
        raise InputError(
            "test_inputs and inputs are pictures of different shapes",
            path=where,
            value=shapes,
            remedy="return both with the same channels, rows and columns",
        )
    largest = [max(abs(p.low), abs(p.high)) for p in (test, part)]
    same_type = (test.dtype == np.uint8) == (part.dtype == np.uint8)
    if same_type and max(largest) <= OTHER_SCALE * min(largest):
        return
    told = [f"{p.dtype} from {p.low:g} to {p.high:g}" for p in (test, part)]
    raise InputError(
        f"test_inputs are {told[0]}, inputs {told[1]}: another scale, on which a model fails",
        path=where,
        value=(str(test.dtype), str(part.dtype)),
        remedy="return both in the same type and scale, such as bytes of 0 to 255",
    )
