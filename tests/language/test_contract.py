"""Language models keep the contract of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.config import TrialConfig
from pdo_search.testing.task import TaskContract

from .texts import ROOT, config_of

pytest.importorskip("tokenizers")


class TestLanguageModel(TaskContract):
    @pytest.fixture(scope="class")
    def base_dir(self) -> Path:
        return ROOT

    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of()
