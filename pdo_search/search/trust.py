"""Whether a sweep may be gone on with: it says which code is run, and where is written.

One's own sweeps go on as they began. A stranger's, unpacked from an archive say, could name any
function and any folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pdo_search.base.storage import Storage, is_uri
from pdo_search.errors import InputError
from pdo_search.results.sweepfile import SWEEP_FILE, SweepInfo
from pdo_search.search.tuning import absolute

__all__ = ["outside_of", "refuse_strangers"]


def outside_of(info: SweepInfo) -> str:
    """What a resume runs and writes outside of the sweep, in a line."""
    functions = sorted(set(_functions(info.resolved)))
    runs = (
        f"runs {', '.join(functions)} of {info.base_dir}" if functions else "runs no code of yours"
    )
    return f"Going on {runs}; builds and reads teachers in {info.store}"


def refuse_strangers(sweep: str, info: SweepInfo, *, trust: bool) -> None:
    """Refuse a sweep that is not this user's, or that names a store that is not there.

    Args:
        sweep: its directory, path or URI.
        info: what it says.
        trust: the user has read what it does, and wants it.

    Raises:
        InputError: it must be trusted, and is not.
    """
    doubts = list(_doubts(sweep, info))
    if doubts and not trust:
        raise InputError(
            f"{'; '.join(doubts)}. {outside_of(info)}",
            file=f"{Storage(sweep).root}/{SWEEP_FILE}",
            remedy="read what it does, then say --trust; its tables can be read without",
        )


def _doubts(sweep: str, info: SweepInfo) -> Iterator[str]:
    storage = Storage(absolute(sweep))
    if storage.is_local:
        owner = (Path(storage.root) / SWEEP_FILE).stat().st_uid
        if owner != os.geteuid():
            yield f"belongs to another user (number {owner})"
    beside = str(PurePosixPath(storage.root).parent)
    elsewhere = not info.store.startswith(f"{beside}/")
    if elsewhere and not is_uri(info.store) and not Path(info.store).is_dir():
        yield f"its store {info.store} is not there"


def _functions(tree: Any) -> Iterator[str]:
    """All ``module:function`` of an experiment."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("arch", "source") and isinstance(value, str) and ":" in value:
                yield value
            else:
                yield from _functions(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _functions(value)
