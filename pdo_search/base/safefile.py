"""Reading files that a stranger may have made: regular ones only, and no more than fits.

A sweep that was unpacked from an archive may hold a pipe, a link to ``/dev/zero`` or a sparse file
of a terabyte where a small file should be.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["NOT_REGULAR", "odd_entry", "open_regular", "read_regular"]

NOT_REGULAR = "is no regular file"


def read_regular(file: Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        file: its path; links are followed.
        limit: most bytes it may have.

    Raises:
        OSError: it cannot be read, is a pipe or a device, or is larger.
    """
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(file))
        return stream.read(min(limit, size + 1))


def open_regular(file: Path) -> BufferedReader:
    """A regular file, opened for reading.

    Args:
        file: its path; links are followed.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    # A pipe without a writer would keep a blocking open waiting for ever.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, NOT_REGULAR, str(file))
    return open(descriptor, "rb")


def odd_entry(directory: Path) -> Path | None:
    """An entry below a directory that is neither a plain file nor a folder: a link, a pipe.

    Copying a directory with a link in it would carry along what the link points to.
    """
    return next((p for p in directory.rglob("*") if _is_odd(p)), None)


def _is_odd(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
