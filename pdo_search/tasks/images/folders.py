"""Finding the pictures of a folder: its splits, its classes, and what is neither.

Nothing that may be a picture is left out without a word, and no folder that a tool made for itself
is taken for a class.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdo_search.base.errors import InputError
from pdo_search.tasks.base import LeftOut, Split
from pdo_search.tasks.images.listing import (
    BACK,
    Notes,
    entries,
    folders,
    note_beside,
    pictures_below,
)

__all__ = ["Files", "Folder", "find_pictures", "flat_folder"]

SPELLINGS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "trn": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
    "tst": Split.TEST,
    "holdout": Split.TEST,
}
"""Usual names of folders that are splits, in small letters."""
BESIDES = "set|data|dataset|images?|imgs?|pictures?|pics|photos?|split|seg"
"""What such a name may have besides: ``training_set``, ``seg_train``, ``valset``, ``train2017``."""
SPLIT_WORD = re.compile(rf"({'|'.join(SPELLINGS)})(?:{BESIDES})?")
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
    notes: Notes = Counter()
    with _readable(folder, path):
        roles = _roles(folder, path)
        train = roles.get(Split.TRAIN, folder)
        classes = _classes(train, folder, notes, path)
        _check_classes(classes, train, folder, path)
        splits = {Split.TRAIN: _labelled(train, classes, notes, path)}
        for split in (Split.VALIDATION, Split.TEST):
            place = roles.get(split)
            there = {} if place is None else _classes(place, folder, notes, path)
            if place is not None and there:
                _check_same_classes(train, classes, place, there, path)
                splits[split] = _labelled(place, there, notes, path)
            elif place is not None:
                # As competitions publish their test pictures, whose classes nobody knows.
                count = sum(1 for _ in pictures_below(place, notes))
                what = (
                    "pictures without a class folder: left out"
                    if count
                    else "empty folder: not used"
                )
                notes[str(place), what] += count or 1
        if roles:
            note_beside(folder, notes)
            notes[str(folder), _use_of(roles, splits)] += len(splits)
    return Folder(tuple(classes), splits, _as_left_out(notes))


def flat_folder(folder: Path, path: str) -> Folder:
    """All picture files below a folder, whatever its sub-folders are called, without classes.

    Args:
        folder: where they are.
        path: where it stands in the experiment, for messages.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    notes: Notes = Counter()
    with _readable(folder, path):
        files = [(file, -1) for file in pictures_below(folder, notes)]
    if not files:
        why = "; ".join(str(one) for one in _as_left_out(notes))
        raise InputError(
            f"holds no picture that can be read{f': {why}' if why else ''}",
            path=path,
            value=str(folder),
            remedy="check the path; convert pictures of other kinds to PNG or JPEG",
        )
    return Folder((), {Split.TRAIN: files}, _as_left_out(notes))


@contextmanager
def _readable(folder: Path, path: str) -> Iterator[None]:
    """Refuse what the system does not let be read.

    Raises:
        InputError: names it.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}",
            file=error.filename,
            path=path,
            value=str(folder),
            remedy="correct its permissions, or name another folder",
        ) from None


def _roles(folder: Path, path: str) -> dict[Split, Path]:
    """The folders of the splits; none where the sub-folders are classes.

    Raises:
        InputError: split folders and others lie side by side, or two are of one split.
    """
    found: dict[Split, Path] = {}
    others = []
    places = folders(folder)
    spelled = {place: _split_of(place.name) for place in places}
    if not any(spelled.values()):
        # Such as animals_train and animals_test: all of them, or a class is called train_station.
        loose = {place: _split_of(place.name, anywhere=True) for place in places}
        spelled = loose if all(loose.values()) and Split.TRAIN in loose.values() else spelled
    for place, split in spelled.items():
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
    _check_links(folder, path)
    classes = [place.name for place in others if any(pictures_below(place, Counter()))]
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


def _split_of(name: str, *, anywhere: bool = False) -> Split | None:
    """The split that a folder's name spells; ``anywhere``: with words of any kind besides."""
    words = re.findall(r"[a-z]+", name.lower())
    found = {SPELLINGS[m[1]] for word in words if (m := SPLIT_WORD.fullmatch(word))}
    if len(found) != 1:
        return None
    strange = [w for w in words if not SPLIT_WORD.fullmatch(w) and not re.fullmatch(BESIDES, w)]
    return found.pop() if anywhere or not strange else None


def _check_links(folder: Path, path: str) -> None:
    """Refuse a split that is a link to nowhere: a share of train would stand in for it."""
    for entry in entries(folder):
        if entry.is_symlink() and not os.path.exists(entry) and _split_of(entry.name):
            raise InputError(
                f"{entry.name} is a link that leads nowhere: to {os.readlink(entry)}",
                path=path,
                value=str(folder),
                remedy="correct the link, or take it away",
            )


