"""Heads of many classes: what is left out of the bank, measured on a trained model, and a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.errors import Infeasible
from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.evaluate import outputs_of
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.modelfile import load_model_file
from pdo_search.store import Store
from pdo_search.store.bank import Bank, bank, in_process
from pdo_search.store.encoding import DENSE_SIZE, TOP_K, StoredHead
from pdo_search.store.plan import Plan
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import prepare, run_trial

CLASSES = 1500
CPU = torch.device("cpu")
TREE: dict[str, Any] = {
    "name": "many",
    "task": {"data": {"source": "tests.store.test_top_k:pictures"}},
    "teacher": {
        "arch": "small_convnet", "width": 16,
        "train": {"kind": "adamw", "lr": 0.01, "epochs": 6, "batch_size": 64},
    },
    "student": {"arch": "small_convnet", "width": 16},
    "trial": {
        "epochs": 3, "num_stages": 1, "init_epochs": 0, "temperature": 2.0, "composite": None,
        "loss": {"kl": 1.0, "avg": 0.0, "init": 0.0},
        "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 64},
    },
}  # fmt: skip


def pictures() -> tuple[NDArray[Any], NDArray[Any]]:
    """Eight noisy pictures of each of 1,500 random patterns."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 8)
    patterns = rng.integers(0, 256, (CLASSES, 1, 8, 8)).astype(np.float64)
    noisy = patterns[labels] + rng.normal(0, 20, (len(labels), 1, 8, 8))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def config_with(**trial: Any) -> TrialConfig:
    tree = {**TREE, "trial": {**TREE["trial"], **trial}}
    return resolve(parse_experiment(tree, file=Path("x.yaml"), base_dir=Path.cwd()).experiment, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def trained(store: Path) -> Tensor:
    """Logits of a trained teacher on validation, in full."""
    config = config_with()
    full = prepare(config, Context(str(store), CPU))
    assert full.value > 0.9
    task = cached_task(config.task, None)
    model, _ = load_model_file(full.path)
    found = outputs_of(task, model.eval(), task.examples(Split.VALIDATION), CPU)
    return torch.cat([outputs["class"] for _, _, outputs in found])


def stored(root: Path, logits: Tensor) -> Bank:
    return bank(
        Store(root),
        Plan({"class": StoredHead(logits.shape[1])}, len(logits), {}),
        teacher_key="t",
        task_fingerprint="f",
        split_name="validation",
        view=0,
        compute=in_process(lambda rows: [(rows, {"class": logits[rows]})]),
    )


@pytest.mark.parametrize(
    ("temperature", "bound"), [(1.0, 0.015), (2.0, 0.22), (3.0, 0.27), (4.0, 0.27), (8.0, 0.12)]
)
def test_soft_targets_lose_little_at_any_temperature(
    trained: Tensor, tmp_path: Path, temperature: float, bound: float
) -> None:
    rows = torch.arange(len(trained))
    found = stored(tmp_path, trained).rows("class", rows, temperature)
    exact = F.log_softmax(trained.double() / temperature, 1)
    rebuilt = F.log_softmax(found.double() / temperature, 1)
    assert float((exact.exp() * (exact - rebuilt)).sum(1).mean()) < bound
    top = trained.topk(TOP_K, dim=1).indices
    kept, kept_rebuilt = (p.exp().gather(1, top).sum(1) for p in (exact, rebuilt))
    assert float((kept - kept_rebuilt).abs().mean()) < 0.02


def test_the_largest_stay_as_they_are_and_the_rest_is_level(
    trained: Tensor, tmp_path: Path
) -> None:
    rows = torch.tensor([5, 0, 1400])
    found = stored(tmp_path, trained).rows("class", rows)
    top = trained[rows].topk(TOP_K, dim=1)
    assert found.shape == (3, CLASSES)
    assert torch.equal(found.gather(1, top.indices), top.values.half().float())
    rest = found.scatter(1, top.indices, -torch.inf)
    assert [len(row[row.isfinite()].unique()) for row in rest] == [1, 1, 1]
    assert torch.equal(found.argmax(1), trained[rows].argmax(1))


@pytest.mark.parametrize("size", [DENSE_SIZE, DENSE_SIZE + 1, 70_000])
def test_every_size_of_head_comes_back(tmp_path: Path, size: int) -> None:
    logits = torch.randn(100, size, generator=torch.Generator().manual_seed(0))
    found = stored(tmp_path, logits).rows("class", torch.arange(100))
    top = logits.topk(TOP_K, dim=1)
    assert torch.equal(found.gather(1, top.indices), top.values.half().float())
    width = sum(f.stat().st_size - 128 for f in tmp_path.rglob("*.npy")) / 100
    assert width == 2 * size if size <= DENSE_SIZE else width <= TOP_K * 6 + 8


def test_a_trial_learns_from_them(store: Path, tmp_path: Path) -> None:
    worker = LocalWorker()
    places = Places(str(store), str(tmp_path), None, "t0000", 0)
    run_trial(config_with(), worker, places=places)
    row = worker.reports[-1].rows["epochs"][0]
    # Labels have no weight: what it knows of 1,500 classes, it has from the stored outputs.
    assert row["val_accuracy"] > 0.3
    assert row["val_agreement"] > 0.3


def test_standardized_logits_need_the_whole_head(store: Path, tmp_path: Path) -> None:
    places = Places(str(store), str(tmp_path), None, "t0000", 0)
    with pytest.raises(Infeasible, match="only some are stored"):
        run_trial(config_with(loss={"kl": 1.0, "standardize": True}), LocalWorker(), places=places)
