"""Running a user's code: what it changes is put back, what it raises is told in words.

Knows no factory and no data: ``factory`` finds the function, others judge what it returns.
"""

from __future__ import annotations

import os
import random
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdo_search.base.errors import InputError
from pdo_search.base.safetext import presentable

__all__ = ["is_foreign", "surroundings_kept", "told", "user_code"]

LONGEST_TOLD = 400
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def _folder() -> str | None:
    """The working directory, None where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _to_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _to_device(device: torch.device) -> None:
    # A default that is set costs time in every call, even if it is the CPU.
    torch.set_default_device(None if device.type == "cpu" else device)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (_folder, _to_folder),
    (random.getstate, random.setstate),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _to_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
)
"""What scripts set for their whole process, each with how it is set."""


@contextmanager
def surroundings_kept(program: str) -> Iterator[None]:
    """Run code as a script without arguments; put back what it sets for the whole process.

    What it prints goes to standard error: standard output may be read as JSON. Torch's generator
    stays as the code leaves it, since a model's initial weights are drawn from it, and so does
    ``sys.path``, which modules that are imported later need.

    Args:
        program: its ``sys.argv[0]``.
    """
    argv, drawn = sys.argv, np.random.get_state()
    before = [(get(), get, put) for get, put in _SETTINGS]
    sys.argv = [program]
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        sys.argv = argv
        np.random.set_state(drawn)
        for value, get, put in before:
            if get() != value:
                put(value)


@contextmanager
def user_code(name: str, path: str) -> Iterator[None]:
    """Run a user's function in its surroundings; what it raises becomes an ``InputError``.

    Args:
        name: ``module:function``.
        path: where the name stands in the experiment, for messages.

    Raises:
        InputError: whatever the code raised, an exit included, with the line where it did.
    """
    try:
        with surroundings_kept(name.rpartition(":")[0]):
            yield
    except (KeyboardInterrupt, InputError):
        raise
    except SystemExit as stop:
        raise InputError(
            f"the factory ended the program: {told(stop)}",
            path=path,
            value=name,
            remedy="return instead of exiting; a parser of arguments finds none here: give it"
            f" defaults, or the function arguments in {path.rpartition('.')[0]}.args",
        ) from stop
    except BaseException as error:
        raise InputError(f"the factory raised {told(error)}", path=path, value=name) from error


def told(error: BaseException) -> str:
    """An error in one line: its class, its text, and the user's line that raised it."""
    try:
        text = " ".join(presentable(str(error)).split())
    except Exception:  # An exception of the user's own class may fail at this as well.
        text = "its text cannot be shown"
    if len(text) > LONGEST_TOLD:
        text = f"{text[:LONGEST_TOLD]}…"
    if isinstance(error, SystemExit):
        said = f"sys.exit({'' if error.code is None else text})"
    elif isinstance(error, SyntaxError):
        text = " ".join(presentable(error.msg).split())
        said = f"{type(error).__name__}: {text}"
    else:
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = _place(error)
    return said if place is None else f"{said} ({place})"


def _place(error: BaseException) -> str | None:
    """File and line of the user's code where an error came up, if it came up there."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return presentable(f"{error.filename}, line {error.lineno}")
    frames = traceback.walk_tb(error.__traceback__)
    own = [
        (f.f_code.co_filename, line) for f, line in frames if not is_foreign(f.f_code.co_filename)
    ]
    return presentable(f"{own[-1][0]}, line {own[-1][1]}") if own else None


def is_foreign(file: str) -> bool:
    """Whether a file is installed, or built in, and not the user's."""
    path, paths = Path(file), sysconfig.get_paths()
    if not path.is_absolute() or _INSTALLED & set(path.parts):
        return True
    return any(path.is_relative_to(p) for p in (paths["stdlib"], paths["platstdlib"], _PACKAGE))
