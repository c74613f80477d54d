"""What a student keeps of its teacher, as written and as exact amounts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.jsonschema import experiment_schema
from pdo_search.config.keep import keep_of
from pdo_search.config.model import StudentConfig


@pytest.mark.parametrize(
    ("given", "amounts"),
    [
        ({"keep": 0.3}, {"all": Fraction(3, 10)}),
        ({"keep": {"layers": 2, "heads": 0.5, "vocab": 4500}},
         {"layers": 2, "heads": Fraction(1, 2), "vocab": 4500}),
        ({"keep": {"channels": 0.7}}, {"channels": Fraction(7, 10)}),
        ({"shrink": 0.3}, {"channels": Fraction(7, 10)}),
    ],
)  # fmt: skip
def test_amounts(given: dict[str, Any], amounts: dict[str, Any]) -> None:
    assert keep_of(StudentConfig(arch="teacher", **given)) == amounts


@pytest.mark.parametrize("removed", [0.1, 0.3, 1 / 3, 0.2718281828459045, 1e-9])
def test_a_share_that_shrinks_is_the_same_number_again(removed: float) -> None:
    (kept,) = keep_of(StudentConfig(arch="teacher", shrink=removed)).values()
    assert float(1 - kept) == removed


def test_others_keep_all_or_less_of_their_vocabulary() -> None:
    assert keep_of(StudentConfig(arch="small_resnet")) == {}
    student = StudentConfig.model_validate({"arch": "small_transformer", "keep": {"vocab": 6000}})
    assert keep_of(student) == {"vocab": 6000}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arch": "teacher", "keep": 0.5, "shrink": 0.5}, "give `keep` alone"),
        ({"arch": "teacher"}, "`keep` and `arch: teacher` belong together"),
        ({"arch": "small_resnet", "keep": 0.5}, "belong together"),
        ({"arch": "small_resnet", "keep": {"layers": 1, "vocab": 9}}, "belong together"),
        ({"arch": "small_resnet", "shrink": 0.5}, "belong together"),
        ({"arch": "teacher", "keep": 1}, "share between 0 and 1, or"),
        ({"arch": "teacher", "keep": 1.5}, "share between 0 and 1, or"),
        ({"arch": "teacher", "keep": True}, "true is no number"),
        ({"arch": "teacher", "keep": {"layers": 0}}, "layers is a share between 0 and 1, or how"),
        ({"arch": "teacher", "keep": {"layers": 1.5}}, "layers is a share between 0 and 1, or how"),
        ({"arch": "teacher", "keep": {"channels": 2}}, "channels"),
        ({"arch": "teacher", "keep": {"width": 2}}, "width is none of channels, blocks, layers"),
        ({"arch": "teacher", "keep": {}}, "names no unit"),
    ],
)
def test_what_cannot_be_kept(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StudentConfig.model_validate(given)


@pytest.mark.parametrize(
    ("keep", "path", "point", "amounts"),
    [
        ({"float": [0.2, 0.5]}, "student.keep", 0.25, {"all": Fraction(1, 4)}),
        (
            {"layers": {"int": [1, 3]}, "heads": 0.5},
            "student.keep.layers",
            2,
            {"layers": 2, "heads": Fraction(1, 2)},
        ),
    ],
)
def test_amounts_are_searched(
    keep: dict[str, Any], path: str, point: float, amounts: dict[str, Any], tmp_path: Path
) -> None:
    tree = {
        "name": "digits",
        "task": {"data": {"source": "digits"}},
        "teacher": {"arch": "small_resnet", "train": {"epochs": 2}},
        "student": {"arch": "teacher", "keep": keep},
    }
    loaded = parse_experiment(tree, file=tmp_path / "e.yaml", base_dir=tmp_path)
    assert loaded.space.paths == (path,)
    assert keep_of(resolve(loaded.experiment, {path: point}).student) == amounts


def test_an_editor_offers_a_dimension_for_a_share_and_for_each_unit() -> None:
    definitions = experiment_schema()["$defs"]
    dimension = {"$ref": "#/$defs/Dimension"}
    assert dimension in definitions["StudentConfig"]["properties"]["keep"]["anyOf"]
    assert dimension in definitions["KeepConfig"]["properties"]["layers"]["anyOf"]
