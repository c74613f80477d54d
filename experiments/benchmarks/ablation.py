"""What each part of the progressive recipe gives: one change at a time, paired over seeds.

    python experiments/benchmarks/ablation.py                       # all on the file's student
    python experiments/benchmarks/ablation.py --width 6 --depth 1   # a large gap to the teacher

With `--epochs 8`, two cores need 34 s a run with the file's student and 12 s with the small one.

Teacher, student and data are those of `experiments/fashion_mnist.yaml`, all variants have the same
epochs, loss weights, temperature and learning rate (near those that its one-shot baseline found
best). *plain* is one-shot distillation; every other row changes what its name says, and nothing
else. Seeds set the student's weights and the order of examples, the same for all variants; the
difference to *plain* is paired by seed, with a 95% t interval, not corrected for their number.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy import stats
from views import CPU, distilled

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.trial.worker import prepare

FILE = Path(__file__).parents[1] / "fashion_mnist.yaml"
PLAIN: dict[str, Any] = {
    "init_epochs": 0,
    "num_stages": 1,
    "temperature": 3.0,
    "prune_ratio": 0.15,
    "teacher_order": "descending",
    "num_views": 2,
    "loss": {"kl": 0.8, "avg": 2.3, "init": 0.5},
    "optimizer": {"lr": 0.12, "weight_decay": 1.0e-4, "batch_size": 128},
    "adapt": {"enabled": False},
    "composite": None,
}
ASCENDING = {"num_stages": 3, "teacher_order": "ascending"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "an epoch of labels first": {"init_epochs": 1},
    "3 stages, lightest teacher first": ASCENDING,
    "3 stages, full teacher first": {"num_stages": 3},
    "3 stages, lightest first, adaptation": {**ASCENDING, "adapt": {}},
    "3 stages, stronger pruning, lightest first": {**ASCENDING, "prune_ratio": 0.3},
    "3 stages of the full teacher, temperature 6 to 1.5": {
        "num_stages": 3,
        "prune_ratio": 0.0,
        "temperature": 6.0,
        "temperature_end": 1.5,
    },
    "an epoch of labels last": {"finetune_epochs": 1},
    "3 stages, lightest first, labels last": {**ASCENDING, "finetune_epochs": 1},
    "easy examples first, from 60%": {"curriculum": {"order": "easy_first", "start": 0.6}},
    "the same at random": {"curriculum": {"order": "random", "start": 0.6}},
}


Size = dict[str, int]
"""Width and depth of the student, where they are not the file's."""


def configured(variant: str, epochs: int, seed: int, size: Size) -> TrialConfig:
    tree = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    tree["student"] |= size
    tree["trial"] = {**PLAIN, **VARIANTS[variant], "epochs": epochs}
    tree["search"] = {}
    loaded = parse_experiment(tree, file=FILE, base_dir=FILE.parent)
    return resolve(loaded.experiment, {}).model_copy(update={"seed": seed})


def trained(run: tuple[int, str], epochs: int, size: Size, store: str) -> tuple[int, str, float]:
    seed, variant = run
    torch.set_num_threads(1)
    config = configured(variant, epochs, seed, size)
    full = prepare(config, Context(store, CPU))
    return seed, variant, distilled(config, full, store)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--width", type=int, help="of the student; the file's is 32")
    parser.add_argument("--depth", type=int, help="of the student; the file's is 2")
    parser.add_argument("--store", help="keeps teacher and banks; without it they are temporary")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pdo-ablation-") as folder:
        store = given.store or folder
        sizes = {"width": given.width, "depth": given.depth}
        size = {name: value for name, value in sizes.items() if value is not None}
        first = configured("plain", given.epochs, 0, size)
        full = prepare(first, Context(store, CPU))
        print(f"teacher: val_accuracy {full.value:.4f}; {given.epochs} epochs\n", flush=True)
        variants = ["plain", *(v for v in given.variants if v != "plain")]
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        runs = [(seed, variant) for seed in seeds for variant in variants]
        found: dict[str, list[float]] = {variant: [] for variant in variants}
        started = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            job = partial(trained, epochs=given.epochs, size=size, store=store)
            for seed, variant, accuracy in pool.imap(job, runs):
                found[variant].append(accuracy)
                spent = time.perf_counter() - started
                print(f"{spent:6.0f} s  seed {seed}  {accuracy:.4f}  {variant}", flush=True)
        print("\n| variant | val_accuracy | against plain, points |\n|---|---|---|")
        for variant, accuracies in found.items():
            print(f"| {variant} | {statistics.mean(accuracies):.4f} | {against(found, variant)} |")


def against(found: dict[str, list[float]], variant: str) -> str:
    """Mean paired difference to plain and its 95% interval, in points."""
    differences = [100 * (a - b) for a, b in zip(found[variant], found["plain"], strict=True)]
    if variant == "plain" or len(differences) < 2:
        return ""
    error = statistics.stdev(differences) / len(differences) ** 0.5
    width = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return f"{statistics.mean(differences):+.2f} ± {width:.2f}"


if __name__ == "__main__":
    main()
