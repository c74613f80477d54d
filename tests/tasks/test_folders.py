"""Folders of pictures as people have them: splits, classes, what is neither, and odd pictures."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split
from pdo_search.tasks.images import decode as decoding
from pdo_search.tasks.images.data import load_pictures
from pdo_search.tasks.images.decode import read_picture
from pdo_search.tasks.images.folders import find_pictures
from pdo_search.tasks.images.pictures import Pictures

from ..pictures import of_pictures

WHITE, RED = (255, 255, 255), (255, 0, 0)


def fill(folder: Path, count: int, first: int = 0, suffix: str = "png") -> None:
    """Pictures of noise, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        noise = np.random.default_rng((len(str(folder)), number)).integers(0, 256, (12, 10, 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:03d}.{suffix}", "PNG")


def layout(root: Path, **splits: dict[str, int]) -> Path:
    """``train={"cat": 20, "dog": 20}`` and so on; no content twice."""
    first = 0
    for split, classes in splits.items():
        for name, count in classes.items():
            fill(root / split / name, count, first)
            first += count
    return root


def load(root: Path, store: Store | None = None, **given: Any) -> Pictures:
    config = DataConfig(source="image_folder", path=str(root), **{"size": 16, **given})
    return load_pictures(config, path="task.data", base_dir=None, seed=0, store=store)


def said(pictures: Pictures) -> str:
    return "\n".join(map(str, pictures.left_out))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Train", "Valid", "Test"), ("TRAINING", "validation", "testing"),
     ("training", "dev", "TEST")],
)  # fmt: skip
def test_splits_are_used_as_they_are(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    sizes = {train: 40, validation: 11, test: 7}
    root = layout(tmp_path, **{s: {"cat": n, "dog": n} for s, n in sizes.items()})
    data = DataConfig(source="image_folder", path=str(root), size=16)
    task = build_task(TaskConfig(data=data), None, None)
    assert of_pictures(task).class_names == ("cat", "dog")
    assert len(task.examples(Split.VALIDATION)) == 22
    assert len(task.test_examples()) == 14
    assert len(task.examples(Split.TRAIN)) + len(task.examples(Split.TRANSFER)) == 80
    assert len(task.examples(Split.TRANSFER)) == 12


def test_without_a_test_folder_a_share_of_train_is_taken(tmp_path: Path) -> None:
    root = layout(tmp_path, train={"cat": 40, "dog": 40}, val={"cat": 9, "dog": 9})
    data = DataConfig(source="image_folder", path=str(root), size=16)
    task = build_task(TaskConfig(data=data), None, None)
    assert len(task.examples(Split.VALIDATION)) == 18
    assert len(task.test_examples()) == 16


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train/cat", "train/dog", "val/cat", "val/dog", "valid/cat", "valid/dog"),
         "two folders of one split: val and valid"),
        (("train/cat", "train/dog", "bird"), "which are names of splits, and classes (bird)"),
        (("val/cat", "val/dog", "test/cat", "test/dog"), "no train beside"),
        (("train/cat", "train/dog", "test/cat", "test/Dog"),
         "test lacks dog and has Dog, which train lacks"),
        (("train/cat", "train/dog", "val/cat"), "val lacks dog"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "inside of the class 'cat'"),
        (("cat", "Cat", "dog"), "differ by capital letters alone: cat"),
        (("cat",), "two classes at least; there is 'cat' alone"),
        (("cat", "do\tg"), "a character that cannot be shown"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    for number, name in enumerate(folders):
        fill(tmp_path / name, 2, 10 * number)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert says in str(caught.value)
    assert "task.data.path" in str(caught.value)


def test_folders_and_files_of_tools_are_nothing(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 3, "dog": 3}})
    for name in (".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        fill(root / name, 2, 50)
    (root / "cat" / "._000.png").write_bytes(b"\0\5\26\7Mac OS X")
    (root / "cat" / ".DS_Store").write_bytes(b"\0")
    (root / "dog" / "Thumbs.db").write_bytes(b"\0")
    pictures = load(root)
    assert pictures.class_names == ("cat", "dog")
    assert len(pictures.train.inputs) == 6
    assert pictures.left_out == ()


def test_what_is_left_out_is_said_with_its_number(tmp_path: Path) -> None:
    root = layout(tmp_path / "pics", **{".": {"cat": 3, "dog": 3}})
    for number in range(4):
        (root / "cat" / f"{number}.HEIC").write_bytes(b"\0\0\0\x20ftypheic")
    (root / "cat" / "notes.txt").write_text("of cats")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    shutil.copy(root / "dog" / "003.png", root / "dog" / "unnamed")
    fill(root, 1, 90)
    fill(tmp_path / "elsewhere", 5, 70)
    (root / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "loop").symlink_to(root)
    pictures = load(root)
    assert np.bincount(pictures.train.labels).tolist() == [3, 3 + 1 + 5]
    lines = said(pictures)
    for line in (
        "4 .heic files: left out, convert them to PNG or JPEG",
        "1 .txt files: left out, no pictures",
        "1 broken links: left out",
        "1 files without suffix: read, by their content they are pictures",
        f"1 linked folder: followed, 5 pictures ({root / 'dog' / 'more'})",
        f"1 link that leads back to where it lies: left out ({root / 'dog' / 'loop'})",
        "1 pictures beside the class folders: left out",
    ):
        assert line in lines


def test_test_pictures_without_classes_are_no_test_split(tmp_path: Path) -> None:
    root = layout(tmp_path, train={"cat": 3, "dog": 3})
    fill(root / "test", 4, 80)
    pictures = load(root)
    assert Split.TEST not in pictures.parts
    assert "4 pictures without a class folder: left out" in said(pictures)


def test_a_class_without_readable_pictures_is_named(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 3, "dog": 0}})
    (root / "dog" / "a.heic").write_bytes(b"\0\0\0\x20ftypheic")
    with pytest.raises(InputError, match=r"is in dog \(1 .heic files"):
        load(root)


