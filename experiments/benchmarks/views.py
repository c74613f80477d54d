"""What few recorded views cost: validation accuracy by number of views, all sides in one go.

    python experiments/benchmarks/views.py            # about five minutes on one CPU thread

One student, one recipe, one teacher, on part of Fashion-MNIST; only ``num_views`` differs. With as
many views as epochs every epoch sees fresh pictures, as online distillation does. Seeds set the
student's weights and the order of examples; teacher, splits and views are the same for all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pdo_search.base.seeds import seed_for
from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.ladder import Level
from pdo_search.distill.loop import Distillation, initial_state
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.build import build_for, placed
from pdo_search.models.cost import measure_cost
from pdo_search.records import TrialRow
from pdo_search.trial.worker import prepare, teaching_of

CPU = torch.device("cpu")


def configured(num_views: int, epochs: int, limit: int) -> TrialConfig:
    tree = {
        "name": "views",
        "task": {
            "data": {"source": "fashion_mnist", "limit": limit},
            "splits": {"transfer": 0.1, "validation": 0.35},
            "augment": {"crop": 2, "flip": True},
        },
        "teacher": {"arch": "small_resnet", "width": 16, "train": {"epochs": 5, "lr": 0.1}},
        "student": {"arch": "small_convnet", "width": 8},
        "trial": {
            "epochs": epochs,
            "init_epochs": 0,
            "num_stages": 1,
            "num_views": num_views,
            "temperature": 4.0,
            "loss": {"kl": 1.0, "avg": 0.0, "init": 0.0},
            "optimizer": {"lr": 0.1, "batch_size": 64},
        },
    }
    loaded = parse_experiment(tree, file=Path(__file__), base_dir=Path(__file__).parent)
    return resolve(loaded.experiment, {})


def distilled(config: TrialConfig, full: Level, store: str) -> tuple[float, float]:
    """Validation accuracy and agreement with the teacher after the last epoch."""
    teaching = teaching_of(config, full, Context(store, CPU))
    task = teaching.task
    seed = seed_for(config.seed, "student")
    student = build_for(task, config.student, seed=seed)
    worker = LocalWorker()
    Distillation(
        config,
        teaching=teaching,
        student=placed(student, CPU),
        cost=measure_cost(task, student, CPU),
        worker=worker,
        state=initial_state(config),
        save=lambda _: None,
        finish=lambda _: [],
        facts=TrialRow(),
    ).run()
    last = worker.reports[-1].metrics
    return last["val_accuracy"], last["val_agreement"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--limit", type=int, default=6000, help="pictures, before the splits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", help="keeps teacher and banks; without it they are temporary")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pdo-views-") as folder:
        store = given.store or folder
        full = prepare(configured(1, given.epochs, given.limit), Context(store, CPU))
        print(f"teacher: val_accuracy {full.value:.4f}\n")
        print("| views | val_accuracy | sd | val_agreement | s per trial |\n|---|---|---|---|---|")
        for num_views in sorted({1, 2, 4, 8, given.epochs}):
            measure(num_views, given.epochs, given.limit, given.seeds, full, store)


def measure(num_views: int, epochs: int, limit: int, seeds: int, full: Level, store: str) -> None:
    config = configured(num_views, epochs, limit)
    started = time.perf_counter()
    runs = [
        distilled(config.model_copy(update={"seed": seed}), full, store) for seed in range(seeds)
    ]
    seconds = (time.perf_counter() - started) / seeds
    accuracies = [accuracy for accuracy, _ in runs]
    spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
    agreement = statistics.mean(agreement for _, agreement in runs)
    name = f"{num_views} (fresh every epoch)" if num_views == epochs else str(num_views)
    print(
        f"| {name} | {statistics.mean(accuracies):.4f} | {spread:.4f} | {agreement:.4f}"
        f" | {seconds:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
