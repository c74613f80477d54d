"""Finding the pictures of a folder: its splits, its classes, and what is neither.

Knows names and first bytes; nothing is decoded here. Nothing that may be a picture is left out
without a word, and no folder that a tool made for itself is taken for a class.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdo_search.errors import InputError
from pdo_search.tasks.base import LeftOut, Split

__all__ = ["IMAGE_FORMATS", "Files", "Folder", "find_pictures", "flat_folder"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
UNREAD = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps", ".pdf", ".ico", ".raw"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".exr", ".hdr", ".npy", ".dcm"),
}
"""Suffixes of pictures that are not read."""
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""Pillow goes by content, not by name, and would pass a PostScript file on to Ghostscript."""
SPELLINGS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "trainset": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
    "testset": Split.TEST,
}
"""Usual names of folders that are splits, in small letters."""
OF_TOOLS = ("thumbs.db", "desktop.ini", "icon\r")
SHOWN = 5

Files = list[tuple[Path, int]]
"""Picture files and the labels of their classes, in a fixed order."""


@dataclass(frozen=True)
class Folder:
    """What lies in a folder.

    Attributes:
        names: of the classes, by label.
        splits: the picture files of each split that has a folder of its own; of train alone where
            none has.
        left_out: files that are no examples, and folders that were followed or not.
    """

    names: tuple[str, ...]
    splits: dict[Split, Files]
    left_out: tuple[LeftOut, ...]


def find_pictures(folder: Path, path: str) -> Folder:
    """The picture files of a folder with one sub-folder per class, or of its train, val and test.

    Args:
        folder: where they are.
        path: where it stands in the experiment, for messages.

    Raises:
        InputError: the folder cannot be read, or which splits and classes are meant is not clear.
    """
    notes: Counter[tuple[str, str]] = Counter()
    roles = _roles(folder, path)
    train = roles.get(Split.TRAIN, folder)
    names = tuple(p.name for p in _folders(train))
    _check_names(names, train, path)
    splits: dict[Split, Files] = {}
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        place = roles.get(split, folder if split is Split.TRAIN else None)
        if place is None:
            continue
        if split is not Split.TRAIN and not _folders(place):
            # As competitions publish their test pictures, whose classes nobody knows.
            for _ in _pictures_below(place, notes):
                notes[str(place), "pictures without a class folder: left out"] += 1
            continue
        if split is not Split.TRAIN:
            _check_same_classes(train, place, names, path)
        splits[split] = _labelled(place, names, notes, path)
    return Folder(names, splits, _as_left_out(notes))


