"""Reading files that a stranger may have made: regular ones only, and no more than fits.

A sweep that was unpacked from an archive may hold a pipe, a link to ``/dev/zero`` or a sparse file
of a terabyte where a small file should be.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["odd_entry", "read_regular"]


def read_regular(file: Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        file: its path; links are followed.
        limit: most bytes it may have.

    Raises:
        OSError: it cannot be read, is a pipe or a device, or is larger.
    """
    # A pipe without a writer would keep a blocking open waiting for ever.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(file))
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(file))
        return stream.read(min(limit, found.st_size + 1))


def odd_entry(directory: Path) -> Path | None:
    """An entry below a directory that is neither a plain file nor a folder: a link, a pipe.

    Copying a directory with a link in it would carry along what the link points to.
    """
    return next((p for p in directory.rglob("*") if _is_odd(p)), None)


def _is_odd(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
