"""What is checked before a sweep of language models starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.base.errors import InputError
from pdo_search.cli.check import check_experiment
from pdo_search.cli.stored import stored_outputs
from pdo_search.tasks import build_task

from .texts import ROOT, loaded_of

pytest.importorskip("tokenizers")


def test_check_measures_windows_and_says_why_there_is_no_composite(tmp_path: Path) -> None:
    output = {"store": str(tmp_path)}
    found = check_experiment(loaded_of(output=output))
    assert found["task"]["heads"] == {"token": "categorical 320"}
    # Two per multiply-accumulate of 32 positions: attention's matrices and the feed-forward
    # network's, the products of attention itself, and the embedding as the head's matrix.
    width, length, layers = 16, 32, 1
    matrices = layers * (4 * width**2 + 8 * width**2) * length
    products = layers * 2 * length**2 * width
    assert found["students"][0]["flops"] == 2 * (matrices + products + 320 * width * length)
    assert any(note.startswith("No composite is made: a text") for note in found["notes"])
    quiet = check_experiment(loaded_of(output=output, trial={"composite": None}))
    assert not any("composite" in note for note in quiet["notes"])


def test_what_is_too_large_to_be_stored_names_how_much_of_it_fits(tmp_path: Path) -> None:
    output = {"store": str(tmp_path), "max_bank": "1.7MB"}
    loaded = loaded_of({"bank": "whole"}, output=output)
    task = build_task(loaded.experiment.task, ROOT)
    with pytest.raises(InputError, match=r"task\.bank: top with task\.bank_tokens: 64"):
        stored_outputs(loaded, task)
    loaded = loaded_of({"bank": "top", "bank_tokens": 64}, output=output)
    task = build_task(loaded.experiment.task, ROOT)
    assert stored_outputs(loaded, task).bytes_per_trial < 1.7e6


def test_a_temperature_that_loses_the_tail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trial\.temperature"):
        check_experiment(
            loaded_of({"bank": "top"}, output={"store": str(tmp_path)}, trial={"temperature": 3.0})
        )
