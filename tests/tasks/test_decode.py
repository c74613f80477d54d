"""Pictures that look odd when they are decoded, and what is said of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdo_search.base.errors import InputError
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.images import decode as decoding
from pdo_search.tasks.images.decode import read_picture
from tests.tasks.test_folders import fill, layout, load, said

ORIENTED = {
    1: (5, 5), 2: (34, 5), 3: (34, 14), 4: (5, 14), 5: (5, 5), 6: (14, 5), 7: (14, 34), 8: (5, 34),
}  # fmt: skip
"""Where a mark at the upper left of 40 x 20 pixels is shown, by EXIF orientation."""


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    shown = read_picture(tmp_path / f"a.{suffix}")
    assert shown.size == ((40, 20) if orientation < 5 else (20, 40))
    x, y = ORIENTED[orientation]
    assert np.asarray(shown)[y, x, 0] > 230
    assert np.asarray(shown).mean() < 255 / 6


def test_damaged_notes_of_a_camera_damage_no_picture(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 1, "dog": 1}})
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x06"
    Image.new("RGB", (8, 8), (255, 255, 255)).save(root / "cat" / "000.png", "JPEG", exif=broken)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        pictures = load(root)
    assert (pictures.train.inputs[0] == 255).all()
    assert not raised


def test_a_transparent_grey_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 25700, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    assert np.asarray(read_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 100, 255]


@pytest.mark.parametrize(
    ("white", "values", "levels"),
    [(65535, [0, 25700, 65535], [0, 100, 255]), (1023, [0, 511, 1023], [0, 127, 255])],
)
def test_netpbm_of_more_than_eight_bits_is_scaled(
    tmp_path: Path, white: int, values: list[int], levels: list[int]
) -> None:
    head = f"P5 3 1 {white}\n".encode()
    (tmp_path / "a.pgm").write_bytes(head + np.array(values, ">u2").tobytes())
    assert np.asarray(read_picture(tmp_path / "a.pgm"))[0, :, 0].tolist() == levels


@pytest.mark.parametrize("stored", [False, True])
def test_nearly_black_pictures_are_said(
    tmp_path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stored:
        monkeypatch.setattr(decoding, "MAPPED_BYTES", 1)
    root = layout(tmp_path / "pics", **{".": {"cat": 4, "dog": 4}})
    assert said(load(root)) == ""
    twelve = np.random.default_rng(0).integers(0, 4096, (9, 9)).astype(np.uint16)
    Image.fromarray(twelve).save(root / "cat" / "xray.png")
    Image.fromarray(twelve.astype(np.uint8) % 2).save(root / "dog" / "mask.png")
    for _ in range(2):  # Decoded, then from the store.
        pictures = load(root, Store(tmp_path / "store"))
        assert len(pictures.train.inputs) == 10
        assert said(pictures) == (
            "2 pictures are nearly black (nothing above 16 of 255): used as they are"
        )


def test_a_picture_that_is_too_large_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout(tmp_path, **{".": {"cat": 2, "dog": 2}})
    Image.new("1", (50, 60)).save(root / "cat" / "warned.png")
    Image.new("1", (90, 90)).save(root / "dog" / "refused.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(InputError, match="2 of 6 pictures cannot be read") as told:
        load(root)
    for name in ("cat/warned.png", "dog/refused.png"):
        assert f"{name} (more than 2,000 pixels: scale it down)" in str(told.value)


def test_skipped_pictures_are_named(tmp_path: Path) -> None:
    root = layout(tmp_path, **{".": {"cat": 8, "dog": 2}})
    for number in range(6):
        (root / "cat" / f"{number:03d}.png").write_bytes(b"")
    kept = said(load(root, on_error="skip"))
    assert kept.startswith("6 pictures that cannot be read: left out (cat/000.png; cat/001.png; ")
    assert kept.endswith("cat/004.png; and 1 more)")


def test_a_bad_transfer_source_is_told_its_own_option(tmp_path: Path) -> None:
    root = layout(tmp_path / "own", **{".": {"cat": 20, "dog": 20}})
    fill(tmp_path / "more", 3, 900)
    (tmp_path / "more" / "bad.jpg").write_bytes(b"no picture")
    source = DataConfig(source="image_folder", path=str(root), size=16)
    more = DataConfig(source="image_folder", path=str(tmp_path / "more"), labelled=False)
    with pytest.raises(InputError, match=r"task.transfer_data.on_error: 1 of 4 pictures"):
        build_task(TaskConfig(data=source, transfer_data=more), None, None)
    skipping = more.model_copy(update={"on_error": "skip"})
    task = build_task(TaskConfig(data=source, transfer_data=skipping), None, None)
    assert [str(one) for one in task.left_out] == [
        "1 pictures that cannot be read: left out (more/bad.jpg)"
    ]
