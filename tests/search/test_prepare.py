"""What a sweep builds before its trials: on one slot, or the outputs on all of them by Ray Data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pdo_search.config import parse_experiment
from pdo_search.distill.protocol import LocalWorker
from pdo_search.search import prepare
from pdo_search.search.session import first_suggestion
from pdo_search.trial.messages import Assignment
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from ..conftest import TINY, Pdo

SPREAD = """
import json, sys
from rich.console import Console
from pdo_search.search import prepare
from pdo_search.search.cluster import connect, disconnect, import_ray
from pdo_search.trial.messages import Assignment
assignment = Assignment(**json.loads(sys.argv[1]))
prepare.LARGE_POOL = int(sys.argv[3])
prepare.NOTE_EVERY_S = -1.0  # A word after every chunk.
import_ray("auto")
connect("auto", dashboard=False)
console = Console(width=200)
suggestion = json.loads(sys.argv[2])
prepare.prepare_sweep(assignment, suggestion, console=console, at_once=2)
disconnect()
"""


def job(store: Path) -> prepare._Job:
    """The job of a sweep that lies beside its store."""
    tree = {
        **TINY,
        "task": {"data": {"source": "digits"}, "augment": {"crop": 1}},
        "trial": {**TINY["trial"], "num_stages": 1, "num_views": 1},
    }
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=Path.cwd())
    sweep = store.parent / "sweep"
    sweep.mkdir(exist_ok=True)
    (sweep / "sweep.json").touch()
    experiment = loaded.experiment.model_dump_json()
    assignment = Assignment(experiment, str(sweep), str(store), str(Path.cwd()))
    return prepare._Job(assignment, first_suggestion(loaded))


def bank_files(store: Path) -> dict[str, bytes]:
    files = [f for f in store.glob("bank/??/*/*") if f.suffix in (".npy", ".jsonl")]
    return {str(f.relative_to(store)): f.read_bytes() for f in files}


def prepared(pdo: Pdo, store: Path, large: int) -> str:
    on = job(store)
    given = json.dumps(on.assignment.to_dict()), json.dumps(on.suggestion), str(large)
    done = subprocess.run(
        [sys.executable, "-c", SPREAD, *given],
        env=pdo.env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_large_pool_is_computed_on_all_slots_to_the_same_bits(pdo: Pdo, tmp_path: Path) -> None:
    spread = tmp_path / "spread"
    said = prepared(pdo, spread, large=100)
    assert "epoch 2 of 2: train_loss" in said
    assert "outputs on view 0: 0 of" in said
    assert said.count("outputs on view 0: 1,169 of 1,169") == 1
    # The same teacher, its outputs computed in this process.
    alone = tmp_path / "alone"
    shutil.copytree(spread / "teacher", alone / "teacher")
    row, *_ = prepare._teacher(job(alone))
    assert row.cached
    prepare._banks(job(alone), num_actors=0)
    assert len(bank_files(alone)) == 4
    assert bank_files(spread) == bank_files(alone)
    # Found, not built again, however large.
    assert "outputs" not in prepared(pdo, spread, large=10**9)


def test_a_trial_finds_all_that_it_asks_the_full_teacher(tmp_path: Path) -> None:
    on = job(tmp_path / "store")
    prepare._teacher(on)
    prepare._banks(on, num_actors=0)
    found = bank_files(tmp_path / "store")
    config = on.assignment.config(on.suggestion)
    recipe = config.recipe.model_copy(update={"composite": None})
    config = config.model_copy(update={"recipe": recipe})
    places = Places(str(tmp_path / "store"), str(tmp_path), None, "t0000", 0)
    worker = LocalWorker()
    run_trial(config, worker, places=places)
    assert worker.reports[-1].metrics["done"]
    assert bank_files(tmp_path / "store") == found
