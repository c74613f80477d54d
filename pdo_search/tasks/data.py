"""Sources of labelled pictures: from the disk, from an installed package, or downloaded.

Every source returns plain arrays; splitting, normalising and augmenting come later. No source ever
unpickles a file without restricting what may be built.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pdo_search.config.schema import DataConfig
from pdo_search.errors import InputError
from pdo_search.store import Store
from pdo_search.tasks.contents import HASH, Hashes, hasher
from pdo_search.tasks.factory import is_factory
from pdo_search.tasks.given import given_arrays
from pdo_search.tasks.splits import stratified_subset

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SOURCES", "Pictures", "load_pictures"]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path.home() / ".cache" / "pdo_search" / "datasets"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
DEFAULT_FOLDER_SIZE = 64
MAPPED_BYTES = 1 << 25
"""Decoded pictures of this size take seconds to decode: from here on the store keeps them."""
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""Pillow goes by content, not by name, and would pass a PostScript file on to Ghostscript."""
MAX_IDX_BYTES = 1 << 30
"""Of an idx file's content: the largest known one, EMNIST's, has half of it."""


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
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test_inputs: NDArray[Any] | None = None
    test_labels: NDArray[np.int64] | None = None
    digest: str | None = None
    hashes: Hashes | None = None
    test_hashes: Hashes | None = None


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


def _folder(config: DataConfig, path: str, base_dir: Path | None) -> Path | None:
    if config.path is None:
        return None
    folder = (base_dir or Path.cwd()) / config.path
    if not folder.exists():
        raise InputError(
            "no such folder", path=f"{path}.path", value=str(folder), remedy="correct the path"
        )
    return folder


def _digits(config: DataConfig, path: str, base_dir: Path | None, store: Store | None) -> Pictures:
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return Pictures(inputs, data.target.astype(np.int64), tuple(str(d) for d in range(10)))


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


def _fashion_mnist(
    config: DataConfig, path: str, base_dir: Path | None, store: Store | None
) -> Pictures:
    given = _folder(config, path, base_dir)
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
    return Pictures(
        images[:, None], labels.astype(np.int64), FASHION_CLASSES,
        test_images[:, None], test_labels.astype(np.int64),
    )  # fmt: skip


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


def _cifar(config: DataConfig, path: str, base_dir: Path | None, store: Store | None) -> Pictures:
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
    given = _folder(config, path, base_dir)
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
    return Pictures(
        np.concatenate([p[0] for p in parts]),
        labels,
        tuple(n.decode(errors="replace") for n in names),
        test_inputs,
        test_labels,
    )


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


def _image_folder(
    config: DataConfig, path: str, base_dir: Path | None, store: Store | None
) -> Pictures:
    folder = _folder(config, path, base_dir)
    if folder is None:
        raise InputError("image_folder needs a path", path=f"{path}.path", remedy="name the folder")
    train = folder / "train" if (folder / "train").is_dir() else folder
    names = tuple(sorted(p.name for p in train.iterdir() if p.is_dir()))
    if len(names) < 2:
        raise InputError(
            "needs one sub-folder of pictures per class, two classes at least",
            path=f"{path}.path",
            value=str(train),
        )
    size = config.size or DEFAULT_FOLDER_SIZE
    parts = {"train": _picture_files(train, names)}
    test = folder / "test"
    if train != folder and test.is_dir():
        parts["test"] = _picture_files(test, names)
    arrays, hashes, digest = _decoded(parts, size, store)
    labels = {
        part: np.asarray([label for _, label in files], np.int64) for part, files in parts.items()
    }
    return Pictures(
        arrays["train"], labels["train"], names, arrays.get("test"), labels.get("test"), digest,
        hashes["train"], hashes.get("test"),
    )  # fmt: skip


PictureFiles = list[tuple[Path, int]]


def _picture_files(folder: Path, names: tuple[str, ...]) -> PictureFiles:
    """All picture files of a folder with their labels, in a fixed order."""
    found = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise InputError("holds no pictures", file=folder, remedy="check the path")
    return found