def _use_of(roles: Mapping[Split, Path], splits: Mapping[Split, Files]) -> str:
    """What the folders of the splits are used for, in words."""
    used = ", ".join(
        place.name if place.name == split.value else f"{place.name} as {split.value}"
        for split, place in ((split, roles[split]) for split in splits)
    )
    shares = [s.value for s in (Split.VALIDATION, Split.TEST) if s not in splits]
    taken = f"; {' and '.join(shares)} from shares of train" if shares else ""
    return f"folders of splits, used as they are: {used}{taken}"


def _classes(place: Path, root: Path, notes: Notes, path: str) -> dict[str, Path]:
    """The class folders by name, in order. Names that look alike are alike, however an operating
    system composes their letters (Unicode's NFC and NFD).

    Raises:
        InputError: two of them are one.
    """
    found: dict[str, Path] = {}
    reals: dict[str, str] = {}
    for one in folders(place):
        real = os.path.realpath(one)
        if Path(os.path.realpath(root)).is_relative_to(real):
            notes[str(one), BACK] += 1
            continue
        name = unicodedata.normalize("NFC", one.name)
        same = name if name in found else reals.get(real)
        if same is not None:
            raise InputError(
                f"the class folders {found[same].name!r} and {one.name!r} are the same",
                path=path,
                value=str(place),
                remedy="take one of them away, or join them",
            )
        found[name], reals[real] = one, name
    return dict(sorted(found.items()))


def _check_classes(classes: Mapping[str, Path], train: Path, folder: Path, path: str) -> None:
    if len(classes) < 2:
        alone = next(iter(classes.values()), None)
        remedy = (
            "lay it out as CLASS/picture.png; for pictures without classes, as task.transfer_data"
            " takes them, say labelled: false"
        )
        inner = [] if alone is None else folders(alone)
        if len(inner) > 1 or any(_split_of(one.name) for one in inner):
            remedy = f"name {alone}" if train == folder else f"move up what is in {alone}"
            remedy += ", if its folders are what is meant"
        raise InputError(
            "needs one sub-folder of pictures per class, two classes at least"
            + (f"; there is {alone.name!r} alone" if alone else ""),
            path=path,
            value=str(train),
            remedy=remedy,
        )
    for name in classes:
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise InputError(
                "a class folder's name has a character that cannot be shown",
                path=path,
                value=name,
                remedy="rename the folder",
            )
    counts = Counter(name.lower() for name in classes)
    alike = [name for name, count in counts.items() if count > 1]
    if alike:
        raise InputError(
            f"has classes whose names differ by capital letters alone: {_listed(alike)}",
            path=path,
            value=str(train),
            remedy="join the folders, or rename one",
        )


def _check_same_classes(
    train: Path, classes: Iterable[str], place: Path, there: Iterable[str], path: str
) -> None:
    """Refuse a split whose class folders are not those of train."""
    lacks, more = sorted({*classes} - {*there}), sorted({*there} - {*classes})
    if not lacks and not more:
        return
    said = [f"lacks {_listed(lacks)}"] if lacks else []
    said += [f"has {_listed(more)}, which {train.name} lacks"] if more else []
    raise InputError(
        f"the classes differ: {place.name} {' and '.join(said)}",
        path=path,
        value=str(place),
        remedy="give every split the same class folders, with the same capital letters; or take"
        f" {place.name} away, and a share of {train.name} is used",
    )


def _labelled(place: Path, classes: Mapping[str, Path], notes: Notes, path: str) -> Files:
    """The pictures of each class; what lies beside the class folders is noted.

    Raises:
        InputError: names the classes that have none.
    """
    files: Files = []
    empty = []
    for label, (name, folder) in enumerate(classes.items()):
        inner = folders(folder)
        if inner and all(_split_of(p.name) for p in inner):
            raise InputError(
                f"has the folders {_listed([p.name for p in inner])} inside of the class {name!r}",
                path=path,
                value=str(place),
                remedy="turn it round: train/CLASS, val/CLASS, test/CLASS; or, if these hold the"
                f" folders of classes, name {folder}",
            )
        own: Notes = Counter()
        found = list(pictures_below(folder, own))
        if folder.is_symlink():
            own[str(folder), f"linked folder: followed, {len(found):,} pictures"] += 1
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
            remedy="convert what is there to PNG or JPEG; or remove the folder of a class that has"
            " none, from every split",
        )
    note_beside(place, notes)
    return files


def _as_left_out(notes: Notes) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(where, what, count) for (where, what), count in notes.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
