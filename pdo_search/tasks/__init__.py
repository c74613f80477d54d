"""Tasks: data, splits, heads, models and metrics of one domain each. Runs without Ray."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pdo_search.config.schema import TaskConfig
from pdo_search.store import Store
from pdo_search.tasks.base import Task

__all__ = ["build_task", "cached_task"]


def build_task(
    config: TaskConfig, base_dir: Path | None = None, store: Store | None = None
) -> Task:
    """Load and split a task's data.

    Args:
        config: the task.
        base_dir: folder that relative paths and factories refer to.
        store: keeps decoded pictures for all processes; None decodes them in this one.

    Raises:
        InputError: the data cannot be used.
    """
    from pdo_search.tasks.images.task import build_image_classification

    return build_image_classification(config, base_dir, store)


def cached_task(config: TaskConfig, base_dir: Path | None = None, store: str | None = None) -> Task:
    """The task, built once per process: a warm process keeps the last one. ``store`` is a root."""
    return _cached(config.model_dump_json(), base_dir, store)


@lru_cache(maxsize=1)
def _cached(config_json: str, base_dir: Path | None, store: str | None) -> Task:
    config = TaskConfig.model_validate_json(config_json)
    return build_task(config, base_dir, None if store is None else Store(store))
