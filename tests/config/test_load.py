"""Experiment files: what they become, and how overrides and resolution change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.config import load_experiment, parse_experiment, resolve
from pdo_search.config.run import ResourcesConfig

TEXT = """
name: digits
task: {data: {source: digits}}
teacher: {arch: small_resnet, train: {epochs: 2}}
student: {arch: small_convnet, width: {int: [4, 8]}}
trial:
  epochs: 6
  num_stages: {int: [1, 4]}
  finetune_epochs: {int: [0, 2]}
  loss: {kl: {float: [0.1, 1.0]}}
limits: {wall: 20m}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "e.yaml"
    path.write_text(TEXT.replace("int: [0, 2]", "int: [0, 1]"))
    return path


def test_a_point_resolves_to_a_trial(file: Path) -> None:
    loaded = load_experiment(file)
    point = {"num_stages": 2, "finetune_epochs": 1, "loss.kl": 0.5, "student.width": 4}
    trial = resolve(loaded.experiment, point)
    assert (trial.recipe.num_stages, trial.recipe.loss.kl, trial.student.width) == (2, 0.5, 4)
    assert trial.limits.wall == 1200.0
    assert loaded.base_dir == file.parent


def test_overrides_reach_leaves_sections_and_dimensions(file: Path) -> None:
    loaded = load_experiment(
        file, ["trial.epochs=9", "search.sampler=random", "student.width={int: [2, 3]}"]
    )
    assert loaded.experiment.trial["epochs"] == 9
    assert loaded.experiment.search.sampler == "random"
    assert loaded.space["student.width"].high == 3


def test_a_corner_where_two_dimensions_collide_is_refused(file: Path) -> None:
    file.write_text(TEXT)
    with pytest.raises(InputError, match="more stages than epochs") as caught:
        load_experiment(file)
    assert caught.value.file == str(file)


def test_a_collision_inside_the_space_is_infeasible_not_an_error(file: Path) -> None:
    experiment = load_experiment(file).experiment
    point = {"num_stages": 6, "finetune_epochs": 0, "loss.kl": 0.5, "student.width": 4}
    with pytest.raises(Infeasible, match="more stages than epochs"):
        resolve(experiment, point)


def test_a_misspelt_key_is_named_with_its_nearest_neighbour(file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(file, ["trial.curriculum.pacin=root"])
    assert caught.value.path == "trial.curriculum.pacin"
    assert "did you mean 'pacing'?" in str(caught.value)


def test_a_key_given_twice_is_refused(file: Path) -> None:
    file.write_text(TEXT + "name: again\n")
    with pytest.raises(InputError, match="'name' stands twice"):
        load_experiment(file)


def test_a_tag_in_yaml_runs_nothing(file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "pwned"
    file.write_text(f"name: !!python/object/apply:os.mkdir ['{victim}']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_experiment(file)
    assert not victim.exists()


def test_synchronised_norms_are_for_several_workers_on_gpus() -> None:
    assert ResourcesConfig(workers=2, gpus=1, sync_batch_norm=True).sync_batch_norm
    for alone in ({"gpus": 1}, {"gpus": 0, "workers": 2}):
        with pytest.raises(ValueError, match="several workers on GPUs"):
            ResourcesConfig.model_validate({**alone, "sync_batch_norm": True})


def test_a_target_of_a_share_is_no_percentage() -> None:
    tree: dict[str, Any] = {
        "name": "t",
        "task": {"data": {"source": "digits"}},
        "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
        "student": {"arch": "small_convnet"},
        "trial": {"target": 90},
    }
    with pytest.raises(InputError, match=r"trial\.target.*\n.*write 0\.9 for 90%"):
        parse_experiment(tree, file=Path("t.yaml"), base_dir=Path.cwd())
