"""An artifact's manifest: what it was made from, and the size and checksum of what was made.

Owns its form, writing it and checking files against it. A manifest that was read is not trusted: it
names files inside of its own directory or it is no manifest.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pdo_search.base.safefile import odd_entry, open_regular, read_regular

__all__ = [
    "MANIFEST",
    "Damage",
    "Manifest",
    "damage_of",
    "first_damage",
    "parse",
    "seal",
    "what_it_is",
]

MANIFEST = "manifest.json"
FORMAT = 1
MAX_BYTES = 16 << 20
UNREADABLE = "(its manifest cannot be read)"


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name in (".", MANIFEST):
        raise ValueError("is no name of a file in the artifact")
    if "\0" in name or "\\" in name:
        raise ValueError("has a character that no file name has")
    return name


class Manifest(BaseModel):
    """What a builder says of its artifact. Fields that a later version added are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    format: int = FORMAT
    """Version of this form."""
    kind: str
    """What it is, such as ``teacher``."""
    key: dict[str, Any]
    """Everything that determines the content."""
    built_at: float
    """When the build began, seconds since 1970."""
    build_s: float
    """How long it took; of a build that was gone on with, the last part."""
    bytes: int | None = None
    """Sum of the files' sizes, without the manifest; None before sizes were recorded."""
    files: dict[Annotated[str, AfterValidator(_inside)], str]
    """SHA-256 by file name, relative to the artifact's directory."""


@dataclass(frozen=True)
class Damage:
    """Why an artifact cannot be used.

    Attributes:
        file: the first file that is not as its builder left it.
        why: what is wrong with it.
    """

    file: str
    why: str

    def __str__(self) -> str:
        return f"{self.file} {self.why}"


def parse(data: bytes) -> Manifest:
    """A manifest from its file.

    Raises:
        ValueError: it is none, or names files outside of its directory.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"is not valid: {where and f'{where}: '}{first['msg']}") from None


def seal(folder: Path, kind: str, key: Mapping[str, Any], started: float) -> None:
    """Write the manifest of a directory that is complete, and bring all of it to the disk."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    manifest = Manifest(
        kind=kind,
        key=dict(key),
        built_at=started,
        build_s=time.time() - started,
        bytes=sum(f.stat().st_size for f in files),
        files={f.relative_to(folder).as_posix(): sha256_of(f) for f in files},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    for file in (*files, folder / MANIFEST):
        fsync(file)


def damage_of(folder: Path) -> Damage | None:
    """What is wrong with an artifact; None when every file is as its builder left it.

    A link is damage: copying the artifact would carry along what it points to.
    """
    try:
        if odd := folder if folder.is_symlink() else odd_entry(folder):
            return Damage(odd.name, "is a link, or no file")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return Damage(MANIFEST, "is missing" if missing else str(error))
    return first_damage(
        lambda: read_regular(folder / MANIFEST, MAX_BYTES), lambda name: sha256_of(folder / name)
    )


def first_damage(
    read: Callable[[], bytes | None], sha256_of: Callable[[str], str]
) -> Damage | None:
    """What is wrong with an artifact by its manifest and its files' checksums.

    Args:
        read: the manifest's file; None where there is none.
        sha256_of: the checksum of a file by its name.
    """
    name = MANIFEST
    try:
        if (content := read()) is None:
            return Damage(name, "is missing")
        for name, expected in parse(content).files.items():
            if sha256_of(name) != expected:
                return Damage(name, "has another checksum")
    except FileNotFoundError:
        return Damage(name, "is missing")
    except (OSError, ValueError) as error:
        return Damage(name, str(error))
    return None


def sha256_of(file: Path) -> str:
    """Hexadecimal checksum of a file."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Bring a file, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def what_it_is(kind: str, manifest: Manifest | None) -> str:
    """An artifact in a few words, from its key.

    The keys are those of the kinds' builders; whatever is in one, some words come back.
    """
    if manifest is None:
        return UNREADABLE
    key = manifest.key
    if kind == "teacher" and isinstance(config := key.get("config"), dict):
        return " ".join(_words(config, "arch", "width", "depth", "weights"))
    if kind in ("level", "rung"):
        return " ".join((*_words(key, "ratio"), f"of {str(key.get('parent'))[:8]}"))
    if kind == "bank":
        what = f"{key.get('split')}, view {key.get('view')}, examples {key.get('examples')}"
        return f"{what}, of {str(key.get('teacher'))[:8]}"
    if kind == "tested":
        return f"test metrics of {str(key.get('teacher'))[:8]}"
    return " ".join(_words(key, *key))


def _words(values: Mapping[str, Any], *names: str) -> Iterator[str]:
    """``name value`` of each plain value that is there; an architecture needs no name."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str | int | float):
            yield str(value) if name == "arch" else f"{name} {value}"
