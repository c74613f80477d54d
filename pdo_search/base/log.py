"""Logging: what happens inside goes to a file of the sweep, not to the screen.

Secrets and control characters are taken out of every line, wherever it comes from.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdo_search.base.errors import StoreError
from pdo_search.base.process import host_and_process
from pdo_search.base.safetext import presentable
from pdo_search.base.scratch import scratch_folder
from pdo_search.base.storage import Storage

__all__ = ["LOG_FORMAT", "log_to_file"]

FOLDER = "logs"
COPIED_EVERY_S = 60.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NOISY = ("ray", "optuna", "filelock")
MISLEADING = "ray.tune.analysis"
"""Warns of every trial that it left no result file for Tune, which here none is to leave."""


class _Presentable(logging.Formatter):
    """A formatter, because a filter would not see the text of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return presentable(super().format(record))


@contextmanager
def log_to_file(sweep: str) -> Iterator[None]:
    """Append the log of this process to ``<sweep>/logs/driver.log``: Ray's too, if it is imported.

    On an object store, where nothing can be appended to, each driver has a file of its own,
    ``logs/driver-<when>-<host>-<process>.log``, which is copied there every minute and at the end.

    Raises:
        StoreError: it cannot be written.
    """
    storage = Storage(sweep)
    if storage.is_local:
        with _logged_into(storage.local_file(f"{FOLDER}/driver.log")):
            yield
        return
    name = f"driver-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{host_and_process()}.log"
    with scratch_folder("log") as folder:
        try:
            with _logged_into(folder / name), _copied(storage, folder / name):
                yield
        finally:
            _copy(storage, folder / name)


@contextmanager
def _copied(storage: Storage, file: Path) -> Iterator[None]:
    """Copy a growing file to a storage while the block runs, in a thread."""
    ended = threading.Event()

    def copy() -> None:
        while not ended.wait(COPIED_EVERY_S):
            _copy(storage, file)

    threading.Thread(target=copy, name="log", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _copy(storage: Storage, file: Path) -> None:
    """Copy it as it is now, or not at all: a log is not worth a sweep."""
    try:
        storage.write(f"{FOLDER}/{file.name}", file.read_bytes())
    except (OSError, StoreError) as error:
        # No warning: the last copy is made when nothing but the terminal hears it.
        logging.getLogger(__name__).info("the log cannot be copied now: %s", error)


@contextmanager
def _logged_into(file: Path) -> Iterator[None]:
    """Append what is logged to a file while the block runs."""
    root = logging.getLogger()
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:  # Another user's, say.
        raise StoreError(f"{file} cannot be written: {error}") from error
    handler.setFormatter(_Presentable(LOG_FORMAT))
    wanted = {"pdo_search": logging.INFO, MISLEADING: logging.ERROR}
    levels = [(logger, logger.level) for logger in map(logging.getLogger, wanted)]
    for logger, _ in levels:
        logger.setLevel(wanted[logger.name])
    root.addHandler(handler)
    silenced = [(n, n.handlers, n.propagate) for n in map(logging.getLogger, NOISY)]
    for logger, _, _ in silenced:
        logger.handlers = [handler]
        logger.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, handlers, propagate in silenced:
            logger.handlers = handlers
            logger.propagate = propagate
        for logger, level in levels:
            logger.setLevel(level)
        handler.close()
