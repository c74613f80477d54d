"""Text classification keeps the contract of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.config import TrialConfig
from pdo_search.config.domains import AnyTaskConfig
from pdo_search.config.texts import TextTaskConfig
from pdo_search.testing.task import TaskContract

from .conftest import made, trial_of

pytest.importorskip("tokenizers")


class TestMadeTexts(TaskContract):
    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        return trial_of(made())

    @pytest.fixture(scope="class")
    def other(self, config: TrialConfig) -> AnyTaskConfig:
        assert isinstance(config.task, TextTaskConfig)
        data = config.task.data.model_copy(update={"args": {"count": 320}})
        return config.task.model_copy(update={"data": data})


class TestFewLabels(TestMadeTexts):
    """Some rows have no label, and of the others most are hidden."""

    @pytest.fixture(scope="class")
    def config(self) -> TrialConfig:
        data = {"source": "tests.text.made:rows", "args": {"labelled": 0.8}}
        task = {"data": data, "splits": {"labels": 60, "transfer": 0.0}, "seed": 3}
        return trial_of(made(task=task))


class TestDefinitions(TaskContract):
    """WordNet's, read by the tokenizer of a pre-trained encoder."""

    @pytest.fixture(scope="class")
    def config(self, minilm: Path, wordnet: Path) -> TrialConfig:
        task = {
            "data": {"source": "wordnet", "path": str(wordnet), "limit": 1500, "part": "verbs"},
            "tokenizer": {"path": str(minilm), "max_length": 24},
            "splits": {"labels": 400, "transfer": 0.0},
        }
        return trial_of(made(task=task, student={"vocab": 1000}))