def flat_folder(folder: Path) -> Folder:
    """All picture files below a folder, whatever its sub-folders are called, without classes.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    notes: Counter[tuple[str, str]] = Counter()
    files = [(file, -1) for file in _pictures_below(folder, notes)]
    if not files:
        raise _no_pictures(folder, notes)
    return Folder((), {Split.TRAIN: files}, _as_left_out(notes))


def _roles(folder: Path, path: str) -> dict[Split, Path]:
    """The folders of the splits; none where the sub-folders are classes.

    Raises:
        InputError: split folders and others lie side by side, or two are of one split.
    """
    found: dict[Split, Path] = {}
    others = []
    for place in _folders(folder):
        split = SPELLINGS.get(place.name.lower())
        if split is None:
            others.append(place)
        elif split in found:
            raise InputError(
                f"has two folders of one split: {found[split].name} and {place.name}",
                path=path,
                value=str(folder),
                remedy="join them, or take one of them away",
            )
        else:
            found[split] = place
    if not found:
        return {}
    classes = [place.name for place in others if any(_pictures_below(place, Counter()))]
    if classes or Split.TRAIN not in found:
        here = ", ".join(place.name for place in found.values())
        beside = f"classes ({_listed(classes)})" if classes else "no train"
        raise InputError(
            f"has {here}, which are names of splits, and {beside} beside",
            path=path,
            value=str(folder),
            remedy="lay it out as train/CLASS, val/CLASS and test/CLASS, or as CLASS alone; a class"
            " that is called so needs another name",
        )
    return found


def _check_names(names: Sequence[str], train: Path, path: str) -> None:
    if len(names) < 2:
        raise InputError(
            "needs one sub-folder of pictures per class, two classes at least"
            + (f"; there is {names[0]!r} alone" if names else ""),
            path=path,
            value=str(train),
            remedy="lay it out as CLASS/picture.png; for pictures without classes, as"
            " task.transfer_data takes them, say labelled: false",
        )
    for name in names:
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise InputError(
                "a class folder's name has a character that cannot be shown",
                path=path,
                value=name,
                remedy="rename the folder",
            )
    alike = [name for name, count in Counter(n.lower() for n in names).items() if count > 1]
    if alike:
        raise InputError(
            f"has classes whose names differ by capital letters alone: {_listed(alike)}",
            path=path,
            value=str(train),
            remedy="join the folders, or rename one",
        )


def _check_same_classes(train: Path, place: Path, names: Sequence[str], path: str) -> None:
    """Refuse a split whose class folders are not those of train."""
    there = {p.name for p in _folders(place)}
    lacks, more = sorted(set(names) - there), sorted(there - set(names))
    if not lacks and not more:
        return
    said = [f"lacks {_listed(lacks)}"] if lacks else []
    said += [f"has {_listed(more)}, which {train.name} lacks"] if more else []
    raise InputError(
        f"the classes differ: {place.name} {' and '.join(said)}",
        path=path,
        value=str(place),
        remedy="give every split the same class folders, with the same capital letters",
    )


def _labelled(
    place: Path, names: Sequence[str], notes: Counter[tuple[str, str]], path: str
) -> Files:
    """The pictures of each class; what lies beside the class folders is noted.

    Raises:
        InputError: names the classes that have none.
    """
    files: Files = []
    empty = []
    for label, name in enumerate(names):
        inner = _folders(place / name)
        if inner and all(p.name.lower() in SPELLINGS for p in inner):
            raise InputError(
                f"has the folders {_listed([p.name for p in inner])} inside of the class {name!r}",
                path=path,
                value=str(place),
                remedy="turn it round: train/CLASS, val/CLASS, test/CLASS",
            )
        own: Counter[tuple[str, str]] = Counter()
        found = list(_pictures_below(place / name, own))
        notes.update(own)
        files += [(file, label) for file in found]
        if not found:
            why = "; ".join(str(one) for one in _as_left_out(own))
            empty.append(f"{name} ({why})" if why else name)
    if empty:
        raise InputError(
            f"no picture that can be read is in {_listed(empty)}",
            path=path,
            value=str(place),
            remedy="convert them to PNG or JPEG, or remove the folder of a class that has none",
        )
    for entry in _entries(place):
        if not entry.is_dir() and _is_picture(Path(entry.path)):
            notes[str(place), "pictures beside the class folders: left out"] += 1
    return files


def _pictures_below(
    folder: Path, notes: Counter[tuple[str, str]], above: tuple[str, ...] = ()
) -> Iterator[Path]:
    """All pictures below a folder, links followed, in a fixed order; what else there is, noted."""
    above = (*above, os.path.realpath(folder))
    for entry in _entries(folder):
        place = Path(entry.path)
        if entry.is_dir():
            real = os.path.realpath(place)
            if any(Path(one).is_relative_to(real) for one in above):
                notes[str(place), "link that leads back to where it lies: left out"] += 1
                continue
            inside = list(_pictures_below(place, notes, above))
            yield from inside
            if entry.is_symlink():
                notes[str(place), f"linked folder: followed, {len(inside):,} pictures"] += 1
        elif _is_picture(place):
            if place.suffix.lower() not in IMAGE_SUFFIXES:
                notes["", f"{_kind_of(place)}: read, by their content they are pictures"] += 1
            yield place
        elif entry.is_symlink() and not place.exists():
            notes[str(folder), "broken links: left out"] += 1
        elif not entry.is_file():
            notes[str(folder), "pipes or devices: left out"] += 1
        else:
            known = place.suffix.lower() in UNREAD
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
        if not file.is_file():
            return False
        with Image.open(file, formats=IMAGE_FORMATS):
            return True
    except Exception:  # Whatever Pillow makes of arbitrary bytes.
        return False


def _folders(folder: Path) -> list[Path]:
    """The sub-folders, linked ones too, by name; those of tools are not there."""
    return [Path(entry.path) for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what tools put there for themselves.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not _of_tools(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise InputError(
            f"the folder cannot be read: {error.strerror}",
            file=folder,
            remedy="correct its permissions, or name another folder",
        ) from None


def _of_tools(name: str) -> bool:
    """``.git``, ``._picture.png`` (AppleDouble), ``__MACOSX``, ``@eaDir`` and their like."""
    return name.startswith((".", "__", "@")) or name.lower() in OF_TOOLS


def _no_pictures(folder: Path, notes: Counter[tuple[str, str]]) -> InputError:
    why = "; ".join(str(one) for one in _as_left_out(notes))
    return InputError(
        f"holds no picture that can be read{f': {why}' if why else ''}",
        file=folder,
        remedy="check the path; convert pictures of other kinds to PNG or JPEG",
    )


def _as_left_out(notes: Counter[tuple[str, str]]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(where, what, count) for (where, what), count in notes.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
