"""Texts from end to end: teacher, level, student, composite, stored models that read raw texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pdo_search
from pdo_search.base.errors import InputError
from pdo_search.config import TrialConfig
from pdo_search.config.model import TeacherConfig
from pdo_search.config.recipe import SimplifyConfig
from pdo_search.config.texts import TextDataConfig
from pdo_search.config.training import ExecutionConfig, TrainConfig
from pdo_search.distill.frozen import fit_heads, refuse_frozen
from pdo_search.distill.ladder import recovery_of
from pdo_search.distill.protocol import LocalWorker, Report
from pdo_search.models.bodies import TrimmedEmbedding
from pdo_search.models.build import build_for
from pdo_search.models.modelfile import InferenceModel
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split, target_of
from pdo_search.tasks.texts.task import TextClassification
from pdo_search.tasks.texts.wordnet import wordnet as read_wordnet
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from .conftest import made, trial_of

pytest.importorskip("tokenizers")


def run(config: TrialConfig, folder: Path) -> list[Report]:
    torch.set_num_threads(1)
    worker = LocalWorker()
    places = Places(str(folder / "store"), str(folder / "sweep"), str(Path.cwd()), "t0000", 0)
    run_trial(config.model_copy(update={"confirms": True}), worker, places=places)
    return worker.reports


def texts_of(task: TextClassification, split: Split) -> tuple[list[str], list[str]]:
    """The raw texts of a split and their classes."""
    examples = task.examples(split)
    raw = examples.raw_inputs()
    ids = [row[mask].tolist() for row, mask in zip(raw["tokens"], raw["tokens.mask"], strict=True)]
    classes = [task.class_names[k] for k in examples.labels()[target_of("class")].tolist()]
    return [task.tokenizer.decode(row) for row in ids], classes


def predicted(model: Any, texts: list[str]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = model.predict(texts)
    return found


def right(model: Any, texts: list[str], classes: list[str]) -> float:
    """The share of texts whose most probable class is theirs."""
    answers = [next(iter(by_class)) for by_class in predicted(model, texts)]
    return sum(a == c for a, c in zip(answers, classes, strict=True)) / len(texts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Report], Path]:
    """A trial on made texts, and its folder."""
    folder = tmp_path_factory.mktemp("made")
    task = {"tokenizer": {"train": 300, "max_length": 64}}
    return run(trial_of(made(task=task)), folder), folder


def test_a_student_learns_from_texts_and_a_ladder_loses_layers_heads_and_neurons(
    finished: tuple[list[Report], Path],
) -> None:
    reports, _ = finished
    assert reports[-1].metrics["val_accuracy"] > 0.8  # The most frequent class alone: a half.
    assert {"val_f1", "val_mcc", "val_rare_recall"} <= set(reports[-1].metrics)
    levels = [row for report in reports for row in report.rows.get("teachers", [])]
    assert [level["status"] for level in levels][:2] == ["full", "pruned"]
    assert levels[1]["blocks_dropped"] == 1
    assert levels[1]["params"] < 0.8 * levels[0]["params"]
    (tested,) = reports[-1].rows["confirmations"]
    assert tested["test_accuracy"] > 0.8
    modes = {row["mode"] for row in reports[-1].rows["composites"]}
    assert modes == {"student", "teacher", "ensemble", "cascade"}


@pytest.mark.parametrize("part", ["student", "composite"])
def test_a_stored_model_reads_raw_texts_and_says_what_was_measured(
    part: str, finished: tuple[list[Report], Path]
) -> None:
    reports, folder = finished
    config = trial_of(made(task={"tokenizer": {"train": 300, "max_length": 64}}))
    task = build_task(config.task, Path.cwd(), Store(folder / "store"))
    assert isinstance(task, TextClassification)
    texts, classes = texts_of(task, Split.VALIDATION)
    model = pdo_search.load_model(folder / "sweep" / "models" / "t0000" / part)
    found = predicted(model, texts[:3])
    assert [set(by_class) for by_class in found] == [set(task.class_names)] * 3
    for by_class in found:
        shares = list(by_class.values())
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert shares == sorted(shares, reverse=True)
    composites = reports[-1].rows["composites"]
    chosen = next(
        r for r in composites if (r["mode"] == "student" if part == "student" else r["chosen"])
    )
    expected = reports[-1].metrics if part == "student" else chosen
    assert right(model, texts, classes) == pytest.approx(expected["val_accuracy"], abs=1e-6)


def test_what_is_no_list_of_texts_is_refused(finished: tuple[list[Report], Path]) -> None:
    model = pdo_search.load_model(finished[1] / "sweep" / "models" / "t0000" / "student")
    with pytest.raises(InputError, match="one text"):
        predicted(model, "the cat")  # type: ignore[arg-type]
    assert len(predicted(model, ["", "the cat", "word " * 500])) == 3


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fifty_definitions_are_distilled_stored_and_read(
    wordnet: Path, minilm: Path, tmp_path: Path
) -> None:
    """A pre-trained teacher with new heads, a level of it, a student of a trimmed vocabulary."""
    config = TextDataConfig(source="wordnet", path=str(wordnet))
    (table,) = read_wordnet(config, tmp_path, "task.data").values()
    chosen = [
        row
        for label in ("noun.animal", "noun.food")
        for row in [r for r in table.values.to_pylist() if r["label"] == label][-60:]
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    tree = made(
        task={
            "data": {"path": str(tmp_path / "some.jsonl")},
            "tokenizer": {"path": str(minilm), "max_length": 12},
            "splits": {"labels": 50, "transfer": 0.0},
        },
        teacher={
            "arch": "transformers", "weights": str(minilm), "width": None, "depth": None,
            "args": {}, "train": {"freeze": "body", "kind": "adamw", "lr": 0.02, "epochs": 40},
        },
        student={"vocab": 200},
        trial={"num_stages": 1, "simplify": {
            "recovery_epochs": 0.5, "max_drop": 1.0, "drop_blocks": 4}},
    )  # fmt: skip
    reports = run(trial_of(tree), tmp_path)
    levels = [row for report in reports for row in report.rows.get("teachers", [])]
    assert levels[0]["val_accuracy"] > 0.8
    assert levels[1]["blocks_dropped"] == 4
    assert reports[-1].metrics["val_loss"] < reports[0].metrics["val_loss"]
    model = pdo_search.load_model(tmp_path / "sweep" / "models" / "t0000" / "student")
    assert isinstance(model, InferenceModel)
    (found,) = predicted(model, ["a small bird of the woods"])
    assert set(found) == set(model.spec.class_names)
    embedding = model.model.get_submodule("body.embed")
    assert isinstance(embedding, TrimmedEmbedding)
    assert (embedding.num_embeddings, len(embedding.row_of)) == (200, 30522)


@pytest.mark.parametrize("keep", [{"layers": 1}, {"heads": 0.5, "ffn": 0.5, "vocab": 120}])
def test_a_student_may_be_what_is_kept_of_the_teacher(keep: Any, tmp_path: Path) -> None:
    config = trial_of(
        made(student={"arch": "teacher", "keep": keep, "width": None, "depth": None, "vocab": None},
             trial={"method": "one_shot"})
    )  # fmt: skip
    reports = run(config, tmp_path)
    first = reports[0].rows["trials"][0]
    assert first["params"] < first["teacher_params"]
    assert reports[-1].metrics["val_accuracy"] > 0.8


def test_a_frozen_body_stays_as_it_is_and_its_heads_learn() -> None:
    config = trial_of(made()).teacher
    task = build_task(trial_of(made()).task, Path.cwd())
    model = build_for(task, config, seed=0, path="teacher")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = TrainConfig(kind="adamw", lr=0.02, epochs=30, batch_size=16, freeze="body")
    losses = []
    fit_heads(
        task, model, task.examples(Split.TRAIN), train, seed=0, device=torch.device("cpu"),
        execution=ExecutionConfig(), on_epoch=lambda told: losses.append(told["train_loss"]),
    )  # fmt: skip
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"out.0.weight", "out.0.bias"}
    assert losses[-1] < losses[0]
    assert not model.training


def test_a_model_of_one_piece_cannot_be_frozen() -> None:
    task = build_task(trial_of(made()).task, Path.cwd())
    with pytest.raises(InputError, match="of one piece"):
        refuse_frozen(task, torch.nn.Linear(2, 2), "teacher")


@pytest.mark.parametrize(
    ("teacher", "kind", "lr"),
    [
        ({"arch": "resnet50", "weights": "a.pt"}, "sgd", 0.02),
        ({"arch": "resnet50", "train": {"kind": "adamw"}}, "adamw", 1e-3),
        ({"arch": "transformers", "weights": "a", "train": {"kind": "adamw"}}, "adamw", 1e-4),
        ({"arch": "transformers", "weights": "a", "train": {"kind": "sgd"}}, "sgd", 0.02),
        ({"arch": "small_transformer", "weights": "a.pt"}, "adamw", 1e-4),
    ],
)
def test_a_level_is_recovered_by_what_trains_its_teacher(
    teacher: dict[str, Any], kind: str, lr: float
) -> None:
    config = TeacherConfig.model_validate(teacher)
    found = recovery_of(config, SimplifyConfig())
    assert (found.kind, found.lr) == (kind, lr)
    assert recovery_of(config, SimplifyConfig(recovery_lr=0.007)).lr == 0.007


def test_a_tokenizer_that_is_not_the_models_is_refused(minilm: Path) -> None:
    task = build_task(trial_of(made(task={"tokenizer": {"path": str(minilm)}})).task, Path.cwd())
    config = TeacherConfig(arch="small_transformer", args={"vocab": 100}, train=TrainConfig())
    with pytest.raises(InputError, match="rows for 100 ids, and the task's tokenizer has 30,522"):
        build_for(task, config, seed=0, path="teacher")
