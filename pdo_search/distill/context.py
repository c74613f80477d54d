"""Where a trial computes, and where its inputs and artifacts lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pdo_search.config.task import AnyTaskConfig
from pdo_search.store import Store
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Task

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """What teachers and students of a sweep have in common on a machine.

    Attributes:
        root: of the artifact store, a path or URI.
        device: where models are trained and run.
        base_dir: folder that relative paths and factories refer to.
    """

    root: str
    device: torch.device
    base_dir: Path | None = None

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.root)

    def task(self, config: AnyTaskConfig) -> Task:
        """The task, built once per process.

        Raises:
            InputError: the data cannot be used.
        """
        return cached_task(config, self.base_dir, self.root)
