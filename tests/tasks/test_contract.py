"""Image classification keeps the contract of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdo_search.config import TrialConfig, parse_experiment, resolve
from pdo_search.config.task import AnyTaskConfig, TaskConfig
from pdo_search.testing.task import TaskContract

from ..conftest import TINY


def config_of(**task: Any) -> TrialConfig:
    tree = {
        **TINY,
        "task": {"data": {"source": "digits", "limit": 400}, **task},
        "trial": {"epochs": 4, "optimizer": {"lr": 0.1, "batch_size": 16}},
    }
    return resolve(parse_experiment(tree, file=Path("t.yaml"), base_dir=Path.cwd()).experiment, {})


class TestPictures(TaskContract):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of()

    @pytest.fixture(scope="class")
    def other(self, config: TrialConfig) -> AnyTaskConfig:
        assert isinstance(config.task, TaskConfig)
        data = config.task.data.model_copy(update={"limit": 450})
        return config.task.model_copy(update={"data": data})


class TestAugmentedPictures(TestPictures):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of(augment={"crop": 1, "color": 0.2, "mixup": 0.2}, splits={"labels": 60})
