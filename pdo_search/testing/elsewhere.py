"""Calls in another process, which hashes texts otherwise: what comes back depends on its arguments
alone.

Python and the package are started anew once for all tests; every call is a fork of that.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from typing import ParamSpec, TypeVar

__all__ = ["call_elsewhere"]

P = ParamSpec("P")
T = TypeVar("T")
PRELOADED = "pdo_search.testing.task"
OTHER_HASHES = {"PYTHONHASHSEED": "7"}


def call_elsewhere(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a module returns in a process of its own.

    Args:
        function: found there by its name.
        args: its arguments, pickled.
        kwargs: as ``args``.

    Raises:
        Exception: what it raised there.
    """
    with ProcessPoolExecutor(1, mp_context=_server()) as pool:
        return pool.submit(function, *args, **kwargs).result()


@cache
def _server() -> ForkServerContext:
    """A process that forks, started when it is first asked for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    before = dict(os.environ)
    os.environ |= OTHER_HASHES
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before
    return context
