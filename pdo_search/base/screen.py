"""The screen: what every command prints with. Text is shown as it is, whoever wrote it.

Rich's markup (``[red]``, ``[link=…]``) is not interpreted, control characters are escaped, secrets
are left out: names, causes and parameters come from files that others may have made. A screen that
nobody reads any more (``| head``, a terminal that was closed) ends nothing.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from pdo_search.base.errors import PdoError
from pdo_search.base.safetext import presentable

__all__ = ["check_written", "keep_output_open", "plain_text", "screen"]

log = logging.getLogger(__name__)

NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class _Lasting(io.FileIO):
    """A standard stream that takes what is written to it for as long as the process lives.

    Attributes:
        lost: why nothing can be written any more; None while it can.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or drop what cannot be written; the number of bytes."""
        while self.lost is None:
            try:
                count = super().write(data)
            except OSError as error:
                self.lost = error
                break
            if count is not None:
                return count
            select.select([], [self], [])  # Somebody made the stream non-blocking, and it is full.
        return len(data)


def keep_output_open() -> None:
    """Put streams that outlast their readers in the place of standard output and standard error.

    Streams that were closed before the process began lead to nowhere. What a terminal's encoding
    lacks is printed as a question mark.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It gets the lowest number that is free. Processes that are started need it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        raw = _Lasting(1 if name == "stdout" else 2, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(old, "encoding", None) or "utf-8",
            errors="replace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, stream)


def check_written() -> None:
    """Refuse to call an output printed that a full disk has cut.

    Raises:
        PdoError: standard output cannot be written for another reason than that nobody reads it.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = getattr(raw, "lost", None)
    if lost is not None and lost.errno not in NOBODY_READS:
        raise PdoError(f"standard output cannot be written: {lost.strerror}")


class Screen(Console):
    """A console to which markup and control characters are text like any other.

    Lines, but not tables, go to the log as well.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, and note it."""
        for line in objects:
            if isinstance(line, str | Text) and str(line):
                log.info("%s", line)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text from a string; rich asks here for every string that it prints, cells included."""
        return super().render_str(presentable(text), **options)


def screen(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error.

    Args:
        width: characters per line where that is no terminal and COLUMNS is not set; None leaves it
            at rich's 80.
        stderr: whether it is on standard error.
    """
    console = Screen(highlight=False, markup=False, emoji=False, stderr=stderr)
    if width is not None and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = width
    return console


def plain_text(text: str, **options: Any) -> Text:
    """One line for rich, shown as it is; ``options`` are those of ``rich.text.Text``."""
    return Text(presentable(text).replace("\n", "\\n"), **options)
