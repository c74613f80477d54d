"""Methods in an experiment: what they fix, what is searched for them, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdo_search.base.errors import InputError
from pdo_search.config import load_experiment, parse_experiment, resolve
from pdo_search.config.load import Loaded
from pdo_search.config.methods import BASELINES, METHODS, fixed, searched
from pdo_search.config.recipe import CurriculumConfig, Recipe
from pdo_search.config.resolve import confirming

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TREE: dict[str, Any] = {
    "name": "tiny",
    "task": {"data": {"source": "digits"}},
    "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
    "student": {"arch": "small_convnet", "width": {"int": [4, 8]}},
    "trial": {
        "epochs": 10,
        "num_stages": {"int": [1, 4]},
        "temperature": {"float": [1.0, 8.0]},
        "prune_ratio": {"float": [0.1, 0.4]},
        "loss": {"kl": {"float": [0.1, 1.0]}, "init": 0.5},
        "optimizer": {"lr": {"float": [0.01, 0.1]}},
        "curriculum": {"start": 0.5, "order": {"choice": ["easy_first", "random"]}},
        "target": 0.9,
    },
    "limits": {"params": 5000, "trial_timeout": "5m"},
}


def parsed(**changes: Any) -> Loaded:
    tree = {**TREE, **{k: {**TREE.get(k, {}), **v} for k, v in changes.items()}}
    return parse_experiment(tree, file=Path("tiny.yaml"), base_dir=Path.cwd())


def test_only_what_has_an_effect_is_searched_for_a_baseline() -> None:
    space = parsed().space
    common = {"optimizer.lr", "student.width"}
    assert set(searched(space, "scratch").paths) == common
    assert set(searched(space, "one_shot").paths) == common | {"temperature", "loss.kl"}
    taught = common | {"temperature", "loss.kl", "prune_ratio"}
    assert set(searched(space, "assistant").paths) == taught
    assert searched(space, "progressive") == space


def test_what_a_method_fixes_are_fields_of_a_recipe() -> None:
    for method in METHODS:
        assert set(fixed(method)) <= set(Recipe.model_fields)


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_resolves_from_its_own_dimensions_alone(method: Any) -> None:
    loaded = parsed()
    point = {d.path: d.ends()[-1] for d in searched(loaded.space, method)}
    config = resolve(loaded.experiment, point, method)
    recipe = config.recipe
    assert (recipe.method, recipe.epochs, recipe.num_stages) == (method, 10, 1)
    assert (recipe.init_epochs, recipe.finetune_epochs, recipe.stage_epochs) == (0, 0, 10)
    assert recipe.curriculum == CurriculumConfig()
    assert recipe.composite is None
    assert not recipe.adapt.enabled
    assert config.student.width == 8
    assert recipe.optimizer.lr == 0.1
    assert recipe.prune_ratio == (0.4 if method == "assistant" else 0)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_method_may_be_what_the_search_is_about() -> None:
    loaded = parsed(trial={"method": "one_shot"}, search={"baselines": ["scratch"]})
    assert loaded.experiment.num_trials == {"one_shot": 16, "scratch": 4}
    point = {d.path: d.ends()[0] for d in searched(loaded.space, "one_shot")}
    assert resolve(loaded.experiment, point).recipe.method == "one_shot"


def test_trials_of_baselines_come_on_top() -> None:
    shares = {20: 5, 16: 4, 3: 4}
    for given, expected in shares.items():
        search = {"num_trials": given, "baselines": ["scratch", "one_shot"]}
        counts = parsed(search=search).experiment.num_trials
        assert counts == {"progressive": given, "scratch": expected, "one_shot": expected}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"search": {"baselines": ["scratch", "oneshot"]}}, ("search.baselines.1", "'oneshot'")),
        ({"search": {"baselines": ["scratch", "scratch"]}}, ("stands twice",)),
        ({"trial": {"method": {"choice": ["scratch"]}}}, ("trial.method", "no search dimension")),
        ({"trial": {"method": "hinton"}}, ("trial.method", "'one_shot'")),
        (
            {"trial": {"method": "scratch"}, "search": {"baselines": ["scratch"]}},
            ("search.baselines", "trial.method"),
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    changes: dict[str, Any], told: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        parsed(**changes)
    for part in told:
        assert part in str(caught.value)


def test_a_confirmation_changes_the_seed_and_nothing_that_is_learnt() -> None:
    loaded = parsed(search={"seed": 7})
    found = resolve(loaded.experiment, {d.path: d.ends()[0] for d in loaded.space})
    again = confirming(found, 99)
    assert (found.seed, found.teacher_seed, found.confirms) == (7, 7, False)
    assert (again.seed, again.teacher_seed, again.confirms) == (99, 7, True)
    assert again.recipe.target is None
    assert (again.limits.params, again.limits.trial_timeout) == (None, 300)
    assert again.recipe.composite == found.recipe.composite is not None
    kept = {"target"}
    assert again.recipe.model_dump(exclude=kept) == found.recipe.model_dump(exclude=kept)


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_shipped_experiments_have_all_baselines(name: str) -> None:
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml").experiment
    assert list(experiment.num_trials.values())[1:] == [4, 4, 4]
