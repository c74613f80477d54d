"""The shipped experiments: every one is valid, at every end of its dimensions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.config import load_experiment, resolve

FOLDER = Path(__file__).parents[1] / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_some() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"digits", "fashion_mnist", "cifar10_resnet50_mobilenet", "image_folder"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_it_resolves_at_both_ends_of_every_dimension(file: Path) -> None:
    loaded = load_experiment(str(file))
    for end in (0, -1):
        point = {dimension.path: dimension.ends()[end] for dimension in loaded.space}
        config = resolve(loaded.experiment, point)
        assert config.recipe.num_stages <= config.recipe.stage_epochs