def _decoded(
    parts: Mapping[str, PictureFiles], size: int, store: Store | None
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, Hashes], str | None]:
    """Pictures (N, 3, size, size) by part, their hashes, the checksums of the files that hold them.

    With a store, more than a few are decoded once and mapped into memory: they may be larger. So
    their hashes are kept with them, and no process reads them all to find copies.
    """
    shapes = {part: (len(files), 3, size, size) for part, files in parts.items()}
    if store is None or sum(map(math.prod, shapes.values())) < MAPPED_BYTES:
        arrays = {part: np.empty(shape, np.uint8) for part, shape in shapes.items()}
        return arrays, {part: _decode(files, arrays[part]) for part, files in parts.items()}, None

    def build(directory: Path) -> None:
        for part, files in parts.items():
            file = directory / f"{part}.npy"
            array = open_memmap(file, "w+", np.uint8, shapes[part])
            with file.open("r+b") as stream:
                # A full disk is an error here, and the death of the process in a mapping.
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
            hashes = _decode(files, array)
            array.flush()
            np.save(directory / f"{part}.hashes.npy", hashes, allow_pickle=False)

    listing = hashlib.sha256()
    for part, files in parts.items():
        for file, label in files:
            seen = file.stat()
            listing.update(
                f"{part}\0{file}\0{label}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode()
            )
    key = {"files": listing.hexdigest(), "size": size, "hashes": 1}
    found = store.get_or_build("pictures", key, build)
    arrays = {part: np.load(found.path / f"{part}.npy", mmap_mode="c") for part in parts}
    hashes = {part: np.load(found.path / f"{part}.hashes.npy") for part in parts}
    manifest = json.loads((found.path / "manifest.json").read_text(encoding="utf-8"))
    # By content: the same pictures elsewhere are the same task, with the same teachers.
    checksums = {name: manifest["files"][name] for name in (f"{part}.npy" for part in parts)}
    return arrays, hashes, json.dumps(checksums, sort_keys=True)


def _decode(files: PictureFiles, into: NDArray[np.uint8]) -> Hashes:
    """Decode, scale and hash pictures, on all cores: Pillow lets go of the interpreter meanwhile.

    Returns:
        The hashes (N,) of what is decoded.

    Raises:
        InputError: names the first file that is no picture.
    """
    from PIL import Image

    size = into.shape[-1]
    hash_of, hashes = hasher(into.shape[1:], into.dtype), np.empty(len(files), HASH)

    def decode(row: int) -> None:
        file = files[row][0]
        try:
            small = _read_picture(file).resize((size, size), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:  # Whatever Pillow makes of arbitrary bytes.
            raise InputError(
                f"is not a picture that can be read: {error}",
                file=file,
                remedy="repair or remove it",
            ) from None
        picture = np.ascontiguousarray(np.asarray(small, np.uint8).transpose(2, 0, 1))
        into[row], hashes[row] = picture, hash_of(picture)

    # Warnings are the process's, not a thread's.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for _ in pool.map(decode, range(len(files))):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return hashes


def _read_picture(file: Path) -> Image.Image:
    """An RGB picture.

    Raises:
        Exception: of many kinds, whatever arbitrary bytes make of Pillow. A picture of more pixels
            than ``Image.MAX_IMAGE_PIXELS`` (89 million) warns before it is unpacked.
    """
    from PIL import Image

    if not file.is_file():
        raise ValueError("it is no regular file")
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        return image.convert("RGB")


def _resized(pictures: Pictures, size: int) -> Pictures:
    import torch
    from torch.nn import functional as F

    def scale(inputs: NDArray[Any]) -> NDArray[Any]:
        floats = torch.from_numpy(np.ascontiguousarray(inputs)).float()
        scaled = F.interpolate(floats, (size, size), mode="bilinear", antialias=True).numpy()
        return np.rint(scaled).astype(np.uint8) if inputs.dtype == np.uint8 else scaled

    test = pictures.test_inputs
    return replace(
        pictures,
        inputs=scale(pictures.inputs),
        test_inputs=None if test is None else scale(test),
        hashes=None,
        test_hashes=None,
    )


SOURCES: dict[str, Callable[[DataConfig, str, Path | None, Store | None], Pictures]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "image_folder": _image_folder,
}
