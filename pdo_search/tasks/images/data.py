"""Sources of labelled pictures: from the disk, from an installed package, or downloaded.

Every source returns plain arrays; splitting, normalising and augmenting come later. No source ever
unpickles a file without restricting what may be built.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.base.factory import is_factory
from pdo_search.config.task import DataConfig
from pdo_search.store import Store
from pdo_search.tasks.base import Split
from pdo_search.tasks.contents import Hashes
from pdo_search.tasks.images.archives import cifar, fashion_mnist, given_folder
from pdo_search.tasks.images.decode import decoded_pictures
from pdo_search.tasks.images.decode import read_picture as _read_picture  # noqa: F401
from pdo_search.tasks.images.folders import find_pictures, flat_folder
from pdo_search.tasks.images.given import given_arrays
from pdo_search.tasks.images.pictures import Pictures
from pdo_search.tasks.splits import stratified_subset

__all__ = ["SOURCES", "Pictures", "load_pictures"]

DEFAULT_FOLDER_SIZE = 64


def load_pictures(
    config: DataConfig,
    *,
    path: str,
    base_dir: Path | None,
    seed: int,
    store: Store | None = None,
) -> Pictures:
    """Load a source.

    Args:
        config: which source.
        path: where it stands in the experiment, such as ``task.data``.
        base_dir: folder that relative paths refer to.
        seed: of the subset, where ``limit`` is set.
        store: keeps the decoded pictures of ``image_folder``, mapped into memory by all processes
            that use them; None decodes them into this process's memory.

    Raises:
        InputError: the source is unknown, missing, damaged, or not what it should be.
    """
    if is_factory(config.source):
        pictures = Pictures(*given_arrays(config, path, base_dir))
    elif config.source in SOURCES:
        pictures = SOURCES[config.source](config, path, base_dir, store)
    else:
        near = difflib.get_close_matches(config.source, SOURCES, n=1)
        raise InputError(
            "unknown data source",
            path=f"{path}.source",
            value=config.source,
            remedy=f"did you mean {near[0]!r}?"
            if near
            else f"known: {', '.join(SOURCES)}, or module:function",
        )
    if config.size is not None and pictures.inputs.shape[-1] != config.size:
        pictures = _resized(pictures, config.size)
    if config.limit is not None and config.limit < len(pictures.labels):
        kept = stratified_subset(pictures.labels, config.limit, seed)
        inputs, labels = pictures.inputs[kept], pictures.labels[kept]
        hashes = None if pictures.hashes is None else pictures.hashes[kept]
        pictures = replace(pictures, inputs=inputs, labels=labels, digest=None, hashes=hashes)
    if not config.labelled:
        pictures = replace(pictures, labels=np.full(len(pictures.labels), -1))
    return pictures


def _digits(config: DataConfig, path: str, base_dir: Path | None, store: Store | None) -> Pictures:
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return Pictures(inputs, data.target.astype(np.int64), tuple(str(d) for d in range(10)))


def _image_folder(
    config: DataConfig, path: str, base_dir: Path | None, store: Store | None
) -> Pictures:
    folder = given_folder(config, path, base_dir)
    if folder is None:
        raise InputError("image_folder needs a path", path=f"{path}.path", remedy="name the folder")
    find = find_pictures if config.labelled else flat_folder
    found = find(folder, f"{path}.path")
    size, skip = config.size or DEFAULT_FOLDER_SIZE, config.on_error == "skip"
    decoded = decoded_pictures(found.splits, size, store, skip=skip, path=path)
    labels = {split: np.asarray(part.labels, np.int64) for split, part in decoded.parts.items()}
    for split, own in labels.items():
        for label, name in enumerate(found.names):
            if label not in own:
                raise InputError(
                    f"class {name!r} of {split.value} has no picture that can be read",
                    path=f"{path}.path",
                    value=str(folder),
                    remedy="repair its pictures, or remove the class",
                )

    def of(split: Split) -> tuple[NDArray[Any] | None, NDArray[np.int64] | None, Hashes | None]:
        part = decoded.parts.get(split)
        return (None, None, None) if part is None else (part.inputs, labels[split], part.hashes)

    train = decoded.parts[Split.TRAIN]
    test, test_labels, test_hashes = of(Split.TEST)
    validation, validation_labels, validation_hashes = of(Split.VALIDATION)
    return Pictures(
        train.inputs, labels[Split.TRAIN], found.names, test, test_labels, decoded.digest,
        train.hashes, test_hashes, validation, validation_labels, validation_hashes,
        (*found.left_out, *decoded.left_out),
    )  # fmt: skip


def _resized(pictures: Pictures, size: int) -> Pictures:
    import torch
    from torch.nn import functional as F

    def scale(inputs: NDArray[Any]) -> NDArray[Any]:
        floats = torch.from_numpy(np.ascontiguousarray(inputs)).float()
        scaled = F.interpolate(floats, (size, size), mode="bilinear", antialias=True).numpy()
        return np.rint(scaled).astype(np.uint8) if inputs.dtype == np.uint8 else scaled

    test, validation = pictures.test_inputs, pictures.validation_inputs
    return replace(
        pictures,
        inputs=scale(pictures.inputs),
        test_inputs=None if test is None else scale(test),
        validation_inputs=None if validation is None else scale(validation),
        hashes=None,
        test_hashes=None,
        validation_hashes=None,
    )


SOURCES: dict[str, Callable[[DataConfig, str, Path | None, Store | None], Pictures]] = {
    "digits": _digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar,
    "cifar100": cifar,
    "image_folder": _image_folder,
}
