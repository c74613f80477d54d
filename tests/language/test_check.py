"""What is checked before a sweep of language models starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search.base.errors import InputError
from pdo_search.cli.check import check_experiment
from pdo_search.cli.stored import stored_outputs
from pdo_search.models.build import build_for
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split

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
        stored_outputs(loaded, task, build_for(task, loaded.experiment.teacher, seed=0))
    loaded = loaded_of({"bank": "top", "bank_tokens": 64}, output=output)
    task = build_task(loaded.experiment.task, ROOT)
    assert (
        stored_outputs(
            loaded, task, build_for(task, loaded.experiment.teacher, seed=0)
        ).bytes_per_trial
        < 1.7e6
    )


def test_a_temperature_that_loses_the_tail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trial\.temperature"):
        check_experiment(
            loaded_of({"bank": "top"}, output={"store": str(tmp_path)}, trial={"temperature": 3.0})
        )


def given_teacher(folder: Path, vocabulary: str) -> dict[str, Any]:
    """The section of a model of the transformers library that knows texts a little, or not."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=320, n_positions=64)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    if vocabulary == "own":
        task = build_task(loaded_of().experiment.task, ROOT)
        batch = task.examples(Split.TRAIN).batch()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(60):
            wanted = batch["target.token"].masked_fill(~batch["tokens.mask"], -100)
            logits = model(batch["tokens"]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.save_pretrained(folder)
    return {"arch": "transformers", "weights": str(folder)}


@pytest.mark.parametrize("vocabulary", ["own", "another"])
def test_a_teacher_of_another_vocabulary_is_refused(vocabulary: str, tmp_path: Path) -> None:
    """Its ids mean something else to it, and it says nothing but noise."""
    teacher = given_teacher(tmp_path / "given", vocabulary)
    output = {"store": str(tmp_path / "store")}
    found = check_experiment(loaded_of(teacher=teacher, output=output))
    warned = [note for note in found["notes"] if "no better than guessing" in note]
    assert bool(warned) == (vocabulary == "another")
    if warned:
        assert "the tokenizer that it was trained with in `task.tokenizer.path`" in warned[0]


def test_windows_longer_than_a_teacher_has_positions_for_are_refused(tmp_path: Path) -> None:
    teacher = given_teacher(tmp_path / "given", "another")
    tokenizer = {"train": 320, "length": 100}
    with pytest.raises(InputError, match="has 100 positions and the model takes 64") as caught:
        check_experiment(
            loaded_of({"tokenizer": tokenizer}, teacher=teacher, output={"store": str(tmp_path)})
        )
    assert "shorten the task's examples" in str(caught.value)
