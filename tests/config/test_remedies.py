"""What a message says to write instead makes a file that loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from pdo_search.base.errors import InputError
from pdo_search.config.load import parse_experiment

BASE: dict[str, Any] = {
    "name": "remedies",
    "task": {"data": {"source": "digits"}},
    "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
    "student": {"arch": "small_convnet"},
    "trial": {"epochs": 6},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    tree = copy.deepcopy(BASE)
    for path, value in changes.items():
        *sections, name = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        if value is ...:
            del node[name]
        else:
            node[name] = value
    return tree


def load(changes: dict[str, Any]) -> Any:
    return parse_experiment(changed(changes), file=Path("e.yaml"), base_dir=Path.cwd())


@pytest.mark.parametrize(
    ("mistake", "says", "mended"),
    [
        ({"trial.temperature": [1, 8]}, "{float: [1, 8]}", {"float": [1, 8]}),
        ({"trial.epochs": [4, 8]}, "{int: [4, 8]}", {"int": [4, 8]}),
        ({"trial.temperature": [1, 2, 4]}, "{choice: [1, 2, 4]}", {"choice": [1, 2, 4]}),
        ({"trial.temperature": {"floats": [1, 8]}}, "{float: [1, 8]}", {"float": [1, 8]}),
        ({"trial.temperature": {"low": 1, "high": 8}}, "{float: [1, 8]}", {"float": [1, 8]}),
        ({"student.arch": ["small_convnet", "resnet18"]}, '{choice: ["small_convnet", "resnet18"]}',
         {"choice": ["small_convnet", "resnet18"]}),
        ({"trial.temperature": {"float": [1, 2, 8]}}, "{choice: [1, 2, 8]}",
         {"choice": [1, 2, 8]}),
        ({"trial.num_stages": {"float": [1, 3]}}, "{int: [1, 3]}", {"int": [1, 3]}),
        ({"trial.temperature": {"int": [0.5, 2]}}, "{float: [0.5, 2]}", {"float": [0.5, 2]}),
        ({"trial.temperature": {"choice": [1, 1.0]}}, "give each value once", {"choice": [1.0]}),
        ({"trial.temperature": {"choice": [True, 2.0]}}, "leave true out", {"choice": [2.0]}),
        ({"trial.temperature": {"choice": ["2.0", 2]}}, "give each value once", {"choice": [2]}),
        ({"trial.temperature": {"float": [1, 8], "int": [1, 8]}}, "leave out int or float",
         {"float": [1, 8]}),
        ({"trial.temperature": {"float": [0.0, 8], "log": True}}, "raise the lower bound",
         {"float": [0.1, 8], "log": True}),
        ({"trial.temperature": {"float": [1, 800]}}, "narrow the dimension", {"float": [1, 80]}),
        ({"trial.temperature": True}, "true is no number", 1),
        ({"trial.temperature": "1 - 8"}, "{float: [low, high]} searches it", {"float": [1, 8]}),
        ({"trial.num_stages": "1-3"}, "{int: [low, high]} searches it", {"int": [1, 3]}),
        ({"search.metric": "val_acc"}, "write one of val_accuracy", "val_accuracy"),
        ({"search.metric": "accuracy"}, "write one of val_accuracy", "val_accuracy"),
        ({"search.metric": "val_kl"}, "write one of val_accuracy", "val_accuracy"),
        ({"teacher.width": {"int": [4, 8]}}, "give one value", 4),
        ({"trial.loss": {"float": [0.0, 1]}}, "give one value", {"kl": {"float": [0.0, 1.0]}}),
        ({"trial.composite.modes": {"choice": ["student"]}}, "give one value", ["student"]),
        ({"name": 2024}, "in quotes: '2024'", "2024"),
        ({"search.seed": 2**63}, "the largest is 9223372036854775807", 2**63 - 1),
        ({"search.seed": -1}, "Seed of the sampler", 1),
        ({"name": "a/b"}, "Name of the sweep", "a-b"),
        ({"resources.gpus": "all"}, "auto, or a number of GPUs", "auto"),
        ({"resources.gpus": 1.5}, "a whole number of GPUs", 1),
        ({"output.root": "~nobody-there/x"}, "home directory ~nobody-there is not known", "x"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_remedy_leads_to_a_file_that_loads(
    mistake: dict[str, Any], says: str, mended: Any
) -> None:
    with pytest.raises(InputError) as caught:
        load(mistake)
    assert says in str(caught.value)
    (path,) = mistake
    assert caught.value.path == path
    load({path: mended})


@pytest.mark.parametrize("mended", [{"trial.teacher_outputs": "online"},
                                    {"trial.loss.hints": [{"kind": "cosine"}]}])  # fmt: skip
@pytest.mark.parametrize("hint", [{"kind": "hidden"}, {"kind": "cosine", "positions": True}])
def test_states_that_are_not_stored_are_had_online(
    hint: dict[str, Any], mended: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"set trial\.teacher_outputs: online; or take") as caught:
        load({"trial.loss.hints": [hint]})
    assert caught.value.path == "trial.loss"
    load({"trial.loss.hints": [hint]} | mended)


@pytest.mark.parametrize(
    ("hint", "path", "says"),
    [
        ({"kind": "pooled", "weigh": 1}, "weigh", "did you mean 'weight'?"),
        ({"kind": "pool"}, "kind", "'relation' or 'pooled'"),
        ({"kind": "pooled", "weight": [0, 1]}, "weight", "a dimension is {float: [0, 1]}"),
        ({"kind": "pooled", "weight": {"float": [-1, 1]}}, "weight", "narrow the dimension"),
        ({"weight": 1.0}, "kind", "is missing"),
    ],
    ids=str,
)
def test_a_mistake_in_a_list_is_named_with_its_place(
    hint: dict[str, Any], path: str, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        load({"trial.loss": {"hints": [{"kind": "cosine"}, hint]}})
    assert caught.value.path == f"trial.loss.hints.1.{path}"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right", "value"),
    [
        ("trial.lr", "trial.optimizer.lr", 0.1),
        ("trial.width", "student.width", 4),
        ("epochs", "trial.epochs", 4),
        ("num_trials", "search.num_trials", 4),
        ("trial.recovery_epochs", "trial.simplify.recovery_epochs", 1),
    ],
)
def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(
    wrong: str, right: str, value: Any
) -> None:
    with pytest.raises(InputError) as caught:
        load({wrong: value})
    assert f"'{right}'" in str(caught.value)
    load({right: value})


def test_a_misspelt_section_is_named_and_not_the_one_that_is_missing() -> None:
    tree = changed({"teacher": ...})
    with pytest.raises(InputError, match="teachers: unknown key") as caught:
        parse_experiment(
            {**tree, "teachers": BASE["teacher"]}, file=Path("e.yaml"), base_dir=Path.cwd()
        )
    assert "did you mean 'teacher'?" in str(caught.value)


def test_the_home_directory_stands_for_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    given = {
        "output.root": "~/results", "output.store": "~/store", "task.data.path": "~/data",
        "teacher.weights": "~/w.pt", "search.warm_start": ["~/old"],
    }  # fmt: skip
    found = load(given).experiment
    assert found.output.root == "/home/someone/results"
    assert found.output.store == "/home/someone/store"
    assert found.task.data.path == "/home/someone/data"
    assert found.teacher.weights == "/home/someone/w.pt"
    assert found.search.warm_start == ("/home/someone/old",)


def test_a_searched_number_is_looked_at_inside_its_range() -> None:
    with pytest.raises(InputError, match="the dimension reaches"):
        load({"student.width": {"float": [4, 8]}})
    load({"student.width": {"float": [4, 8], "step": 1}})
