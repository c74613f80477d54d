"""Tasks: data, splits, heads, models and metrics of one domain each. Runs without Ray."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pdo_search.config.schema import TaskConfig
from pdo_search.tasks.base import Task

__all__ = ["build_task", "cached_task"]


def build_task(config: TaskConfig, base_dir: Path | None = None) -> Task:
    """Load and split a task's data.

    Raises:
        InputError: the data cannot be used.
    """
    from pdo_search.tasks.image_classification import build_image_classification

    return build_image_classification(config, base_dir)


def cached_task(config: TaskConfig, base_dir: Path | None = None) -> Task:
    """The task, built once per process: a warm process keeps the last one."""
    return _cached(config.model_dump_json(), base_dir)


@lru_cache(maxsize=1)
def _cached(config_json: str, base_dir: Path | None) -> Task:
    return build_task(TaskConfig.model_validate_json(config_json), base_dir)
