"""What `check` says of texts before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from pdo_search.base.errors import InputError
from pdo_search.cli.before import print_check
from pdo_search.cli.check import check_experiment
from pdo_search.config import parse_experiment

from .conftest import ROOT, made
from .made import rows

pytest.importorskip("tokenizers")


def checked(**changes: Any) -> dict[str, Any]:
    output = {"output": {"store": changes.pop("store")}} if "store" in changes else {}
    loaded = parse_experiment({**made(**changes), **output}, file=ROOT / "t.yaml", base_dir=ROOT)
    return check_experiment(loaded)


def test_it_counts_classes_lengths_and_what_is_left_out(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checked(
        task={"splits": {"labels": 60, "transfer": 0.0}, "tokenizer": {"train": 300,
              "max_length": 12}},
        store=str(tmp_path),
    )  # fmt: skip
    examples = found["task"]["examples"]
    assert set(examples["train"]) == {"animal", "food", "place"}
    assert sum(examples["train"].values()) == 60
    assert set(examples["transfer"]) == {"animal", "food", "place", "unlabelled"}
    assert sum(map(sum, (split.values() for split in examples.values()))) <= len(rows())
    lengths = found["task"]["lengths"]
    assert 4 <= lengths["shortest"] < lengths["median"] <= lengths["longest"] == 12
    (left,) = found["task"]["left_out"]
    assert left["what"] == "texts of more than 12 tokens: cut there"
    assert 0 < left["count"] < len(rows())
    (student,) = found["students"]
    # 150 of the 300 rows of 16 numbers; 12 positions; a layer; a head.
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 64 + 64 + 16 + 2 * 32
    assert student["params"] == 150 * 16 + 12 * 16 + layer + 32 + 16 * 3 + 3
    print_check(found)
    said = capsys.readouterr().out
    assert "train             60: animal" in said
    assert "longest" not in said
    assert "to 12, median" in said
    assert "texts of more than 12 tokens: cut there" in said


def test_a_teacher_of_one_piece_whose_body_is_to_be_frozen_is_refused(tmp_path: Any) -> None:
    train = {"kind": "adamw", "freeze": "body"}
    with pytest.raises(InputError, match="cannot be encoded once") as caught:
        checked(
            teacher={"arch": "tests.text.made:bag", "args": {}, "width": None, "depth": None,
                     "train": train},
            store=str(tmp_path),
        )  # fmt: skip
    assert "leave freeze out" in str(caught.value)


def test_a_vocabulary_of_a_model_without_one_is_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="no vocab that can be removed"):
        checked(
            student={"arch": "tests.text.made:bag", "vocab": 100, "width": None, "depth": None},
            store=str(tmp_path),
        )
