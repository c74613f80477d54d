"""Decoding picture files to arrays of one size: as every viewer shows them.

Turned as their camera says (EXIF), transparent ones on white, 16 bits and floats scaled to 8 bits
by their type's whole range. The store keeps many of them, decoded once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pdo_search.base.errors import InputError
from pdo_search.base.safetext import one_line
from pdo_search.store import Store
from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.contents import HASH, Hashes, hasher
from pdo_search.tasks.images.folders import Files
from pdo_search.tasks.images.listing import IMAGE_FORMATS
from pdo_search.tasks.images.pictures import Labelled

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Decoded", "decoded_pictures", "read_picture"]

MAPPED_BYTES = 1 << 25
"""Decoded pictures of this size take seconds to decode: from here on the store keeps them."""
DECODING = 3
"""Version of what a file becomes: another one makes other artifacts."""
SHOWN = 5
CHUNK = 1024
NEARLY_BLACK = 16
"""Of 255: what 12 bits are in a file of 16, and a mask of zeros and ones in one of 8."""


@dataclass(frozen=True)
class Decoded:
    """All pictures of a folder.

    Attributes:
        parts: by split, with hashes.
        digest: of the files that hold them; None where they are in this process's memory.
        left_out: pictures that could not be read, or look as if they were scaled wrongly.
    """

    parts: dict[Split, Labelled]
    digest: str | None
    left_out: tuple[LeftOut, ...]


def decoded_pictures(
    splits: Mapping[Split, Files], size: int, store: Store | None, *, skip: bool, path: str
) -> Decoded:
    """Decode the pictures of each split.

    With a store, more than a few are decoded once and mapped into memory: they may be larger. So
    their hashes are kept with them, and no process reads them all to find copies.

    Args:
        splits: the files.
        size: edge in pixels.
        store: keeps them; None decodes them into this process's memory.
        skip: leave out what cannot be read.
        path: of the source in the experiment, for messages.

    Raises:
        InputError: names the first of the files that cannot be read, and how many they are.
    """
    if store is None or sum(map(len, splits.values())) * 3 * size**2 < MAPPED_BYTES:
        bad: dict[Split, dict[int, str]] = {}
        parts, dark = {}, 0
        for split, files in splits.items():
            array = np.empty((len(files), 3, size, size), np.uint8)
            hashes, bad[split], black = _decode(files, array)
            parts[split], dark = (array, hashes), dark + black
        _refuse_bad(splits, bad, skip, path)
        kept = {split: _kept(*part, bad[split]) for split, part in parts.items()}
        return _decoded(splits, kept, bad, dark, None)

    def build(directory: Path) -> None:
        bad, dark = {}, 0
        for split, files in splits.items():
            array = _mapped(directory / f"{split.value}.npy", (len(files), 3, size, size))
            hashes, bad[split], black = _decode(files, array)
            dark += black
            array.flush()
            if skip and bad[split]:
                _shrink(directory / f"{split.value}.npy", bad[split])
                hashes = np.delete(hashes, [*bad[split]])
            np.save(directory / f"{split.value}.hashes.npy", hashes, allow_pickle=False)
        _refuse_bad(splits, bad, skip, path)
        text = json.dumps({"bad": {s.value: [*rows] for s, rows in bad.items()}, "dark": dark})
        (directory / "seen.json").write_text(text, encoding="utf-8")

    key = {"files": _listing(splits), "size": size, "decoding": DECODING, "skip": skip}
    found = store.get_or_build("pictures", key, build)
    seen = json.loads((found.path / "seen.json").read_text(encoding="utf-8"))
    mapped = {
        split: (
            np.load(found.path / f"{split.value}.npy", mmap_mode="c"),
            np.load(found.path / f"{split.value}.hashes.npy"),
        )
        for split in splits
    }
    manifest = json.loads((found.path / "manifest.json").read_text(encoding="utf-8"))
    # By content: the same pictures elsewhere are the same task, with the same teachers.
    names = [f"{split.value}.npy" for split in splits]
    digest = json.dumps({name: manifest["files"][name] for name in names}, sort_keys=True)
    known = {split: dict.fromkeys(seen["bad"][split.value], "") for split in splits}
    return _decoded(splits, mapped, known, seen["dark"], digest)


def _decoded(
    splits: Mapping[Split, Files],
    kept: Mapping[Split, tuple[NDArray[np.uint8], Hashes]],
    bad: Mapping[Split, Mapping[int, str]],
    dark: int,
    digest: str | None,
) -> Decoded:
    parts = {}
    for split, (array, hashes) in kept.items():
        labels = [label for row, (_, label) in enumerate(splits[split]) if row not in bad[split]]
        parts[split] = Labelled(array, np.array(labels, np.int64), hashes)
    left_out = []
    if files := [splits[split][row][0] for split, rows in bad.items() for row in rows]:
        names = _listed([_name(file) for file in files])
        left_out.append(LeftOut(names, "pictures that cannot be read: left out", len(files)))
    if dark:
        what = f"pictures are nearly black (nothing above {NEARLY_BLACK} of 255): used as they are"
        left_out.append(LeftOut("", what, dark))
    return Decoded(parts, digest, tuple(left_out))


def _name(file: Path) -> str:
    """A picture's name and its folder's."""
    return f"{file.parent.name}/{file.name}"


def _listed(said: Sequence[str]) -> str:
    more = f"; and {len(said) - SHOWN:,} more" if len(said) > SHOWN else ""
    return one_line("; ".join(said[:SHOWN]) + more)


def _listing(splits: Mapping[Split, Files]) -> str:
    """A digest of the files as they are now."""
    listing = hashlib.sha256()
    for split, files in splits.items():
        for file, label in files:
            seen = file.stat()
            listing.update(f"{split.value}\0".encode() + os.fsencode(file))
            listing.update(f"\0{label}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())
    return listing.hexdigest()


def _refuse_bad(
    splits: Mapping[Split, Files], bad: Mapping[Split, Mapping[int, str]], skip: bool, path: str
) -> None:
    """Name what cannot be read, all at once.

    Raises:
        InputError: something cannot, and is not to be skipped.
    """
    found = [
        (splits[split][row][0], why) for split, rows in bad.items() for row, why in rows.items()
    ]
    if not found or skip:
        return
    files = sum(map(len, splits.values()))
    named = _listed([f"{_name(file)} ({why})" for file, why in found])
    raise InputError(
        f"{len(found):,} of {files:,} pictures cannot be read: {named}",
        file=found[0][0],
        path=f"{path}.on_error",
        remedy="repair or remove them, or leave them out: on_error: skip",
    )


def _kept(
    array: NDArray[np.uint8], hashes: Hashes, bad: Mapping[int, str]
) -> tuple[NDArray[np.uint8], Hashes]:
    if not bad:
        return array, hashes
    return np.delete(array, [*bad], axis=0), np.delete(hashes, [*bad])


def _mapped(file: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    array = open_memmap(file, "w+", np.uint8, shape)
    with file.open("r+b") as stream:
        # A full disk is an error here, and the death of the process in a mapping.
        os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return array


def _shrink(file: Path, bad: Mapping[int, str]) -> None:
    """Take rows out of a stored array, a chunk at a time: it may be larger than memory."""
    whole = np.load(file, mmap_mode="r")
    kept = np.delete(np.arange(len(whole)), [*bad])
    beside = file.with_name(f"{file.stem}.kept.npy")
    array = _mapped(beside, (len(kept), *whole.shape[1:]))
    for first in range(0, len(kept), CHUNK):
        array[first : first + CHUNK] = whole[kept[first : first + CHUNK]]
    array.flush()
    beside.replace(file)


def _decode(files: Files, into: NDArray[np.uint8]) -> tuple[Hashes, dict[int, str], int]:
    """Decode, scale and hash pictures, on all cores: Pillow lets go of the interpreter meanwhile.

    Returns:
        The hashes (N,) of what is decoded, by row why one cannot be read, and how many that can
        are nearly black.
    """
    from PIL import Image, UnidentifiedImageError

    size = into.shape[-1]
    hash_of, hashes = hasher(into.shape[1:], into.dtype), np.zeros(len(files), HASH)
    dark = np.zeros(len(files), bool)

    def decode(row: int) -> str | None:
        try:
            small = read_picture(files[row][0]).resize((size, size), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            return "no picture, or not of a kind that is read"
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down"
        except Exception as error:  # Whatever Pillow makes of arbitrary bytes.
            return str(error).partition("\n")[0] or type(error).__name__
        picture = np.ascontiguousarray(np.asarray(small, np.uint8).transpose(2, 0, 1))
        into[row], hashes[row] = picture, hash_of(picture)
        dark[row] = picture.max() <= NEARLY_BLACK
        return None

    # Warnings are the process's, not a thread's.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Of damaged notes of a camera, without a file's name.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        said = enumerate(pool.map(decode, range(len(files))))
        bad = {row: why for row, why in said if why is not None}
    return hashes, bad, int(dark.sum())


def read_picture(file: Path) -> Image.Image:
    """An RGB picture of 8 bits, the first of a file that has several.

    Raises:
        Exception: of many kinds, whatever arbitrary bytes make of Pillow. A picture of more pixels
            than ``Image.MAX_IMAGE_PIXELS`` (89 million) warns before it is unpacked.
    """
    from PIL import Image, ImageOps

    if not file.is_file():
        raise ValueError("it is no regular file")
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    """A picture in the usual numbers: transparent parts on white, more than 8 bits scaled."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(_eight_bits(values))
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey levels of 16 bits, or floats in 0..1 or 0..255, as bytes.

    Raises:
        ValueError: they lie elsewhere: what is white there is not known.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if not (math.isfinite(low) and math.isfinite(high) and low >= 0 and high <= 255):
            raise ValueError(f"floats from {low:g} to {high:g}, neither in 0..1 nor in 0..255")
        scaled = values * (255.0 if high <= 1 else 1.0)
    else:
        if not 0 <= low <= high <= 65535:
            raise ValueError(f"whole numbers from {low:g} to {high:g}, not in 0..65535")
        scaled = values / 257.0
    return np.rint(scaled).astype(np.uint8)
