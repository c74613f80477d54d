"""The screen: what every command prints with. Text is shown as it is, whoever wrote it.

Rich's markup (``[red]``, ``[link=…]``) is not interpreted, control characters are escaped, secrets
are left out: names, causes and parameters come from files that others may have made.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from pdo_search.safetext import presentable

__all__ = ["plain_text", "screen"]


class Screen(Console):
    """A console to which markup and control characters are text like any other."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Text from a string; rich asks here for every string that it prints, cells included."""
        return super().render_str(presentable(text), **options)


def screen(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error.

    Args:
        width: characters per line where that is no terminal; None leaves it at rich's 80.
        stderr: whether it is on standard error.
    """
    console = Screen(highlight=False, markup=False, emoji=False, stderr=stderr)
    if width is not None and not console.is_terminal:
        console.width = width
    return console


def plain_text(text: str, **options: Any) -> Text:
    """One line for rich, shown as it is; ``options`` are those of ``rich.text.Text``."""
    return Text(presentable(text).replace("\n", "\\n"), **options)
