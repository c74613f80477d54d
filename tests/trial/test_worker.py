"""A whole trial on real digits: its reports, that it repeats to the last bit, that it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import pdo_search
from pdo_search.base.errors import Infeasible, InputError
from pdo_search.config import parse_experiment, resolve
from pdo_search.config.resolve import confirming
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.protocol import LocalWorker
from pdo_search.distill.teaching import Teaching
from pdo_search.models.build import build_for
from pdo_search.models.composite import load_composite
from pdo_search.models.modelfile import InferenceModel
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.task import ImageClassification
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from ..pictures import classes, pixels

TREE: dict[str, Any] = {
    "name": "tiny",
    "task": {"data": {"source": "digits", "limit": 1200}, "augment": {"crop": 1}},
    "teacher": {"arch": "small_resnet", "width": 8, "train": {"epochs": 3, "batch_size": 32}},
    "student": {"arch": "small_convnet", "width": 8, "dropout": 0.1},
    "trial": {
        "epochs": 4,
        "num_stages": 2,
        "prune_ratio": 0.3,
        "curriculum": {"start": 0.5, "difficulty": "student_loss"},
        "optimizer": {"batch_size": 16},
        "simplify": {"recovery_epochs": 0.5, "max_drop": 1.0},
    },
}
# Clock readings differ from run to run; every other column must not.
TIMINGS = ("_s", "_at", "_ms")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


def config_with(**changes: Any) -> TrialConfig:
    tree = {**TREE, **{k: {**TREE.get(k, {}), **v} for k, v in changes.items()}}
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=Path.cwd())
    return resolve(loaded.experiment, {})


def places(store: Path, folder: Path) -> Places:
    return Places(str(store), str(folder), None, "t0000", 0)


def numbers(reports: list[Any]) -> list[Any]:
    """All rows of all reports without clock readings."""
    return [
        {
            table: [{k: v for k, v in row.items() if not k.endswith(TIMINGS) and k not in
                     ("pid", "host", "cached")} for row in rows]
            for table, rows in report.rows.items()
        }
        for report in reports
    ]  # fmt: skip


class Ran(NamedTuple):
    """A trial that was run to its end: what it reported, and where it left its models."""

    reports: list[Any]
    folder: Path


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The plain trial, which many tests look at and none changes."""
    worker, folder = LocalWorker(), tmp_path_factory.mktemp("whole")
    run_trial(config_with(), worker, places=places(store, folder))
    return Ran(worker.reports, folder)


