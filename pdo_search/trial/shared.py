"""Whether a machine sees the sweep that it works for: the same folders as the driver's.

Knows neither Ray nor what lies in the folders.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname

from pdo_search.base.errors import StoreError
from pdo_search.base.storage import Storage, is_uri

__all__ = ["REMEDY", "NotShared", "check_visible", "exchange", "note", "remove"]

MARKER = "sweep.json"
"""The driver writes it before anything starts."""

PATIENCE_S = 10.0
"""A network folder may show a new file some seconds late."""

REMEDY = (
    "mount one folder at this path on every machine, or keep the sweep in a bucket:"
    " --set output.root=s3://BUCKET/FOLDER"
)


class NotShared(StoreError):
    """A machine does not see the sweep's directory: what it writes would stay there, unseen."""


def check_visible(sweep: str) -> None:
    """Refuse to work for a sweep whose directory is not on this machine.

    Args:
        sweep: its directory; one with a URI is the same everywhere.

    Raises:
        NotShared: it is not there.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not is_uri(sweep) and not (Path(sweep) / MARKER).exists():
        if time.monotonic() > deadline:
            raise NotShared(f"{sweep} is not there on {gethostname()}; {REMEDY}")
        time.sleep(0.2)


def note(folder: str, name: str) -> None:
    """Write a small file; a folder on a disk with it.

    Raises:
        StoreError: it cannot be written.
    """
    Storage(folder).write(name, name.encode())


def exchange(folders: Sequence[str], theirs: str, own: str) -> dict[str, str]:
    """Look for another machine's note in each folder, and leave one of this machine's.

    Returns:
        What is wrong, by folder; empty where all is well.
    """
    wrong = {}
    for folder in folders:
        try:
            Storage(folder).read(theirs)
            note(folder, own)
        except Exception as error:  # An object store raises what it likes.
            wrong[folder] = f"{type(error).__name__}: {error}"
    return wrong


def remove(folder: str, name: str) -> bool:
    """Remove a note; whether it was there."""
    storage = Storage(folder)
    try:
        storage.read(name)
        storage.delete(name)
    except OSError:
        return False
    return True
