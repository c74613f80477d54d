"""Sources of labelled pictures: from the disk, from an installed package, or downloaded.

Every source returns plain arrays; splitting, normalising and augmenting come later. No source ever
unpickles a file without restricting what may be built.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pdo_search.base.errors import InputError
from pdo_search.base.factory import is_factory
from pdo_search.config.task import DataConfig
from pdo_search.store import Store
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.archives import cifar, fashion_mnist, given_folder
from pdo_search.tasks.images.decode import decoded_pictures
from pdo_search.tasks.images.folders import find_pictures, flat_folder
from pdo_search.tasks.images.given import given_pictures
from pdo_search.tasks.images.pictures import Labelled, Pictures
from pdo_search.tasks.splits import stratified_subset

__all__ = ["SOURCES", "load_pictures"]

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
        pictures = given_pictures(config, path, base_dir)
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
    if config.size is not None and pictures.train.inputs.shape[-1] != config.size:
        parts = {split: _resized(part, config.size) for split, part in pictures.parts.items()}
        pictures = replace(pictures, parts=parts)
    train = pictures.train
    if config.limit is not None and config.limit < len(train.labels):
        kept = stratified_subset(train.labels, config.limit, seed)
        hashes = None if train.hashes is None else train.hashes[kept]
        train = Labelled(train.inputs[kept], train.labels[kept], hashes)
        pictures = replace(pictures, digest=None)
    if not config.labelled:
        train = replace(train, labels=np.full(len(train.labels), -1))
    return replace(pictures, parts={**pictures.parts, Split.TRAIN: train})


def _digits(config: DataConfig, path: str, base_dir: Path | None, store: Store | None) -> Pictures:
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    train = Labelled(inputs, data.target.astype(np.int64))
    return Pictures({Split.TRAIN: train}, tuple(str(d) for d in range(10)))


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
    for split, part in decoded.parts.items():
        for label, name in enumerate(found.names):
            if label not in part.labels:
                raise InputError(
                    f"class {name!r} of {split.value} has no picture that can be read",
                    path=f"{path}.path",
                    value=str(folder),
                    remedy="repair its pictures, or remove the class",
                )
    left_out = (*found.left_out, *decoded.left_out)
    return Pictures(decoded.parts, found.names, decoded.digest, left_out)


def _resized(part: Labelled, size: int) -> Labelled:
    import torch
    from torch.nn import functional as F

    floats = torch.from_numpy(np.ascontiguousarray(part.inputs)).float()
    scaled = F.interpolate(floats, (size, size), mode="bilinear", antialias=True).numpy()
    are_bytes = part.inputs.dtype == np.uint8
    return Labelled(np.rint(scaled).astype(np.uint8) if are_bytes else scaled, part.labels)


SOURCES: dict[str, Callable[[DataConfig, str, Path | None, Store | None], Pictures]] = {
    "digits": _digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar,
    "cifar100": cifar,
    "image_folder": _image_folder,
}
