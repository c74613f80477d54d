"""Whether a sweep may be gone on with: it says which code is run, and where is written.

One's own sweeps go on as they began. A stranger's, unpacked from an archive say, could name any
function and any folder.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from pdo_search.base.errors import InputError
from pdo_search.base.safetext import one_line
from pdo_search.base.storage import Storage, is_uri
from pdo_search.results.sweepfile import SWEEP_FILE, SweepInfo
from pdo_search.search.base_folder import functions_of, needs_base_dir
from pdo_search.search.session import absolute

__all__ = ["Ground", "doubts_of", "ground_of", "outside_of", "refuse_strangers"]

WIDTH = 80


@dataclass(frozen=True)
class Ground:
    """Whose a sweep is, and where its store lies.

    Attributes:
        owner: user id of who made it; None on an object store.
        user: user id of who goes on with it.
        store: as the sweep records it.
        leads_to: where the store is, its links followed.
        beside: whether that is in the folder that the sweep lies in.
        there: whether it is there, as far as can be told.
        named: whether the experiment names a store elsewhere, and this is the one.
    """

    owner: int | None
    user: int
    store: str
    leads_to: str
    beside: bool
    there: bool
    named: bool


def doubts_of(ground: Ground) -> list[str]:
    """Why a sweep may be a stranger's; none of one's own. Pure.

    A store beside the sweep is made anew where it is gone.
    """
    doubts = []
    if ground.owner is not None and ground.owner != ground.user:
        doubts.append(f"belongs to another user (number {ground.owner})")
    if not ground.beside and not ground.there:
        doubts.append(f"its store {ground.store} is not there")
    elif not ground.beside and not ground.named:
        link = "" if ground.leads_to == ground.store else f", which is {ground.leads_to},"
        doubts.append(
            f"its store {ground.store}{link} lies neither beside it nor where its experiment says"
        )
    return doubts


def ground_of(sweep: str, info: SweepInfo) -> Ground:
    """Look where a sweep and its store lie.

    Args:
        sweep: its directory, path or URI.
        info: what it says.
    """
    storage = Storage(absolute(sweep))
    store = absolute(info.store)
    owner = (Path(storage.root) / SWEEP_FILE).stat().st_uid if storage.is_local else None
    leads_to = store if is_uri(store) else os.path.realpath(store)
    around = {storage.root.rpartition("/")[0]}
    if storage.is_local:
        # The sweep may be a link, and so may the folder that it lies in.
        around = {os.path.realpath(*around), os.path.dirname(os.path.realpath(storage.root))}
    return Ground(
        owner=owner,
        user=os.geteuid(),
        store=store,
        leads_to=leads_to,
        beside=any(_is_below(leads_to, folder) for folder in around),
        there=is_uri(store) or Path(store).is_dir(),
        named=_is_named(info.resolved.get("output"), storage.root, store),
    )


def _is_below(path: str, folder: str) -> bool:
    """Whether a path, or URI, is of a folder; one that goes up again is not."""
    inside = path.removeprefix(f"{folder}/")
    return inside != path and ".." not in PurePosixPath(inside).parts


def _is_named(output: Any, sweep: str, store: str) -> bool:
    """Whether an experiment says that its store is this one, and not the one beside the sweep.

    Args:
        output: its section, with every default filled in.
        sweep: directory of the sweep.
        store: the store.
    """
    if not isinstance(output, dict):
        return False
    own, root = output.get("store"), output.get("root")
    if isinstance(own, str):
        # What is relative began where the sweep was started.
        said = PurePosixPath(own).parts
        return bool(said) and PurePosixPath(store).parts[-len(said) :] == said
    # The sweep was carried elsewhere, and its store stayed.
    away = not _is_below(store, sweep.rpartition("/")[0])
    return away and isinstance(root, str) and store == f"{root.rstrip('/')}/.store"


def outside_of(info: SweepInfo) -> str:
    """What a resume runs and writes outside of the sweep, in a few lines."""
    # What is run is the experiment as given; a stranger's two may differ.
    functions = sorted(functions_of(info.given) | functions_of(info.resolved))
    lines = ["Going on runs no code of yours"]
    if functions:
        lines = [f"Going on runs {', '.join(functions)}", f"from {info.base_dir}"]
    lines.append(f"Teachers are built and read in {info.store}")
    return "\n".join(
        textwrap.fill(
            one_line(line),
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )


def refuse_strangers(
    sweep: str,
    info: SweepInfo,
    *,
    trust: bool,
    base_dir: str | None = None,
    console: Console | None = None,
) -> None:
    """Refuse a sweep that may be a stranger's, and say what going on with it does.

    Args:
        sweep: its directory, path or URI.
        info: what it says.
        trust: the user has read what it does, and wants it.
        base_dir: the experiment's folder; None where it is still the same.
        console: where to say what is run and written; None for not at all.

    Raises:
        InputError: it must be trusted, and is not.
    """
    if base_dir is not None:
        info = replace(info, base_dir=absolute(base_dir))
    doubts = doubts_of(ground_of(sweep, info))
    if doubts and not trust:
        gone = not Path(info.base_dir).is_dir() and needs_base_dir(info.resolved, info.base_dir)
        folder = " and --base-dir FOLDER: its experiment's folder is gone" if gone else ""
        raise InputError(
            f"{'; '.join(doubts)}\n{outside_of(info)}",
            file=f"{Storage(sweep).root}/{SWEEP_FILE}",
            remedy=f"to read its results: pdo-search show {sweep}\n"
            f"     to go on, where you know who made it: --trust{folder}",
        )
    if console is not None:
        console.print(outside_of(info), soft_wrap=True)
