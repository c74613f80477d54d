"""Tasks: data, splits, heads, losses and metrics of one domain each. Runs without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pdo_search.config.task import IMAGES, AnyTaskConfig, UserTaskConfig
from pdo_search.store import Store
from pdo_search.tasks.base import Task

__all__ = ["DOMAINS", "build_task", "cached_task"]

Build = Callable[[Any, Path | None, Store | None], Task]


def _images(config: Any, base_dir: Path | None, store: Store | None) -> Task:
    from pdo_search.tasks.images.task import build_image_classification

    return build_image_classification(config, base_dir, store)


def _users(config: Any, base_dir: Path | None, store: Store | None) -> Task:
    from pdo_search.tasks.user import build_user_task

    return build_user_task(config, base_dir)


DOMAINS: Mapping[str, Build] = {IMAGES: _images}
"""What builds the tasks of a kind; a domain's own module is imported when it is asked for."""


def build_task(
    config: AnyTaskConfig, base_dir: Path | None = None, store: Store | None = None
) -> Task:
    """Load and split a task's data.

    Args:
        config: the task.
        base_dir: folder that relative paths and factories refer to.
        store: keeps what is decoded for all processes; None decodes it in this one.

    Raises:
        InputError: the data cannot be used.
    """
    build = _users if isinstance(config, UserTaskConfig) else DOMAINS[config.kind]
    return build(config, base_dir, store)


def cached_task(
    config: AnyTaskConfig, base_dir: Path | None = None, store: str | None = None
) -> Task:
    """The task, built once per process: a warm process keeps the last one. ``store`` is a root."""
    return _cached(config.model_dump_json(), base_dir, store)


_CONFIG: TypeAdapter[AnyTaskConfig] = TypeAdapter(AnyTaskConfig)


@lru_cache(maxsize=1)
def _cached(config_json: str, base_dir: Path | None, store: str | None) -> Task:
    config = _CONFIG.validate_json(config_json)
    return build_task(config, base_dir, None if store is None else Store(store))
