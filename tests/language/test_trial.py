"""Language models are distilled, stored and loaded, from our own teachers and from those of the
transformers library."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pdo_search
from pdo_search.base.errors import InputError
from pdo_search.config import TrialConfig
from pdo_search.distill.probe import probe
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.build import build_for
from pdo_search.models.continuation import Continuation
from pdo_search.models.modelfile import InferenceModel
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from .texts import ROOT, SMALL, config_of, sections
from .two_workers import metrics_of_trial

pytest.importorskip("tokenizers")


def run(config: TrialConfig, folder: Path) -> list[Any]:
    torch.set_num_threads(1)
    worker = LocalWorker()
    places = Places(str(folder / "store"), str(folder / "sweep"), str(ROOT), "t0000", 0)
    run_trial(config.model_copy(update={"confirms": True}), worker, places=places)
    return worker.reports


def student_in(folder: Path) -> InferenceModel:
    found = pdo_search.load_model(folder / "sweep" / "models" / "t0000" / "student")
    assert isinstance(found, InferenceModel)
    return found


BANKS: dict[str, dict[str, Any]] = {
    "whole": {},
    "top": {"bank": "top", "bank_tokens": 32},
    "sampled": {"bank": "sampled"},
}
HARD = {"start": 0.5, "difficulty": "teacher_loss"}


@pytest.mark.parametrize("bank", BANKS)
def test_a_language_model_is_distilled_tested_and_continues_texts(
    bank: str, tmp_path: Path
) -> None:
    config = config_of(BANKS[bank], trial={"curriculum": HARD, "composite": {}})
    reports = run(config, tmp_path)
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["val_bits_per_byte"] < first["val_bits_per_byte"] < 8
    assert last["val_perplexity"] == pytest.approx(math.exp(last["val_loss"]), rel=1e-5)
    assert 0 < last["val_agreement"] <= 1
    (row,) = reports[-1].rows["confirmations"]
    assert row["test_bits_per_byte"] < 8
    assert row["teacher_test_bits_per_byte"] < 8
    assert "composites" not in reports[-1].rows
    model = student_in(tmp_path)
    _, text = sections()[3]
    (found, again, made_up) = model.predict([text, text[:40], ""], max_new_tokens=9)
    assert isinstance(found, Continuation)
    assert found.bits_per_byte < 8
    assert len(again.tokens) <= len(again.log_probs) <= 9
    assert all(nats <= 0 for nats in again.log_probs)
    assert math.isnan(made_up.bits_per_byte)
    drawn = model.predict([text], temperature=1.0, seed=3)
    assert drawn == model.predict([text], temperature=1.0, seed=3)
    with pytest.raises(InputError, match="this model has no use for seed"):
        model.predict({}, seed=3)


def test_bits_per_byte_of_a_text_are_those_of_its_evaluation(tmp_path: Path) -> None:
    """A stored model reads a document as the task does, but for the mark at its end."""
    reports = run(config_of(trial={"epochs": 1}), tmp_path)
    task, model = build_task(config_of().task, ROOT), student_in(tmp_path)
    batch = task.examples(Split.VALIDATION).batch()
    read = task.inputs().read_by  # type: ignore[union-attr]
    whole = read.decode(batch["target.token"][batch["tokens.mask"]].tolist())
    texts = [text for _, text in sections() if text in whole]
    found = [one.bits_per_byte for one in model.predict(texts, max_new_tokens=0)]
    sizes = [len(text.encode()) for text in texts]
    bits = sum(b * size for b, size in zip(found, sizes, strict=True)) / sum(sizes)
    assert bits == pytest.approx(reports[-1].metrics["val_bits_per_byte"], rel=0.02)


KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48},
    "llama": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "tie_word_embeddings": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_teaches_what_is_cut_from_it(kind: str, tmp_path: Path) -> None:
    """Its vocabulary is padded; a ladder of heads, neurons and layers; the student is exported."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.AutoConfig.for_model(kind, vocab_size=352, **KINDS[kind])
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "given")
    config = config_of(
        teacher={"arch": "transformers", "weights": str(tmp_path / "given")},
        student={"arch": "teacher", "keep": {"layers": 2, "heads": 0.5, "ffn": 0.5}},
        trial={
            "num_stages": 2, "prune_ratio": 0.5,
            "simplify": {"max_drop": 1.0, "drop_blocks": 1, "recovery_epochs": 0.5},
        },
    )  # fmt: skip
    reports = run(config, tmp_path)
    levels = [r for report in reports for r in report.rows.get("teachers", [])]
    assert [level["status"] for level in levels[:2]] == ["full", "pruned"]
    assert reports[0].rows["trials"][0]["params"] < levels[0]["params"]
    assert reports[-1].metrics["val_bits_per_byte"] < levels[0]["val_bits_per_byte"]
    model = student_in(tmp_path)
    task = build_task(config.task, ROOT)
    raw = task.examples(Split.VALIDATION).raw_inputs(slice(0, 3))
    expected = model.outputs(raw)["token"]
    assert expected.shape[-1] == 320
    assert isinstance(model.model, BodyAndHeads)
    sizes = {
        "batch": {
            name: {0: torch.export.Dim("b", min=1), 1: torch.export.Dim("l", min=2, max=32)}
            for name in raw
        }
    }
    program = torch.export.export(model.model, (raw,), dynamic_shapes=sizes, strict=False)
    assert torch.allclose(program.module()(raw)["token"], expected, atol=1e-5)


def test_a_model_that_sees_what_it_is_to_predict_is_refused() -> None:
    config = config_of(student={"arch": "small_transformer", "width": 16, "depth": 1})
    task = build_task(config.task, ROOT)
    model = build_for(task, config.student, seed=0)
    with pytest.raises(InputError, match="which are what it is to predict") as caught:
        probe(task, model, config.student, "student", batch=2)
    assert "causal: true" in str(caught.value)
    causal = config_of().student
    assert probe(task, build_for(task, causal, seed=0), causal, "student", batch=2) == []
    assert SMALL["args"]["causal"]


@pytest.mark.slow
def test_two_workers_are_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.language.two_workers"]
    (tmp_path / "two").mkdir()
    alone = metrics_of_trial(LocalWorker(), tmp_path / "one")
    workers = [
        subprocess.Popen([*command, str(rank), str(port), str(tmp_path / "two")], cwd=ROOT)
        for rank in (0, 1)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    together = json.loads((tmp_path / "two" / "found.json").read_text())
    for one, two in zip(alone, together, strict=True):
        for name in ("val_loss", "val_bits_per_byte", "val_kl"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
