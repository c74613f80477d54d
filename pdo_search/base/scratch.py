"""Local folders for the time of a block, which no killed process leaves behind for ever."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdo_search.base.process import identity, is_dead

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """An empty folder below the one for temporary files; gone at the end.

    Those that dead processes of this package left there are removed first.

    Args:
        what: a word for its name.
    """
    mine = identity()
    mark = f"{_digest(mine['namespace'])}-"
    for left in Path(tempfile.gettempdir()).glob(f"pdo-*-{mark}*"):
        owner = re.fullmatch(rf"pdo-[a-z]+-{mark}(\d+)-\w+", left.name)
        if owner and is_dead({**mine, "pid": int(owner[1])}):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"pdo-{what}-{mark}{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest(namespace: str) -> str:
    return hashlib.blake2b(namespace.encode(), digest_size=4).hexdigest()
