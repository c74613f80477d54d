"""``module:function``: the only way in which an experiment names code."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdo_search.errors import InputError

__all__ = ["is_factory", "load_factory", "load_local_factory", "source_digest"]

log = logging.getLogger(__name__)


def is_factory(name: str) -> bool:
    """Whether a name is written ``module:function``."""
    return ":" in name


def load_factory(name: str, path: str, base_dir: Path | None) -> Callable[..., Any]:
    """Import a function that the user named.

    Args:
        name: ``package.module:function``.
        path: where the name stands in the experiment, for messages.
        base_dir: the experiment's folder, searched first.

    Raises:
        InputError: the module or the function does not exist, or the import raises.
    """
    module_name, _, function_name = name.partition(":")
    if base_dir is not None and str(base_dir) not in sys.path:
        sys.path.insert(0, str(base_dir))
        importlib.invalidate_caches()
    log.info("running code named by the experiment: %s", name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}",
            path=path,
            value=name,
            remedy=f"put {module_name}.py beside the experiment file, or install it",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(
            f"module {module_name!r} has no function {function_name!r}",
            path=path,
            value=name,
            remedy="write module:function",
        )
    return function  # type: ignore[no-any-return]


def load_local_factory(name: str, path: str, folder: Path | None) -> Callable[..., Any]:
    """Import a function that a file names which somebody else may have made.

    ``os:system`` is a ``module:function`` too: so only a module that lies in the folder which the
    caller gave is imported, and only a function that was defined there is returned.

    Args:
        name: ``package.module:function``.
        path: where the name stands in the file, for messages.
        folder: whose modules may be run; None for no folder's.

    Raises:
        InputError: the module does not lie there, or see ``load_factory``.
    """
    refused = InputError(
        "was made by a function, and code that a file names runs only from a folder that you give",
        path=path,
        value=name,
        remedy="if you trust it: load_model(…, base_dir=FOLDER), the folder that holds the module",
    )
    if folder is None:
        raise refused
    top = name.partition(":")[0].partition(".")[0]
    importlib.invalidate_caches()
    there = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
    if there is None or there.origin is None or top in sys.stdlib_module_names:
        raise refused
    function = load_factory(name, path, folder)
    file = getattr(sys.modules[top], "__file__", None)
    own = str(getattr(function, "__module__", "")).partition(".")[0] == top
    if not own or file is None or Path(file).resolve() != Path(there.origin).resolve():
        raise refused
    return function


def source_digest(function: Callable[..., Any]) -> str:
    """The source text of a factory's module: an edit makes other artifacts."""
    module = inspect.getmodule(function)
    try:
        return inspect.getsource(module) if module is not None else inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", repr(function))
