"""The toys keep the contract of tasks."""

from __future__ import annotations

import pytest

from pdo_search.config import TrialConfig
from pdo_search.testing.task import TaskContract

from .test_toys import config_of


class TestSeries(TaskContract):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of("series")


class TestParcels(TaskContract):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of("parcels")


class TestSpans(TaskContract):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return config_of("spans")
