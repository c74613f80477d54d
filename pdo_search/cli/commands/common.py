"""What commands share: their arguments, and how an answer is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pdo_search.base.errors import InputError

__all__ = [
    "INTERRUPTED",
    "Address",
    "AsJson",
    "BaseDir",
    "Directory",
    "File",
    "Overrides",
    "Root",
    "Trust",
    "check_address",
    "give",
]

INTERRUPTED = 130
"""Exit code of what was interrupted, as of shells."""


def _path(given: str) -> str:
    """A path with the home directory in the place of ``~``, which a shell leaves in quotes."""
    return os.path.expanduser(given)


File = Annotated[
    str, typer.Argument(help="An experiment file (YAML).", metavar="FILE", parser=_path)
]
Directory = Annotated[str, typer.Argument(help="A sweep's directory.", metavar="DIR", parser=_path)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: a.b=value. Repeatable.", metavar="a.b=v"),
]
Address = Annotated[
    str, typer.Option(help="local starts Ray here; auto joins this machine's cluster.")
]
BaseDir = Annotated[
    str | None,
    typer.Option(help="The experiment's folder, where it is another one now.", metavar="FOLDER"),
]
Trust = Annotated[bool, typer.Option("--trust", help="Go on with a sweep that somebody else made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Root = Annotated[
    str,
    typer.Argument(
        help="A store, or a sweep's output root; a path or URI.", metavar="ROOT", parser=_path
    ),
]


def check_address(address: str) -> None:
    """Refuse an address that is neither of the two.

    Raises:
        InputError: it is another.
    """
    if address not in ("local", "auto"):
        raise InputError("is local or auto", path="--address", value=address)


def give(found: dict[str, Any], as_json: bool, show_it: Callable[[dict[str, Any]], None]) -> None:
    """Print an answer as JSON, or as people read it."""
    from pdo_search.base.screen import check_written

    if as_json:
        print(json.dumps(found, indent=1, default=str))
    else:
        show_it(found)
    check_written()