def test_a_trial_reports_every_epoch_and_leaves_models_that_load(whole: Ran) -> None:
    metrics = [r.metrics for r in whole.reports]
    assert [m["epoch"] for m in metrics] == [1, 2, 3, 4]
    assert [m["stage"] for m in metrics] == [0, 1, 1, 2]
    assert [m["stage_end"] for m in metrics] == [True, False, True, True]
    assert [m["done"] for m in metrics] == [False, False, False, True]
    teachers = [row for r in whole.reports for row in r.rows.get("teachers", [])]
    assert [row["level"] for row in teachers] == [0, 1, 2]
    flops = [row["flops"] for row in teachers]
    assert flops[0] > flops[1] > flops[2]
    final = whole.reports[-1].rows
    modes = {row["mode"] for row in final["composites"]}
    assert modes == {"student", "teacher", "ensemble", "cascade"}
    assert sum(row["chosen"] for row in final["composites"]) == 1
    student = pdo_search.load_model(whole.folder / "models" / "t0000" / "student")
    composite = pdo_search.load_model(whole.folder / "models" / "t0000" / "composite")
    pictures = torch.randint(0, 255, (3, 1, 8, 8), dtype=torch.uint8)
    assert student(pictures).shape == (3, 10)
    assert composite(pictures).shape == (3, 10)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_warm_resumed_and_in_a_cold_process(
    store: Path, whole: Ran, tmp_path: Path
) -> None:
    config = config_with()
    expected = numbers(whole.reports)

    warm = LocalWorker()
    run_trial(config, warm, places=places(store, tmp_path / "b"))
    assert numbers(warm.reports) == expected

    cut = LocalWorker(stop_after=3)
    run_trial(config, cut, places=places(store, tmp_path / "c"))
    resumed = LocalWorker()
    run_trial(config, resumed, places=places(store, tmp_path / "c"))
    assert len(cut.reports) == 3
    assert numbers(resumed.reports) == expected

    cold = subprocess.run(
        [sys.executable, "-c", COLD, config.model_dump_json(), str(tmp_path / "d")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert cold.stdout.strip() == repr([r.metrics["val_loss"] for r in whole.reports])


HINTS = [{"kind": "pooled"}, {"kind": "cosine", "teacher": 1, "student": 1, "weight": 0.3},
         {"kind": "relation"}]  # fmt: skip
HIDDEN = [{"kind": "hidden", "teacher": 1, "student": 1}, {"kind": "attention"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial",
    [{"loss": {"hints": HINTS}}, {"loss": {"hints": HIDDEN}, "teacher_outputs": "online"}],
    ids=["stored", "online"],
)
def test_a_trial_with_hints_goes_on_to_the_same_bits_and_leaves_no_maps_behind(
    trial: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    adamw = {"kind": "adamw", "lr": 0.01, "batch_size": 16}
    config = config_with(trial={**trial, "optimizer": adamw, "epochs": 4, "composite": None})
    config = config.model_copy(update={"save_after": (1, 2, 3)})
    whole = LocalWorker()
    run_trial(config, whole, places=places(store, tmp_path / "whole"))
    expected = numbers(whole.reports)
    hints = [row["loss_hints"] for r in whole.reports for row in r.rows["epochs"]]
    assert hints[0] == 0 < min(hints[1:])
    for stop in (2, 3):
        cut, resumed = LocalWorker(stop_after=stop), LocalWorker()
        for worker in (cut, resumed):
            run_trial(config, worker, places=places(store, tmp_path / f"{stop}"))
        assert len(cut.reports) == stop
        assert numbers(resumed.reports) == expected
    saved = pdo_search.load_model(tmp_path / "whole" / "models" / "t0000" / "student")
    plain = build_for(cached_task(config.task), config.student, seed=0).state_dict()
    assert isinstance(saved, InferenceModel)
    assert [*saved.model.state_dict()] == [*plain]


@pytest.mark.slow
def test_with_the_stage_clock_a_student_is_evaluated_at_its_stages_ends(
    store: Path, whole: Ran, tmp_path: Path
) -> None:
    ends = LocalWorker()
    config = config_with(scheduler={"clock": "stage"})
    run_trial(config, ends, places=places(store, tmp_path / "b"))
    assert ["val_loss" in r.metrics for r in ends.reports] == [True, False, True, True]
    assert ends.reports[-1].metrics["val_loss"] == whole.reports[-1].metrics["val_loss"]
    adaptive = LocalWorker()
    config = config_with(scheduler={"clock": "stage"}, trial={"curriculum": {"adaptive": True}})
    run_trial(config, adaptive, places=places(store, tmp_path / "c"))
    assert all("val_loss" in r.metrics for r in adaptive.reports)


@pytest.mark.slow
@pytest.mark.parametrize(
    "execution",
    [{"precision": "bf16"}, {"compile": True}],
    ids=["bf16", "compile"],
)
def test_another_execution_learns_as_well(
    store: Path, whole: Ran, tmp_path: Path, execution: dict[str, Any]
) -> None:
    if "compile" in execution and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    other = LocalWorker()
    run_trial(config_with(execution=execution), other, places=places(store, tmp_path / "b"))
    expected, found = (ran.reports[-1].metrics for ran in (whole, other))
    assert found["val_loss"] != expected["val_loss"]
    assert found["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.15)
    assert pdo_search.load_model(tmp_path / "b" / "models" / "t0000" / "student") is not None


COLD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from pdo_search.config import TrialConfig
from pdo_search.distill.protocol import LocalWorker
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split
from pdo_search.tasks.images.task import ImageClassification
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

folder = sys.argv[2]
worker = LocalWorker()
run_trial(TrialConfig.model_validate_json(sys.argv[1]), worker,
          places=Places(folder + "/store", folder, None, "t0000", 0))
print([r.metrics["val_loss"] for r in worker.reports])
"""


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_trial_begins_again(
    store: Path, tmp_path: Path
) -> None:
    config = config_with()
    cut = LocalWorker(stop_after=3)
    run_trial(config, cut, places=places(store, tmp_path))
    file = tmp_path / "checkpoints" / "t0000" / "state.ckpt"
    file.write_bytes(file.read_bytes()[:-50])
    again = LocalWorker()
    run_trial(config, again, places=places(store, tmp_path))
    assert numbers(again.reports)[:3] == numbers(cut.reports)
    assert len(list(file.parent.glob("damaged-*.ckpt"))) == 1


def test_a_target_stops_early(store: Path, tmp_path: Path) -> None:
    worker = LocalWorker()
    config = config_with(trial={"target": 0.01, "composite": None})
    run_trial(config, worker, places=places(store, tmp_path))
    assert [m.metrics["decision"] for m in worker.reports] == ["target_reached"]


def test_a_student_over_a_limit_is_infeasible(store: Path, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"params .* over the limit 100"):
        run_trial(
            config_with(limits={"params": 100}), LocalWorker(), places=places(store, tmp_path)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial",
    [
        {"teacher_order": "ascending", "loss": {"kl_form": "bernoulli", "standardize": True}},
        {"finetune_epochs": 1, "init_epochs": 0, "temperature_end": 1.0, "composite": None},
        {"curriculum": {"adaptive": True, "patience": 1, "min_delta": 0.5}, "epochs": 5},
        {"optimizer": {"kind": "adamw", "lr": 0.003, "batch_size": 16}, "composite": None},
    ],
)
def test_every_form_of_the_curriculum_trains(
    store: Path, tmp_path: Path, trial: dict[str, Any]
) -> None:
    worker = LocalWorker()
    run_trial(config_with(trial=trial), worker, places=places(store, tmp_path))
    assert worker.reports[-1].metrics["done"]
    assert worker.reports[-1].metrics["epoch"] == trial.get("epochs", 4)
    assert worker.reports[-1].metrics["val_accuracy"] > 0.3


@pytest.mark.slow
def test_mixed_and_jittered_pictures_train_and_repeat(store: Path, tmp_path: Path) -> None:
    config = config_with(
        task={**TREE["task"], "augment": {"crop": 1, "color": 0.3, "mixup": 0.4}},
        trial={"composite": None, "num_views": 3},
    )
    whole, cut, resumed = LocalWorker(), LocalWorker(stop_after=2), LocalWorker()
    run_trial(config, whole, places=places(store, tmp_path / "a"))
    run_trial(config, cut, places=places(store, tmp_path / "b"))
    run_trial(config, resumed, places=places(store, tmp_path / "b"))
    assert numbers(resumed.reports) == numbers(whole.reports)
    assert whole.reports[-1].metrics["val_accuracy"] > 0.3


@pytest.mark.slow
def test_a_shrunk_teacher_is_a_student(store: Path, tmp_path: Path) -> None:
    worker = LocalWorker()
    tree = {**TREE, "student": {"arch": "teacher", "shrink": 0.5}}
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=Path.cwd())
    run_trial(resolve(loaded.experiment, {}), worker, places=places(store, tmp_path))
    facts = worker.reports[0].rows["trials"][0]
    assert facts["params"] < 0.5 * facts["teacher_params"]
    # The teacher itself stays whole: the first level is pruned from it, not from the student.
    levels = [row for report in worker.reports for row in report.rows.get("teachers", [])]
    assert levels[1]["params"] > facts["params"]
    assert worker.reports[-1].metrics["val_accuracy"] > 0.5
    assert pdo_search.load_model(tmp_path / "models" / "t0000" / "student") is not None


class Trap:
    """Fails whoever looks at it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("the test split was read")


@pytest.mark.slow
def test_a_trial_never_reads_the_test_split(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with()
    task = cached_task(config.task, None)
    assert isinstance(task, ImageClassification)
    monkeypatch.setitem(task._splits, Split.TEST, Trap())
    with pytest.raises(AssertionError, match="was read"):
        pixels(task.test_examples()).sum()
    # A store of its own: teacher, levels and banks are built here, not found.
    worker = LocalWorker()
    run_trial(config, worker, places=places(tmp_path / "store", tmp_path))
    assert worker.reports[-1].metrics["done"]


def baseline(method: str, **trial: Any) -> TrialConfig:
    given = {**TREE["trial"], **trial, "method": method}
    return config_with(trial=given)


@pytest.mark.slow
def test_a_baseline_trains_for_the_same_epochs_on_the_same_examples(
    store: Path, tmp_path: Path
) -> None:
    task = cached_task(config_with().task, None)
    epochs = {}
    for method, levels in (("scratch", []), ("one_shot", [0]), ("assistant", [0, 1])):
        worker = LocalWorker()
        run_trial(baseline(method), worker, places=places(store, tmp_path / method))
        rows = [r.rows for r in worker.reports]
        epochs[method] = [row for r in rows for row in r["epochs"]]
        assert [row["epoch"] for row in epochs[method]] == [1, 2, 3, 4]
        assert [row["level"] for r in rows for row in r.get("teachers", [])] == levels
        stage = rows[-1]["stages"][0]
        assert stage["teacher_level"] == (levels[-1] if levels else None)
        assert (stage["first_epoch"], stage["last_epoch"]) == (1, 4)
        assert "composites" not in rows[-1]
        assert all(row["admitted"] == 1 for row in epochs[method])
        assert epochs[method][-1]["val_accuracy"] > 0.3
        assert pdo_search.load_model(tmp_path / method / "models" / "t0000" / "student") is not None
    assert all(row["loss_kl"] == 0 for row in epochs["scratch"])
    # The transfer split's labels teach it, too.
    assert len(task.examples(Split.TRANSFER)) > 0
    assert all(row["loss_avg"] > 0 for row in epochs["scratch"])
    assert all(row["loss_kl"] > 0 for m in ("one_shot", "assistant") for row in epochs[m])
    losses = [epochs[method][0]["val_loss"] for method in epochs]
    assert len(set(losses)) == 3


@pytest.mark.slow
def test_scratch_builds_no_outputs_of_a_teacher_to_learn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Teaching, level: int, view: int) -> Any:
        raise AssertionError("a bank was asked for")

    monkeypatch.setattr(Teaching, "pool_bank", refused)
    own = tmp_path / "store"
    run_trial(baseline("scratch"), LocalWorker(), places=places(own, tmp_path / "a"))
    with pytest.raises(AssertionError, match="a bank was asked for"):
        run_trial(baseline("one_shot"), LocalWorker(), places=places(own, tmp_path / "b"))


@pytest.mark.slow
def test_scratch_leaves_out_examples_without_a_label(store: Path, tmp_path: Path) -> None:
    task = {
        "data": {"source": "digits", "limit": 1200},
        "splits": {"transfer": 0},
        "transfer_data": {"source": "digits", "labelled": False},
    }
    worker = LocalWorker()
    config = config_with(task=task, trial={"method": "scratch"})
    run_trial(config, worker, places=places(store, tmp_path))
    rows = [row for report in worker.reports for row in report.rows["epochs"]]
    assert all(row["loss_avg"] == 0 for row in rows)
    assert all(row["train_loss"] == pytest.approx(row["loss_init"]) for row in rows)


@pytest.mark.slow
def test_a_confirmation_reads_the_test_split_once_at_its_end_and_no_search_does(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with()
    task = cached_task(config.task, None, str(store))
    assert isinstance(task, ImageClassification)
    test = task.test_examples()
    reads: list[int] = []
    worker = LocalWorker()

    def counted() -> Any:
        reads.append(len(worker.reports))
        return test

    monkeypatch.setattr(task, "test_examples", counted)
    run_trial(config, worker, places=places(store, tmp_path / "search"))
    assert reads == []
    assert not any("confirmations" in report.rows for report in worker.reports)

    worker = LocalWorker()
    run_trial(confirming(config, 5), worker, places=places(store, tmp_path / "confirm"))
    assert reads == [3], "in the last of four epochs, before its report"
    row = worker.reports[-1].rows["confirmations"][0]
    assert row["test_examples"] == len(test) > 200
    student = pdo_search.load_model(tmp_path / "confirm" / "models" / "t0000" / "student")
    hits = (student(pixels(test)).argmax(dim=1) == classes(test)).float().mean()
    assert row["test_accuracy"] == pytest.approx(hits.item())
    composite = pdo_search.load_model(tmp_path / "confirm" / "models" / "t0000" / "composite")
    hits = (composite(pixels(test)).argmax(dim=1) == classes(test)).float().mean()
    assert row["composite_test_accuracy"] == pytest.approx(hits.item())

    # Gone on with after its end it repeats what it reported, and reads nothing again.
    again = LocalWorker()
    run_trial(confirming(config, 5), again, places=places(store, tmp_path / "confirm"))
    assert numbers(again.reports) == numbers(worker.reports)
    assert len(reads) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["student", "teacher", "ensemble", "cascade"])
def test_a_composite_is_measured_on_test_at_what_it_costs_there(
    store: Path, tmp_path: Path, mode: str
) -> None:
    config = config_with(trial={"composite": {"modes": [mode]}})
    worker = LocalWorker()
    run_trial(confirming(config, 5), worker, places=places(store, tmp_path))
    (row,) = worker.reports[-1].rows["confirmations"]
    levels = {r["level"]: r for report in worker.reports for r in report.rows.get("teachers", [])}
    cost = next(r for report in worker.reports for r in report.rows["trials"] if "flops" in r)
    share, own = row["composite_deferred"], 0 if mode == "teacher" else cost["flops"]
    assert row["composite_mode"] == mode
    assert row["composite_flops"] == pytest.approx(own + share * levels[2]["flops"])
    if mode == "cascade":
        test = cached_task(config.task, None, str(store)).test_examples()
        model = load_composite(tmp_path / "models" / "t0000" / "composite")
        assert model.student is not None
        asked = model.said(test.raw_inputs())[1]
        assert 0 < share < 1
        assert share == pytest.approx(asked.float().mean().item())
    else:
        assert share == (0 if mode == "student" else 1)


@pytest.mark.slow
def test_a_composite_does_not_change_the_student_that_is_measured(
    store: Path, tmp_path: Path
) -> None:
    rows, weights = [], []
    for name, composite in (("with", {"finetune_epochs": 2}), ("without", None)):
        worker = LocalWorker()
        config = confirming(config_with(trial={"composite": composite}), 5)
        run_trial(config, worker, places=places(store, tmp_path / name))
        rows.append(worker.reports[-1].rows["confirmations"][0])
        file = tmp_path / name / "models" / "t0000" / "student" / "weights.safetensors"
        weights.append(file.read_bytes())
    measured = [name for name in rows[1] if name.startswith("test_")]
    assert len(measured) == 7
    assert [rows[0][name] for name in measured] == [rows[1][name] for name in measured]
    assert weights[0] == weights[1]
    assert "composite_mode" in rows[0]
    assert not [name for name in rows[1] if name.startswith("composite")]


@pytest.mark.slow
def test_the_full_teacher_is_measured_on_test_once_for_all_runs(tmp_path: Path) -> None:
    store, rows = tmp_path / "store", []
    for seed in (5, 6):
        worker = LocalWorker()
        config = confirming(config_with(trial={"composite": None}), seed)
        run_trial(config, worker, places=places(store, tmp_path / str(seed)))
        rows.append(worker.reports[-1].rows["confirmations"][0])
    measured = [name for name in rows[0] if name.startswith("teacher_test_")]
    assert len(measured) == 6
    assert [rows[0][name] for name in measured] == [rows[1][name] for name in measured]
    (artifact,) = (store / "tested").glob("*/*/tested.json")
    (teacher,) = (store / "teacher").glob("*/*/model.json")
    test = cached_task(config.task, None, str(store)).test_examples()
    model = pdo_search.load_model(teacher.parent)
    hits = (model(pixels(test)).argmax(dim=1) == classes(test)).float().mean()
    assert rows[0]["teacher_test_accuracy"] == pytest.approx(hits.item())
    assert json.loads(artifact.read_text())["accuracy"] == rows[0]["teacher_test_accuracy"]


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_fresh_seeds_find_the_searchs_teachers(store: Path, tmp_path: Path) -> None:
    config = config_with()
    worker = LocalWorker()
    run_trial(confirming(config, 5), worker, places=places(store, tmp_path / "b"))
    teachers = [row for r in worker.reports for row in r.rows.get("teachers", [])]
    assert all(row["cached"] for row in teachers)
    other = LocalWorker()
    run_trial(confirming(config, 6), other, places=places(store, tmp_path / "c"))
    assert other.reports[0].metrics["val_loss"] != worker.reports[0].metrics["val_loss"]


@pytest.mark.slow
def test_an_unlabelled_transfer_source_teaches(store: Path, tmp_path: Path) -> None:
    task = {
        "data": {"source": "digits", "limit": 1200},
        "splits": {"transfer": 0},
        "transfer_data": {"source": "digits", "labelled": False},
    }
    worker = LocalWorker()
    loss = {"kl": 1.0, "avg": 0.5, "init": 0.0}
    config = config_with(task=task, trial={"loss": loss, "epochs": 8, "composite": None})
    run_trial(config, worker, places=places(store, tmp_path))
    rows = [row for report in worker.reports for row in report.rows["epochs"]]
    assert all(row["loss_avg"] == 0 for row in rows)
    assert rows[-1]["val_accuracy"] > 0.7


def test_whatever_is_kept_has_the_statistics_of_the_train_split(store: Path, whole: Ran) -> None:
    train = cached_task(config_with().task, None, str(store)).examples(Split.TRAIN)
    kept = [whole.folder / "models" / "t0000" / "student"]
    for kind in ("teacher", "level"):
        kept += [path.parent for path in store.glob(f"{kind}/*/*/model.json")]
    assert len(kept) >= 4
    for directory in kept:
        model = pdo_search.load_model(directory)
        before = {k: v.clone() for k, v in model.named_buffers() if k.endswith(("_mean", "_var"))}
        assert before
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for rows in torch.arange(len(train)).tensor_split(4):
                model(pixels(train, rows))
        for name, found in before.items():
            again = dict(model.named_buffers())[name]
            scale = again.abs().mean()
            torch.testing.assert_close(found / scale, again / scale, rtol=0.1, atol=0.1)


def test_data_that_changed_are_refused(store: Path, tmp_path: Path) -> None:
    config = config_with()
    right = cached_task(config.task, None, str(store)).fingerprint
    where = replace(places(store, tmp_path), fingerprint="of other data")
    with pytest.raises(InputError, match="not those that the sweep began with"):
        run_trial(config, LocalWorker(), places=where)
    worker = LocalWorker(stop_after=1)
    run_trial(config, worker, places=replace(where, fingerprint=right))
    assert len(worker.reports) == 1
