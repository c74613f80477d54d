"""Tasks that no shipped domain resembles run through a whole trial: nothing but their own files
knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pdo_search
from pdo_search.config import TrialConfig, parse_experiment, resolve
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.modelfile import InferenceModel
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from . import parcels, series, spans

TOYS = {
    "series": (["mae", "rmse", "r2", "loss", "agreement", "kl"], "tests.toys.series:smoother"),
    "parcels": (list(parcels.build().metrics), "tests.toys.parcels:sorter"),
    "spans": (list(spans.build().metrics), "tests.toys.spans:reader"),
}


def config_of(toy: str, **trial: Any) -> TrialConfig:
    metrics, model = TOYS[toy]
    tree = {
        "name": toy,
        "task": {"kind": f"tests.toys.{toy}:build", "metrics": metrics},
        "teacher": {
            "arch": model, "width": 32,
            "train": {"kind": "adamw", "lr": 0.01, "epochs": 20, "batch_size": 32},
        },
        "student": {"arch": model, "width": 8},
        "trial": {
            "epochs": 6, "prune_ratio": 0.0, "temperature": 2.0,
            "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 32},
            **trial,
        },
    }  # fmt: skip
    return resolve(parse_experiment(tree, file=Path("t.yaml"), base_dir=Path.cwd()).experiment, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests find each other's teachers."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


def run(toy: str, store: Path, folder: Path, **trial: Any) -> list[Any]:
    worker = LocalWorker()
    config = config_of(toy, **trial).model_copy(update={"confirms": True})
    places = Places(str(store), str(folder / toy), None, "t0000", 0)
    run_trial(config, worker, places=places)
    return worker.reports


@pytest.mark.parametrize("curriculum", [{}, {"start": 0.5, "difficulty": "student_loss"}])
@pytest.mark.parametrize("toy", TOYS)
def test_a_toy_is_distilled_tested_and_loaded(
    toy: str, curriculum: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    reports = run(toy, store, tmp_path, curriculum=curriculum)
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["val_loss"] < first["val_loss"]
    (row,) = reports[-1].rows["confirmations"]
    assert {
        f"test_{name}" for name in TOYS[toy][0] if "agreement" not in name and "kl" not in name
    } <= set(row)
    modes = {r["mode"] for r in reports[-1].rows["composites"]}
    assert {"student", "teacher", "ensemble"} <= modes
    model = pdo_search.load_model(tmp_path / toy / "models" / "t0000" / "student", Path.cwd())
    task = build_task(config_of(toy).task)
    raw = task.examples(Split.VALIDATION).raw_inputs()
    assert isinstance(model, InferenceModel)
    found = model.outputs(raw)
    assert {name: found[name].shape[-1] for name in found} == {h.name: h.size for h in task.heads}


@pytest.mark.slow
def test_the_share_of_explained_variance_is_far_above_that_of_a_constant(
    store: Path, tmp_path: Path
) -> None:
    assert run("series", store, tmp_path, epochs=20)[-1].metrics["val_r2"] > 0.8


@pytest.mark.slow
def test_two_heads_are_both_learnt(store: Path, tmp_path: Path) -> None:
    last = run("parcels", store, tmp_path, epochs=20)[-1].metrics
    assert last["val_place.accuracy"] > 0.6  # Four classes; the most frequent alone: a third.
    assert last["val_traits.accuracy"] > 0.75


@pytest.mark.slow
def test_pointers_find_their_positions(store: Path, tmp_path: Path) -> None:
    last = run("spans", store, tmp_path, epochs=20)[-1].metrics
    assert last["val_span.em"] > 0.8  # One of some fifty pairs of positions.
    assert last["val_within.accuracy"] > 0.8


@pytest.mark.parametrize("change", [{"loss": {"heads": "learned"}}, {"teacher_outputs": "online"},
                                    {"loss": {"heads": {"place": 2.0}}}])  # fmt: skip
def test_weights_of_heads_and_online_teachers_train(
    change: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    reports = run("parcels", store, tmp_path, composite=None, **change)
    assert reports[-1].metrics["val_loss"] < reports[0].metrics["val_loss"]


def test_a_series_is_answered_alike_alone_and_among_longer_ones() -> None:
    torch.manual_seed(0)
    model, short = series.Smoother(8), torch.randn(4, 1)
    alone = model(series.batch_of([short]))[series.SMOOTH][0]
    beside = model(series.batch_of([short, torch.randn(9, 1)]))[series.SMOOTH][0, :4]
    torch.testing.assert_close(alone, beside)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [{"layers": 1}, {"heads": 0.5, "ffn": 0.25}, 0.5])
def test_a_transformer_teaches_what_is_cut_from_it(keep: Any, store: Path, tmp_path: Path) -> None:
    """A ladder of attention heads and neurons, and a student of the teacher's own parts."""
    arch = {"arch": "small_transformer", "width": 16, "depth": 2, "args": {"num_heads": 4}}
    tree = {
        "name": "cut",
        "task": {"kind": "tests.toys.series:build", "metrics": TOYS["series"][0]},
        "teacher": {**arch, "train": {"kind": "adamw", "lr": 0.01, "epochs": 20, "batch_size": 32}},
        "student": {"arch": "teacher", "keep": keep},
        "trial": {
            "epochs": 4, "prune_ratio": 0.25, "num_stages": 2, "init_epochs": 0,
            "simplify": {"max_drop": 1.0, "recovery_lr": 0.02, "recovery_epochs": 10},
            "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 32},
        },
    }  # fmt: skip
    config = resolve(
        parse_experiment(tree, file=Path("t.yaml"), base_dir=Path.cwd()).experiment, {}
    )
    worker = LocalWorker()
    places = Places(str(store), str(tmp_path / "cut"), None, "t0000", 0)
    run_trial(config, worker, places=places)
    first = worker.reports[0].rows["trials"][0]
    assert first["params"] < first["teacher_params"]
    levels = [r for report in worker.reports for r in report.rows.get("teachers", [])]
    sizes = [level["params"] for level in levels]
    assert [level["status"] for level in levels[:2]] == ["full", "pruned"]
    assert sizes[1] < 0.9 * sizes[0]
    assert worker.reports[-1].metrics["val_mae"] < 0.7
    student = tmp_path / "cut" / "models" / "t0000" / "student"
    model = pdo_search.load_model(student)
    assert isinstance(model, InferenceModel)
    assert sum(p.numel() for p in model.parameters()) == first["params"]