def test_unlabelled_pictures_need_no_classes(tmp_path: Path) -> None:
    fill(tmp_path / "any" / "depth", 3)
    fill(tmp_path, 2, 10)
    pictures = load(tmp_path, labelled=False)
    assert len(pictures.train.inputs) == 5
    assert (pictures.train.labels == -1).all()


@pytest.mark.parametrize("name", ["pics.zip", "pics"])
def test_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match="is a file, not a folder") as caught:
        load(tmp_path / name)
    assert ("unpack it" in str(caught.value)) == name.endswith(".zip")


@pytest.mark.parametrize("stored", [False, True])
def test_bad_pictures_are_named_all_at_once_or_left_out(
    tmp_path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stored:
        monkeypatch.setattr(decoding, "MAPPED_BYTES", 1)
    store = Store(tmp_path / "store")
    root = layout(tmp_path / "pics", **{".": {"cat": 8, "dog": 8}})
    whole = load(root, store)
    for number, name in enumerate(("cat/000.png", "cat/003.png", "dog/009.png")):
        file = root / name
        file.write_bytes(file.read_bytes()[: 40 + number] if number else b"no picture")
    with pytest.raises(InputError, match="3 of 16 pictures cannot be read") as caught:
        load(root, store)
    for name in ("cat/000.png", "cat/003.png", "dog/009.png", "on_error: skip"):
        assert name in str(caught.value)
    for _ in range(2):  # Decoded, then from the store.
        kept = load(root, store, on_error="skip")
        assert np.bincount(kept.train.labels).tolist() == [6, 7]
        assert np.array_equal(kept.train.inputs, np.delete(whole.train.inputs, [0, 3, 9], axis=0))
        assert kept.train.hashes is not None
        assert len(kept.train.hashes) == 13
        assert "3 pictures that cannot be read: left out" in said(kept)


def test_names_that_are_no_utf8_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAPPED_BYTES", 1)
    root = layout(tmp_path / "pics", **{".": {"cat": 2, "dog": 2}})
    odd = os.fsencode(root / "cat") + b"/\xff\xfe.png"
    os.rename(root / "cat" / "000.png", odd)
    assert len(load(root, Store(tmp_path / "store")).train.inputs) == 4


def pixel(image: Image.Image, at: tuple[int, int] = (0, 0)) -> Any:
    return image.getpixel(at)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255))
    image.putpixel((2, 2), (0, 0, 0, 128))
    image.convert(mode).save(tmp_path / "a.png")
    shown = read_picture(tmp_path / "a.png")
    assert shown.mode == "RGB"
    assert pixel(shown) == WHITE
    assert pixel(shown, (1, 1)) == (0, 0, 0)
    if mode != "P":
        assert 120 <= pixel(shown, (2, 2))[0] <= 135


