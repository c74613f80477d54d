"""Links, names, permissions and kinds of files in folders of pictures."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.tasks import build_task
from pdo_search.tasks.base import LeftOut, Split
from tests.tasks.test_folders import fill, layout, load, said

NOBODY = 65534


@contextmanager
def without_permission(folder: Path) -> Iterator[None]:
    """As a user who may not read a folder."""
    mode, user = folder.stat().st_mode, os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


@pytest.mark.parametrize(
    ("train", "test"),
    [("training_set", "test_set"), ("seg_train", "seg_test"), ("train2017", "test2017"),
     ("trainset", "valset"), ("images_train", "images_holdout"), ("trn", "tst"),
     ("animals_train", "animals_test")],
)  # fmt: skip
def test_splits_have_names_of_many_kinds(tmp_path: Path, train: str, test: str) -> None:
    root = layout(tmp_path, **{train: {"cat": 4, "dog": 4}, test: {"cat": 1, "dog": 2}})
    pictures = load(root)
    assert pictures.class_names == ("cat", "dog")
    assert len(pictures.train.inputs) == 8
    own = pictures.parts[Split.VALIDATION if test == "valset" else Split.TEST].labels
    assert own.tolist() == [0, 1, 1]


@pytest.mark.parametrize("names", [("train_station", "airport"), ("latest", "pretrained")])
def test_classes_may_have_the_words_of_splits_in_their_names(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    root = layout(tmp_path, **{".": dict.fromkeys(names, 2)})
    assert load(root).class_names == tuple(sorted(names))


def test_it_is_said_what_the_folders_of_splits_are_used_for(tmp_path: Path) -> None:
    root = layout(tmp_path, Train={"cat": 4, "dog": 4}, valid={"cat": 1, "dog": 1})
    (root / "test").mkdir()
    lines = said(load(root)).splitlines()
    assert lines == [
        f"1 empty folder: not used ({root / 'test'})",
        "2 folders of splits, used as they are: Train as train, valid as validation; test from"
        f" shares of train ({root})",
    ]


def test_what_is_left_of_a_split_of_copies_names_the_split_that_has_them(tmp_path: Path) -> None:
    root = layout(tmp_path, train={"cat": 9, "dog": 9})
    for split, name in (("val", "cat"), ("val", "dog"), ("test", "cat"), ("test", "dog")):
        fill(root / split / name, 3, 100 if name == "cat" else 200)
    for one in (root / "test").rglob("*.png"):
        (root / "val" / one.relative_to(root / "test")).write_bytes(one.read_bytes())
    data = DataConfig(source="image_folder", path=str(root), size=16)
    with pytest.raises(InputError, match="left in the validation split: all 3 are copies") as told:
        build_task(TaskConfig(data=data), None, None)
    assert "of examples of test" in str(told.value)
    assert "take test away from the source, and a share of train is used" in str(told.value)
    shutil.rmtree(root / "test")
    found = build_task(TaskConfig(data=data), None, None)
    assert len(found.examples(Split.VALIDATION)) == 6


def test_the_splits_of_a_transfer_source_are_said_not_to_be_used(tmp_path: Path) -> None:
    root = layout(tmp_path / "own", **{".": {"cat": 20, "dog": 20}})
    other = tmp_path / "more"
    for first, (split, count) in enumerate({"train": 5, "val": 4, "test": 3}.items()):
        for number, name in enumerate(("cat", "dog")):
            fill(other / split / name, count, 1000 * (1 + first) + 100 * number)
    source = DataConfig(source="image_folder", path=str(root), size=16)
    transfer = source.model_copy(update={"path": str(other)})
    task = build_task(TaskConfig(data=source, transfer_data=transfer), None, None)
    lines = [str(one) for one in task.left_out]
    assert "8 pictures of validation in task.transfer_data: not used" in lines
    assert "6 pictures of test in task.transfer_data: not used" in lines


def test_links_that_lead_nowhere_or_round_in_a_circle(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 3, "dog": 3}})
    (root / "loop").symlink_to(root)
    (root / "itself").symlink_to("itself")
    (root / "cat" / "itself").symlink_to("itself")
    (root / "bird").symlink_to(root / "nowhere")
    pictures = load(root)
    assert pictures.class_names == ("cat", "dog")
    assert len(pictures.train.inputs) == 6
    lines = said(pictures)
    assert f"1 link that leads back to where it lies: left out ({root / 'loop'})" in lines
    assert f"2 broken links: left out ({root})" in lines
    assert f"1 broken links: left out ({root / 'cat'})" in lines
    flat = load(root, labelled=False)
    assert len(flat.train.inputs) == 6


def test_a_linked_class_is_followed_and_said(tmp_path: Path) -> None:
    root = layout(tmp_path / "pics", **{".": {"cat": 3}})
    fill(tmp_path / "far" / "dogs", 4, 50)
    (root / "dog").symlink_to(tmp_path / "far" / "dogs")
    pictures = load(root)
    assert np.bincount(pictures.train.labels).tolist() == [3, 4]
    assert f"1 linked folder: followed, 4 pictures ({root / 'dog'})" in said(pictures)


def test_one_folder_under_two_names_is_refused(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 3, "dog": 3}})
    (root / "hound").symlink_to(root / "dog")
    with pytest.raises(InputError, match="'dog' and 'hound' are the same"):
        load(root)


def test_a_split_that_is_a_broken_link_is_refused(tmp_path: Path) -> None:
    root = layout(tmp_path, train={"cat": 3, "dog": 3})
    (root / "val").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"val is a link that leads nowhere: to .*nowhere"):
        load(root)


def test_letters_composed_by_another_system_are_the_same(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = layout(tmp_path, train={composed: 3, "bar": 2}, val={apart: 2, "bar": 1})
    pictures = load(root)
    assert pictures.class_names == ("bar", composed)
    assert pictures.parts[Split.VALIDATION].labels.tolist() == [0, 1, 1]
    fill(root / "train" / apart, 1, 90)
    with pytest.raises(InputError, match="are the same"):
        load(root)


@pytest.mark.parametrize("inner", ["cat,dog", "train/cat,train/dog"])
def test_a_folder_around_all_is_named(tmp_path: Path, inner: str) -> None:
    for number, name in enumerate(inner.split(",")):
        fill(tmp_path / "animals" / name, 2, 10 * number)
    with pytest.raises(InputError, match="there is 'animals' alone") as told:
        load(tmp_path)
    assert f"-> name {tmp_path / 'animals'}," in str(told.value)
    assert len(load(tmp_path / "animals").train.inputs) == 4


def test_folders_of_disks_and_stores_are_no_classes(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 3, "dog": 3}})
    for name in ("$RECYCLE.BIN", "lost+found", "#recycle", "System Volume Information"):
        (root / name).mkdir()
    assert load(root).class_names == ("cat", "dog")


def test_kinds_of_files(tmp_path: Path) -> None:
    """Netpbm is read, as older collections have it; of cameras' raw files no preview is."""
    root = layout(tmp_path, **{".": {"cat": 1, "dog": 1}})
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    image.save(root / "cat" / "a.ppm")
    image.convert("L").save(root / "cat" / "b.PGM", "PPM")
    image.save(root / "cat" / "c.jfif", "JPEG")
    image.save(root / "cat" / "d.NEF", "TIFF")
    image.save(root / "cat" / "e.tga")
    image.save(root / "f.bin", "PNG")
    (root / "g.heic").write_bytes(b"\0\0\0\x20ftypheic")
    pictures = load(root)
    assert np.bincount(pictures.train.labels).tolist() == [4, 1]
    assert sorted(said(pictures).splitlines()) == [
        "1 .heic files: left out, convert them to PNG or JPEG",
        "1 .nef files: left out, convert them to PNG or JPEG",
        "1 .tga files: left out, convert them to PNG or JPEG",
        f"1 pictures beside the class folders: left out ({root})",
    ]


@pytest.mark.parametrize("place", [".", "cat"])
def test_what_may_not_be_read_is_refused(tmp_path: Path, place: str) -> None:
    root = layout(tmp_path / "pics", **{".": {"cat": 2, "dog": 2}})
    for one in (root, *root.parents):
        if one.owner() == "root" and one.is_relative_to("/tmp/pytest-of-root"):
            one.chmod(0o755)
    with (
        without_permission(root / place),
        pytest.raises(InputError, match="cannot be read: Permission denied") as told,
    ):
        load(root)
    assert "task.data.path" in str(told.value)
    assert str(root / place) in str(told.value)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match=r"task.data.path: cannot be read: File name too long"):
        load(Path("/" + 300 * "x"))


def test_a_line_of_what_is_left_out_is_one_line() -> None:
    said = str(LeftOut("pics/c\na\x1b[1mt/\udcff", "broken links: left out", 1))
    assert said == r"1 broken links: left out (pics/c\na\x1b[1mt/\udcff)"
