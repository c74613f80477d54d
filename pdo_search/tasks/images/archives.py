"""Data sets as their makers publish them: idx files (Fashion-MNIST) and CIFAR's batches.

From a folder, an installed package or the network. No file is unpickled without restricting what
may be built.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig
from pdo_search.store import Store
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.pictures import Labelled, Pictures

__all__ = ["DEBIAN_FASHION_MNIST", "FASHION_FILES", "cifar", "fashion_mnist", "given_folder"]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path.home() / ".cache" / "pdo_search" / "datasets"
MAX_IDX_BYTES = 1 << 30
"""Of an idx file's content: the largest known one, EMNIST's, has half of it."""
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


def given_folder(config: DataConfig, path: str, base_dir: Path | None) -> Path | None:
    """The folder that a source names; None where it names none.

    Raises:
        InputError: there is none, it is a file, or the system does not let it be read.
    """
    if config.path is None:
        return None
    folder = (base_dir or Path.cwd()) / config.path
    try:
        there, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:  # No permission, or a name too long.
        raise InputError(
            f"cannot be read: {error.strerror}",
            path=f"{path}.path",
            value=str(folder),
            remedy="correct the path, or the permissions of the folders that lead there",
        ) from None
    if not there:
        raise InputError(
            "no such folder", path=f"{path}.path", value=str(folder), remedy="correct the path"
        )
    if not is_folder:
        packed = folder.suffix.lower() in PACKED
        raise InputError(
            "is a file, not a folder",
            path=f"{path}.path",
            value=str(folder),
            remedy="unpack it, and name the folder" if packed else "name the folder that holds it",
        )
    return folder


FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def fashion_mnist(
    config: DataConfig, path: str, base_dir: Path | None, store: Store | None
) -> Pictures:
    """Fashion-MNIST: from a folder, from Debian's package, or downloaded.

    Raises:
        InputError: it is missing or damaged.
    """
    given = given_folder(config, path, base_dir)
    places = [given] if given else [DEBIAN_FASHION_MNIST, CACHE]
    places += [place / "FashionMNIST" / "raw" for place in places]
    folder = next((p for p in places if _idx_file(p, FASHION_FILES[0])), None)
    if folder is None:
        if given:
            raise InputError(
                f"holds no {FASHION_FILES[0]}[.gz]", path=f"{path}.path", value=str(given)
            )
        _download("FashionMNIST", config, path, "install Debian's dataset-fashion-mnist, or")
        folder = CACHE / "FashionMNIST" / "raw"
    images, labels, test_images, test_labels = (
        _read_idx(folder, name, dimensions)
        for name, dimensions in zip(FASHION_FILES, (3, 1, 3, 1), strict=True)
    )
    for inputs, marks in ((images, labels), (test_images, test_labels)):
        if len(inputs) != len(marks) or not len(marks) or marks.max() >= len(FASHION_CLASSES):
            raise InputError(
                "its pictures and labels do not belong together", file=folder,
                remedy="fetch the files again",
            )  # fmt: skip
    train = Labelled(images[:, None], labels.astype(np.int64))
    test = Labelled(test_images[:, None], test_labels.astype(np.int64))
    return Pictures({Split.TRAIN: train, Split.TEST: test}, FASHION_CLASSES)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An idx file: magic, big-endian sizes, bytes (yann.lecun.com/exdb/mnist).

    No more is unpacked than the sizes say, and no sizes beyond reason are believed.
    """
    file = _idx_file(folder, name)
    if file is None:
        raise InputError("the file is missing", file=folder / name, remedy="complete the folder")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            head = stream.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)):
                raise ValueError(f"it does not begin as one of {dimensions} dimensions does")
            shape = [int(size) for size in np.frombuffer(head, ">u4", dimensions, 4)]
            if math.prod(shape) > MAX_IDX_BYTES:
                raise ValueError(f"it claims {math.prod(shape):,} bytes, over {MAX_IDX_BYTES:,}")
            content = stream.read(math.prod(shape) + 1)
        return np.frombuffer(content, np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"is not a whole idx file: {error}", file=file, remedy="fetch the file again"
        ) from None


