"""Listing folders: what is a picture, what is none, and what tools put there for themselves.

Knows names and first bytes; nothing is decoded here. Knows no splits and no classes.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "BACK",
    "IMAGE_FORMATS",
    "Notes",
    "entries",
    "folders",
    "is_folder",
    "note_beside",
    "pictures_below",
]

Notes = Counter[tuple[str, str]]
"""Where something lies, empty for all over, and what became of it; how often."""
IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
}
UNREAD = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".xcf", ".eps", ".pdf"),
    *(".ico", ".tga", ".pcx", ".exr", ".hdr", ".npy", ".dcm", ".fits", ".nii"),
}
"""Suffixes of pictures that are not read, unless their content is of a kind that is."""
RAW = {".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".pef", ".raf"}
"""Suffixes of cameras' raw files. Many are TIFF by content, of which only a preview is read."""
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow goes by content, not by name, and would pass a PostScript file on to Ghostscript."""
OF_TOOLS = {
    *("thumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information"),
    *("lost+found", "#recycle", "#snapshot"),
}
BACK = "link that leads back to where it lies: left out"


def pictures_below(folder: Path, notes: Notes, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All pictures below a folder, links followed, in a fixed order; what else there is, noted."""
    above = (*above, os.path.realpath(folder))
    for entry in entries(folder):
        place = Path(entry.path)
        if is_folder(entry):
            real = os.path.realpath(place)
            if any(Path(one).is_relative_to(real) for one in above):
                notes[str(place), BACK] += 1
                continue
            inside = list(pictures_below(place, notes, above))
            yield from inside
            if entry.is_symlink():
                notes[str(place), f"linked folder: followed, {len(inside):,} pictures"] += 1
        elif _is_picture(place):
            if place.suffix.lower() not in IMAGE_SUFFIXES:
                notes["", f"{_kind_of(place)}: read, by their content they are pictures"] += 1
            yield place
        else:
            _note_other(entry, notes)


def _note_other(entry: os.DirEntry[str], notes: Notes) -> None:
    """Note something that is neither a folder nor a picture."""
    place = Path(entry.path)
    if entry.is_symlink() and not place.exists():
        notes[str(place.parent), "broken links: left out"] += 1
    elif not entry.is_file():
        notes[str(place.parent), "pipes or devices: left out"] += 1
    else:
        known = place.suffix.lower() in UNREAD | RAW
        why = "convert them to PNG or JPEG" if known else "no pictures"
        notes["", f"{_kind_of(place)}: left out, {why}"] += 1


def _kind_of(file: Path) -> str:
    return f"{file.suffix.lower()} files" if file.suffix else "files without suffix"


def _is_picture(file: Path) -> bool:
    """Whether a file is to be read: by its suffix, and without a known one by its first bytes."""
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return file.is_file()
    from PIL import Image

    try:
        if file.suffix.lower() in RAW or not file.is_file():
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is odd in a picture is said when it is decoded.
            Image.open(file, formats=IMAGE_FORMATS).close()
        return True
    except Exception:  # Whatever Pillow makes of arbitrary bytes.
        return False


def folders(folder: Path) -> list[Path]:
    """The sub-folders, linked ones too, by name; those of tools are not there."""
    return [Path(entry.path) for entry in entries(folder) if is_folder(entry)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself.
        return False


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what tools put there for themselves."""
    with os.scandir(folder) as found:
        return sorted((e for e in found if not _of_tools(e.name)), key=lambda e: e.name)


def _of_tools(name: str) -> bool:
    """``.git``, ``._picture.png`` (AppleDouble), ``__MACOSX``, ``@eaDir`` and their like."""
    return name.startswith((".", "__", "@")) or name.lower() in OF_TOOLS


def note_beside(place: Path, notes: Notes) -> None:
    """Note the files that lie beside class folders or folders of splits."""
    for entry in entries(place):
        if is_folder(entry):
            continue
        if _is_picture(Path(entry.path)):
            notes[str(place), "pictures beside the class folders: left out"] += 1
        else:
            _note_other(entry, notes)
