"""Content-addressed artifacts: directories named by the hash of all that determines them.

Owns single flight, atomic publication, verification and the mirror on an object store. What is in a
directory is its builder's business.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pdo_search.config.schema import is_uri
from pdo_search.errors import StoreError
from pdo_search.safefile import odd_entry, read_regular

__all__ = ["Artifact", "Store"]

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
_VERIFIED: set[tuple[str, int]] = set()


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        path: its directory, on the local disk.
        digest: hash of its key; its name everywhere.
        built: whether this call built it.
    """

    path: Path
    digest: str
    built: bool


class Store:
    """Artifacts under a root.

    A directory appears under its final name only when complete, with the SHA-256 of every file in
    its manifest. Builders of one artifact wait for each other on a lock that the operating system
    releases when its holder dies, so a dead builder is taken over at once.

    Args:
        root: a local directory; or a URI, which is mirrored in a cache on this machine (below
            ``PDO_SEARCH_CACHE``, or ``~/.cache/pdo_search``).
    """

    def __init__(self, root: str | Path) -> None:
        self.remote = str(root) if is_uri(str(root)) else None
        if self.remote:
            name = hashlib.blake2b(self.remote.encode(), digest_size=8).hexdigest()
            self.root = _cache_root() / "store" / name
        else:
            self.root = Path(root)

    def get_or_build(
        self, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]
    ) -> Artifact:
        """The artifact of a key, built now if nobody has.

        Args:
            kind: what it is, such as ``teacher``; a sub-directory.
            key: everything that determines the content, as JSON-able values.
            build: fills the empty directory that it is given. What it raises is passed on, and
                leaves nothing behind.

        Raises:
            StoreError: the artifact cannot be written.
        """
        digest = digest_of(kind, key)
        path = self.root / kind / digest[:2] / digest
        if self._sound(path):
            return Artifact(path, digest, built=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if self._sound(path) or self._fetched(path):
                    return Artifact(path, digest, built=False)
                self._build(path, kind, key, build)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {_explained(error)}") from error
        return Artifact(path, digest, built=True)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Manifests of all artifacts on this machine, with ``path`` and ``bytes``."""
        for manifest in sorted(self.root.glob(f"*/??/*/{MANIFEST}")):
            content = json.loads(manifest.read_text(encoding="utf-8"))
            size = sum(f.stat().st_size for f in manifest.parent.rglob("*") if f.is_file())
            yield {**content, "path": str(manifest.parent), "bytes": size}

    def _build(
        self, path: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]
    ) -> None:
        """Build beside, seal, rename. The caller holds the lock."""
        for left_over in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(left_over, ignore_errors=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        started = time.time()
        try:
            beside.mkdir()
            build(beside)
            manifest = {
                "format": FORMAT,
                "kind": kind,
                "key": dict(key),
                "built_at": started,
                "build_s": time.time() - started,
                "files": {
                    str(f.relative_to(beside)): _sha256(f)
                    for f in sorted(beside.rglob("*"))
                    if f.is_file()
                },
            }
            (beside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for file in beside.rglob("*"):
                if file.is_file():
                    _fsync(file)
            beside.rename(path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        if self.remote:
            self._upload(path)
        _VERIFIED.add(_stamp(path))

    def _sound(self, path: Path) -> bool:
        """Whether a complete, undamaged artifact lies at a path; a damaged one is set aside."""
        if not path.exists():
            return False
        try:
            if _stamp(path) in _VERIFIED:
                return True
            why = _damage(path)
            if why is None:
                _VERIFIED.add(_stamp(path))
                return True
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = str(error)
        aside = self.root / ".damaged" / f"{path.name}.{time.time_ns()}"
        log.warning("artifact %s is damaged (%s): set aside as %s", path, why, aside)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            log.info("another process set %s aside first", path)
        return False

    def _remote_path(self, path: Path) -> tuple[Any, str]:
        from pyarrow import fs

        filesystem, root = fs.FileSystem.from_uri(self.remote)
        return filesystem, f"{root}/{path.relative_to(self.root).as_posix()}"

    def _fetched(self, path: Path) -> bool:
        """Copy an artifact from the object store, if it is whole there."""
        if not self.remote:
            return False
        from pyarrow import fs

        filesystem, remote = self._remote_path(path)
        if filesystem.get_file_info(f"{remote}/{MANIFEST}").type is not fs.FileType.File:
            return False
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        fs.copy_files(remote, str(beside), source_filesystem=filesystem)
        beside.rename(path)
        return self._sound(path)

    def _upload(self, path: Path) -> None:
        """Copy an artifact to the object store, its manifest last: until then it is not there."""
        filesystem, remote = self._remote_path(path)
        files = [f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST]
        for file in [*files, path / MANIFEST]:
            target = f"{remote}/{file.relative_to(path).as_posix()}"
            filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
            with filesystem.open_output_stream(target) as stream:
                stream.write(file.read_bytes())


def _damage(path: Path) -> str | None:
    """What is wrong with an artifact; None for nothing.

    Only files that lie in it are looked at, whatever its manifest names; and a link in it is damage
    like any other, since copying the artifact would carry along what it points to.

    Raises:
        Exception: OSError and others, where the manifest cannot be read.
    """
    if path.is_symlink() or (odd := odd_entry(path)):
        return f"{path if path.is_symlink() else odd} is a link, or no file"
    manifest = json.loads(read_regular(path / MANIFEST, MAX_MANIFEST_BYTES))
    there = {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}
    for name, sha in manifest["files"].items():
        if name not in there or _sha256(path / name) != sha:
            return f"checksum of {name} differs"
    return None


def digest_of(kind: str, key: Mapping[str, Any]) -> str:
    """The name of an artifact: a hash of its kind, its key and the format's version."""
    text = json.dumps([FORMAT, kind, key], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _cache_root() -> Path:
    given = os.environ.get("PDO_SEARCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "pdo_search"


def _stamp(path: Path) -> tuple[str, int]:
    return str(path), (path / MANIFEST).stat().st_mtime_ns


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; make space and resume: what was finished is kept"
    return str(error)
