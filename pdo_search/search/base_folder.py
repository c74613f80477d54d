"""The experiment's own folder: what a sweep needs of it, and its modules kept with the sweep.

A job's working directory is gone when the job has ended, and a sweep goes on elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage, is_uri
from pdo_search.results.sweepfile import SWEEP_FILE, SweepInfo

__all__ = ["CODE", "functions_of", "keep_code", "moved", "needs_base_dir"]

CODE = "code"
"""Folder of the kept modules, in the sweep's directory."""

CODE_KEYS = ("arch", "kind", "source")
FILE_KEYS = ("path", "weights")


def needs_base_dir(resolved: dict[str, Any], base_dir: str) -> bool:
    """Whether an experiment names functions or files that its folder holds.

    Args:
        resolved: the experiment with every default filled in.
        base_dir: its folder, which may be gone.
    """
    return any(
        ":" in text and _lies_in(text.partition(":")[0].partition(".")[0], Path(base_dir))
        if key in CODE_KEYS
        # Weights may be a name as well.
        else not Path(text).is_absolute() and (key == "path" or "." in text)
        for key, text in _texts(resolved)
    )


def functions_of(tree: Any) -> set[str]:
    """All ``module:function`` that an experiment names; a dimension's choices are among them."""
    return {text for key, text in _texts(tree) if key in CODE_KEYS and ":" in text}


def _lies_in(module: str, folder: Path) -> bool:
    """Whether a module is of a folder, or of nowhere else."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return True
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    found = [Path(place).resolve() for place in places if place]
    return not found or any(place.is_relative_to(folder.resolve()) for place in found)


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    """Texts under the keys that name functions or files; a dimension's choices are among them."""
    if isinstance(tree, list):
        for part in tree:
            yield from _texts(part)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key in (*CODE_KEYS, *FILE_KEYS):
                yield from ((key, text) for text in _leaves(value))
            else:
                yield from _texts(value)


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)


def keep_code(sweep: str, info: SweepInfo, *, anew: bool) -> None:
    """Copy the modules of the experiment's folder that this process has imported to the sweep.

    Those are what its functions need, once data and models were built. They are run from there
    only where a user says so.

    Args:
        sweep: its directory.
        info: what it is asked to do.
        anew: whether it begins; later, what is kept stays as it was.

    Raises:
        StoreError: they cannot be written.
    """
    if not functions_of(info.resolved):
        return
    base, folder = Path(info.base_dir).resolve(), Storage(sweep)
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/").resolve()
        if not file.is_relative_to(base) or _installed(file, name):
            continue
        place = f"{CODE}/{file.relative_to(base).as_posix()}"
        # torch gives modules of its own names of files that are not there.
        own = file.suffix == ".py" and file.is_file()
        if own and (anew or folder.info(place) is None):
            folder.write(place, file.read_bytes())


def _installed(file: Path, name: str) -> bool:
    return "site-packages" in file.parts or name.partition(".")[0] in ("pdo_search", "__main__")


def moved(info: SweepInfo, sweep: str, base_dir: str | None) -> SweepInfo:
    """A sweep whose experiment's folder may be another one by now.

    Args:
        info: of the sweep.
        sweep: its directory.
        base_dir: the folder now; None for the one that the sweep began with.

    Raises:
        InputError: the folder is not there, and the experiment needs it.
    """
    if base_dir is not None:
        if not Path(base_dir).is_dir():
            raise InputError("is no folder", path="--base-dir", value=base_dir)
        return replace(info, base_dir=str(Path(base_dir).resolve()))
    if Path(info.base_dir).is_dir() or not needs_base_dir(info.resolved, info.base_dir):
        return info
    kept = not is_uri(sweep) and (Path(sweep) / CODE).is_dir()
    raise InputError(
        "the experiment's folder is gone, and the experiment names functions or files in it",
        file=f"{sweep}/{SWEEP_FILE}",
        path="base_dir",
        value=info.base_dir,
        remedy="name the folder where it is now: --base-dir FOLDER"
        + (f" (the modules as the sweep used them: --base-dir {sweep}/{CODE})" if kept else ""),
    )
