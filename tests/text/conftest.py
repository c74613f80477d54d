"""Weights and data that ``experiments/prepare.py`` gets; and what a made experiment is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pdo_search.config import TrialConfig, parse_experiment, resolve

from .made import EXPERIMENT

ROOT = Path(__file__).parents[2]
DATA = ROOT / "experiments" / "data"


def made(**changes: Any) -> dict[str, Any]:
    """The made experiment, sections merged with the changes."""
    tree = dict(EXPERIMENT)
    for name, value in changes.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    return tree


def trial_of(tree: dict[str, Any], base_dir: Path = ROOT) -> TrialConfig:
    """The trial of an experiment without dimensions."""
    loaded = parse_experiment(tree, file=base_dir / "t.yaml", base_dir=base_dir)
    return resolve(loaded.experiment, {})


def prepared(name: str) -> Path:
    """A folder that ``prepare`` fills; where it is missing the test is skipped, but not in CI."""
    folder = DATA / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing: run `python experiments/prepare.py text reviews`")
        pytest.skip("`python experiments/prepare.py text reviews` gets the data")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A pre-trained encoder and its tokenizer."""
    pytest.importorskip("transformers")
    return prepared("minilm")


@pytest.fixture(scope="session")
def wordnet() -> Path:
    """WordNet's files."""
    return prepared("wordnet")
