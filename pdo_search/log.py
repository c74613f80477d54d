"""Logging: what happens inside goes to a file of the sweep, not to the screen.

Secrets and control characters are taken out of every line, wherever it comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdo_search.base.storage import is_uri
from pdo_search.safetext import presentable

__all__ = ["LOG_FORMAT", "log_to_file"]

FILE = "driver.log"
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

    A sweep on an object store has no such file; its log is dropped.
    """
    root = logging.getLogger()
    handler: logging.Handler = logging.NullHandler()
    if not is_uri(sweep):
        folder = Path(sweep) / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / FILE, encoding="utf-8")
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
