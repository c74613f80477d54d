"""Whether a sweep's places can be made and written, found out without leaving anything there.

Knows folders; what lies in them, and which ones an experiment names, is known above.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage

__all__ = ["free_bytes", "refuse_places", "unusable"]

GONE_ON = (errno.ENOENT, errno.ENOTDIR)


def refuse_places(directory: str, store: str, file: Path) -> None:
    """Refuse a sweep's directory or store that cannot be made or written.

    Args:
        directory: of the sweep, path or URI.
        store: root of the artifact store, path or URI.
        file: of the experiment, for the message.

    Raises:
        InputError: names ``output.root`` or ``output.store``.
    """
    for path, place in (("output.root", directory), ("output.store", store)):
        problem = unusable(place)
        if problem is not None:
            raise InputError(
                problem,
                file=file,
                path=path,
                value=place,
                remedy=f"give a place that can be written, such as --set {path}=results",
            )


def unusable(place: str) -> str | None:
    """Why a directory cannot be made or written to; None where it can."""
    try:
        folder = Storage(place)
        if not folder.is_local:
            folder.files()
            return None
        standing = _standing(Path(folder.root))
        if not standing.is_dir():
            return f"cannot be made: {standing} is no directory"
        with tempfile.TemporaryFile(dir=standing):
            return None
    except InputError as error:
        return error.problem
    except (OSError, ValueError) as error:
        return f"cannot be written: {getattr(error, 'strerror', None) or error}"


def free_bytes(place: str) -> int | None:
    """Free bytes of the disk that a directory is on or will be on; None of an object store."""
    folder = Storage(place)
    return shutil.disk_usage(_standing(Path(folder.root))).free if folder.is_local else None


def _standing(path: Path) -> Path:
    """The path itself, or the nearest above it that exists.

    Raises:
        OSError: a name is too long, or a folder may not be looked into.
    """
    while True:
        try:
            os.stat(path)
        except OSError as error:
            if error.errno not in GONE_ON or path == path.parent:
                raise
            if path.is_symlink():
                raise OSError(error.errno, f"{path} is a link that leads nowhere") from None
            path = path.parent
        else:
            return path