def test_a_transparent_colour_of_an_opaque_mode_is_white(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png", transparency=RED)
    assert pixel(read_picture(tmp_path / "a.png")) == WHITE


def test_pictures_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), WHITE)
    image.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "phone.jpg", exif=exif, quality=100)
    shown = read_picture(tmp_path / "phone.jpg")
    assert shown.size == (20, 40)
    assert pixel(shown, (15, 5))[1] < 40
    assert pixel(shown, (5, 5))[1] > 215


@pytest.mark.parametrize(
    ("values", "suffix", "levels"),
    [
        (np.array([[0, 257, 65535]], np.uint16), "png", [0, 1, 255]),
        (np.array([[0, 25700, 65535]], np.int32), "tif", [0, 100, 255]),
        (np.array([[0, 0.5, 1]], np.float32), "tif", [0, 128, 255]),
        (np.array([[0, 100.4, 255]], np.float32), "tif", [0, 100, 255]),
    ],
)
def test_more_than_eight_bits_are_scaled(
    tmp_path: Path, values: Any, suffix: str, levels: list[int]
) -> None:
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    shown = np.asarray(read_picture(tmp_path / f"a.{suffix}"))
    assert shown[0, :, 0].tolist() == levels


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 300.0], [0.0, float("nan")]])
def test_floats_of_an_unknown_scale_are_refused(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floats from"):
        read_picture(tmp_path / "a.tif")


def test_other_modes_look_as_in_a_viewer(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = pixel(read_picture(tmp_path / "a.jpg"))
    assert red[0] > 200 > 60 > red[1]
    Image.new("1", (4, 4), 1).save(tmp_path / "b.png")
    assert pixel(read_picture(tmp_path / "b.png")) == WHITE
    frames = [Image.new("P", (4, 4), number) for number in range(2)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    assert pixel(read_picture(tmp_path / "c.gif")) == RED


def test_pictures_that_packages_carry(tmp_path: Path) -> None:
    """Photographs of scikit-learn, cut into two classes."""
    from sklearn.datasets import load_sample_images

    shuffled = random.Random(0)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        (tmp_path / name).mkdir()
        for number in range(12):
            row, column = shuffled.randrange(300), shuffled.randrange(500)
            part = Image.fromarray(photograph[row : row + 120, column : column + 120])
            part.save(tmp_path / name / f"{number}.JPG", "JPEG")
    pictures = load(tmp_path, size=32)
    assert pictures.train.inputs.shape == (24, 3, 32, 32)
    assert pictures.left_out == ()
    china = pictures.train.inputs[pictures.train.labels == 0].mean()
    assert abs(china - pictures.train.inputs[pictures.train.labels == 1].mean()) > 20


def test_the_folder_found_is_that_of_the_files(tmp_path: Path) -> None:
    root = layout(tmp_path, train={"b": 2, "a": 3}, test={"a": 1, "b": 1})
    found = find_pictures(root, "task.data.path")
    assert found.names == ("a", "b")
    names = [str(file.relative_to(root)) for file, _ in found.splits[Split.TRAIN]]
    assert names == sorted(names)
    assert [label for _, label in found.splits[Split.TRAIN]] == [0, 0, 0, 1, 1]
    assert [one.what for one in found.left_out] == [
        "folders of splits, used as they are: train, test; validation from shares of train"
    ]
