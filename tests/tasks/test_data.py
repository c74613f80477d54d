"""Data sources: real files where they are, small ones of the same format where they are not."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split
from pdo_search.tasks.images import archives, decode
from pdo_search.tasks.images.archives import DEBIAN_FASHION_MNIST, FASHION_FILES
from pdo_search.tasks.images.data import load_pictures
from pdo_search.tasks.images.pictures import Pictures

from ..pictures import of_pictures, pixels

RNG = np.random.default_rng(0)


def load(**settings: Any) -> Pictures:
    return load_pictures(DataConfig(**settings), path="task.data", base_dir=None, seed=0)


def write_idx(file: Path, array: NDArray[np.uint8]) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_fashion(folder: Path, suffix: str = "") -> list[NDArray[np.uint8]]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name in FASHION_FILES:
        size = 40 if name.startswith("train") else 20
        if "images" in name:
            array = RNG.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        else:
            array = (np.arange(size) % 10).astype(np.uint8)
        write_idx(folder / f"{name}{suffix}", array)
        arrays.append(array)
    return arrays


def cifar_batch(count: int, key: bytes) -> dict[bytes, Any]:
    return {
        b"data": RNG.integers(0, 256, (count, 3072), dtype=np.uint8),
        key: [i % 4 for i in range(count)],
    }


def write_cifar10(folder: Path) -> dict[bytes, Any]:
    folder.mkdir(parents=True)
    batches = {f"data_batch_{i}": cifar_batch(8, b"labels") for i in range(1, 6)}
    batches["test_batch"] = cifar_batch(12, b"labels")
    for name, batch in batches.items():
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names": [b"cat", b"dog", b"car", b"jet"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return batches["data_batch_1"]


def test_digits() -> None:
    pictures = load(source="digits")
    assert pictures.train.inputs.shape == (1797, 1, 8, 8)
    assert pictures.train.inputs.dtype == np.uint8
    assert pictures.train.inputs.max() == 255
    assert pictures.class_names == tuple("0123456789")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_from_a_folder_of_idx_files(tmp_path: Path, suffix: str) -> None:
    images, labels, test_images, _ = write_fashion(tmp_path, suffix)
    pictures = load(source="fashion_mnist", path=str(tmp_path))
    assert np.array_equal(pictures.train.inputs[:, 0], images)
    assert np.array_equal(pictures.train.labels, labels)
    assert np.array_equal(pictures.parts[Split.TEST].inputs[:, 0], test_images)


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_as_debian_packages_it() -> None:
    pictures = load(source="fashion_mnist")
    assert pictures.train.inputs.shape == (60_000, 1, 28, 28)
    assert np.bincount(pictures.train.labels).tolist() == [6000] * 10
    assert len(pictures.parts[Split.TEST].inputs) == 10_000


def test_a_torn_idx_file_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path, ".gz")
    torn = tmp_path / f"{FASHION_FILES[0]}.gz"
    torn.write_bytes(torn.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz.*not a whole idx file"):
        load(source="fashion_mnist", path=str(tmp_path))


def test_cifar10_from_its_python_files(tmp_path: Path) -> None:
    first = write_cifar10(tmp_path / "cifar-10-batches-py")
    pictures = load(source="cifar10", path=str(tmp_path))
    assert pictures.train.inputs.shape == (40, 3, 32, 32)
    assert np.array_equal(pictures.train.inputs[:8].reshape(8, -1), first[b"data"])
    assert pictures.class_names == ("cat", "dog", "car", "jet")
    assert pictures.parts[Split.TEST].labels.tolist() == [0, 1, 2, 3] * 3


def test_cifar100_from_its_python_files(tmp_path: Path) -> None:
    for name in ("train", "test"):
        batch = cifar_batch(8, b"fine_labels")
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"fine_label_names": [b"a", b"b", b"c", b"d"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    pictures = load(source="cifar100", path=str(tmp_path))
    assert pictures.train.inputs.shape == (8, 3, 32, 32)
    assert pictures.class_names == ("a", "b", "c", "d")


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_cifar_file_runs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps(Hostile(tmp_path / "owned")))
    with pytest.raises(InputError, match=r"data_batch_2.*it asks for posix\.mkdir"):
        load(source="cifar10", path=str(tmp_path))
    assert not (tmp_path / "owned").exists()


def write_pictures(folder: Path, count: int) -> None:
    from PIL import Image

    for index, name in enumerate(("apple", "pear")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shade = np.full((20, 30, 3), 40 + 100 * index + i, np.uint8)
            Image.fromarray(shade).save(folder / name / f"{i}.png")


def test_image_folder_with_classes_as_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", 5)
    write_pictures(tmp_path / "test", 2)
    pictures = load(source="image_folder", path=str(tmp_path), size=16)
    assert pictures.train.inputs.shape == (10, 3, 16, 16)
    assert pictures.class_names == ("apple", "pear")
    assert pictures.train.inputs[pictures.train.labels == 1].min() >= 140
    assert pictures.parts[Split.TEST].labels.tolist() == [0, 0, 1, 1]


def test_a_store_keeps_the_decoded_pictures_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAPPED_BYTES", 0)
    write_pictures(tmp_path / "train", 5)
    write_pictures(tmp_path / "test", 2)
    config = DataConfig(source="image_folder", path=str(tmp_path), size=16)
    store = Store(tmp_path / "store")

    def found() -> Pictures:
        return load_pictures(config, path="task.data", base_dir=None, seed=0, store=store)

    decoded, kept = load(source="image_folder", path=str(tmp_path), size=16), found()
    assert isinstance(kept.train.inputs, np.memmap)
    assert np.array_equal(kept.train.inputs, decoded.train.inputs)
    assert np.array_equal(kept.parts[Split.TEST].inputs, decoded.parts[Split.TEST].inputs)
    assert found().digest == kept.digest
    assert len(list((tmp_path / "store" / "pictures").glob("??/*/train.npy"))) == 1
    (tmp_path / "train" / "pear" / "0.png").unlink()
    assert len(found().train.labels) == 9
    assert found().digest != kept.digest


def test_a_task_over_mapped_pictures_copies_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAPPED_BYTES", 0)
    write_pictures(tmp_path / "pictures", 20)
    config = TaskConfig(
        data=DataConfig(source="image_folder", path=str(tmp_path / "pictures"), size=16)
    )
    task = build_task(config, None, Store(tmp_path / "store"))
    in_memory = build_task(config, None)
    for split in (Split.TRAIN, Split.TRANSFER, Split.VALIDATION):
        assert task.examples(split).inputs["pixels"] is task.test_examples().inputs["pixels"]
        assert torch.equal(pixels(task.examples(split)), pixels(in_memory.examples(split)))
    assert of_pictures(task).normalization == of_pictures(in_memory).normalization


def test_image_folder_names_a_broken_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "pear" / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match=r"broken\.png"):
        load(source="image_folder", path=str(tmp_path))


def test_size_rescales_and_limit_takes_fewer() -> None:
    pictures = load(source="digits", size=16, limit=100)
    assert pictures.train.inputs.shape[1:] == (1, 16, 16)
    assert pictures.train.inputs.dtype == np.uint8
    assert len(pictures.train.labels) == pytest.approx(100, abs=5)


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading")

    monkeypatch.setattr(archives, "CACHE", tmp_path)
    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(InputError, match=r"(?s)cannot be downloaded.*give its folder"):
        load(source="cifar10")
    with pytest.raises(InputError, match="download is off"):
        load(source="cifar10", download=False)


@pytest.mark.network
@pytest.mark.skipif("PDO_SEARCH_NETWORK" not in os.environ, reason="needs the internet")
def test_cifar10_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "CACHE", tmp_path)
    assert len(load(source="cifar10").train.labels) == 50_000