def cifar(config: DataConfig, path: str, base_dir: Path | None, store: Store | None) -> Pictures:
    """CIFAR-10 or CIFAR-100: from a folder, or downloaded.

    Raises:
        InputError: it is missing or damaged.
    """
    name, kind = ("cifar-10-batches-py", "CIFAR10")
    train, test, key = [f"data_batch_{i}" for i in range(1, 6)], "test_batch", b"labels"
    meta, names_key = "batches.meta", b"label_names"
    if config.source == "cifar100":
        name, kind, train, test, key = (
            "cifar-100-python",
            "CIFAR100",
            ["train"],
            "test",
            b"fine_labels",
        )
        meta, names_key = "meta", b"fine_label_names"
    given = given_folder(config, path, base_dir)
    root = given or CACHE
    folder = next((p for p in (root, root / name) if (p / test).is_file()), None)
    if folder is None:
        if given:
            raise InputError(
                f"holds no {name}/{test}", path=f"{path}.path", value=str(given),
                remedy=f"unpack the python version of {config.source} there",
            )  # fmt: skip
        _download(kind, config, path, "")
        folder = CACHE / name
    parts = [_read_cifar(folder / file, key) for file in train]
    test_inputs, test_labels = _read_cifar(folder / test, key)
    names = _safe_pickle(folder / meta).get(names_key)
    if not isinstance(names, list) or not all(isinstance(n, bytes) for n in names):
        raise InputError("holds no class names", file=folder / meta, remedy="fetch the file again")
    labels = np.concatenate([p[1] for p in parts])
    if max(labels.max(), test_labels.max()) >= len(names):
        raise InputError("labels beyond its classes", file=folder, remedy="fetch the files again")
    own = {
        Split.TRAIN: Labelled(np.concatenate([p[0] for p in parts]), labels),
        Split.TEST: Labelled(test_inputs, test_labels),
    }
    return Pictures(own, tuple(n.decode(errors="replace") for n in names))


def _read_cifar(file: Path, key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _safe_pickle(file)
    inputs, labels = batch.get(b"data"), batch.get(key)
    # Lists in lists that repeat each other could make billions of numbers out of a small file.
    if not isinstance(inputs, np.ndarray) or inputs.dtype != np.uint8:
        raise InputError("is not a CIFAR batch: no pictures", file=file)
    if inputs.ndim != 2 or inputs.shape[1] != 3072:
        raise InputError("is not a CIFAR batch: no pictures of 3072 bytes", file=file)
    if not isinstance(labels, list) or not all(type(k) is int and 0 <= k < 1000 for k in labels):
        raise InputError(f"is not a CIFAR batch: no list of {key.decode()}", file=file)
    if not len(labels) == len(inputs) > 0:
        raise InputError("is not a CIFAR batch: pictures and labels differ in number", file=file)
    return inputs.reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds NumPy arrays and plain containers and nothing else."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _safe_pickle(file: Path) -> Mapping[bytes, Any]:
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except FileNotFoundError:
        raise InputError("the file is missing", file=file, remedy="complete the folder") from None
    except Exception as error:
        raise InputError(
            f"is not a CIFAR batch: {error}", file=file, remedy="fetch the file again"
        ) from None
    if not isinstance(content, dict):
        raise InputError("is not a CIFAR batch: no dictionary", file=file)
    return content


def _download(kind: str, config: DataConfig, path: str, instead: str) -> None:
    """Fetch a torchvision data set into the cache."""
    from torchvision import datasets

    remedy = f"{instead} give its folder as {path}.path".strip()
    if not config.download:
        raise InputError("not on this machine, and download is off", path=path, remedy=remedy)
    try:
        getattr(datasets, kind)(str(CACHE), download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{config.source} is not on this machine and cannot be downloaded: {error}",
            path=f"{path}.source",
            value=config.source,
            remedy=remedy,
        ) from None
