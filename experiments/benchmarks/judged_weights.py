"""What a student should be judged and kept by: its weights or their average, with which statistics.

Trains random points of a space with several seeds and evaluates, after every epoch, the same
student eight ways: weights as they are or averaged over the last 0.5, 1 or 2 epochs (an exponential
mean, of running statistics too), each with the running statistics that training left or with fresh
ones. Then it says how well each way's early value ranks the points by what they reach in the end
with *another* seed on validation and test together, and what is reached in the end by each way.

    python experiments/benchmarks/judged_weights.py digits digits_wide   # 25 minutes on one core
    python experiments/benchmarks/judged_weights.py fashion_mnist --points 16
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from torch import nn
from views import CPU

from pdo_search.base.errors import Infeasible
from pdo_search.config import load_experiment, resolve
from pdo_search.config.load import Loaded
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.evaluate import metrics_of
from pdo_search.distill.loop import Distillation, initial_state
from pdo_search.distill.norms import refresh_statistics
from pdo_search.distill.protocol import LocalWorker
from pdo_search.distill.stage import Stage
from pdo_search.models.build import placed
from pdo_search.models.cost import cost_of
from pdo_search.records import TrialRow
from pdo_search.search.optuna_space import distributions
from pdo_search.store import Store
from pdo_search.tasks.base import Examples
from pdo_search.trial.worker import build_student, prepare, teaching_of

HERE = Path(__file__).parent
SPACES = {
    "digits": HERE / "curves" / "digits.yaml",
    "digits_wide": HERE / "curves" / "digits_wide.yaml",
    "fashion_mnist": HERE.parent / "fashion_mnist.yaml",
}
LIMITS = {
    "fashion_mnist": [
        "task.data.limit=8000",
        "teacher.width=8",
        "teacher.train.epochs=6",
        "student.width=16",
        "student.depth=1",
        "trial.composite=null",
    ]
}
"""Of Fashion-MNIST a part, and smaller models, or it would take days."""
HORIZONS = (0.5, 1.0, 2.0)
EPOCHS = (1, 2, 3, 6, 9, 12, 18, 27)
BOOTSTRAP = 2000


def ways() -> list[str]:
    averages = [f"mean of {h:g}" for h in HORIZONS]
    return [f"{w}, {s}" for w in ("weights", *averages) for s in ("left", "fresh")]


class Averages:
    """Exponential means of a model's parameters and running statistics, by horizon in epochs."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model = model
        self.updates = 0
        self.rates = {h: 1 - math.exp(-1 / (h * steps)) for h in HORIZONS}
        self.means = {h: [t.detach().clone() for t in self.tensors()] for h in HORIZONS}

    def tensors(self, model: nn.Module | None = None) -> list[torch.Tensor]:
        model = model or self.model
        found = [*model.parameters(), *model.buffers()]
        return [t for t in found if t.is_floating_point()]

    def update(self, *_: Any) -> None:
        self.updates += 1
        now = [t.detach() for t in self.tensors()]
        for horizon, means in self.means.items():
            torch._foreach_lerp_(means, now, max(self.rates[horizon], 1 / self.updates))

    def model_of(self, horizon: float) -> nn.Module:
        twin = copy.deepcopy(self.model)
        with torch.no_grad():
            for own, mean in zip(self.tensors(twin), self.means[horizon], strict=True):
                own.copy_(mean)
        return twin


class Watched(Distillation):
    """A training whose student is evaluated in all ways after every epoch."""

    found: list[dict[str, Any]]
    averages: Averages

    def _metrics(self, stage: Stage) -> dict[str, float]:
        models = {"weights": copy.deepcopy(self.student)}
        models |= {f"mean of {h:g}": self.averages.model_of(h) for h in HORIZONS}
        last = self.state.epoch + 1 == self.recipe.epochs
        metrics: dict[str, float] = {}
        for name, model in models.items():
            for statistics in ("left", "fresh"):
                if statistics == "fresh":
                    refresh_statistics(model, self.epochs.calibration)
                seen = self.measured(model, self.validation)
                row: dict[str, Any] = {
                    "epoch": self.state.epoch + 1,
                    "way": f"{name}, {statistics}",
                }
                row |= {"val": seen["accuracy"], "val_loss": seen["loss"]}
                if last:
                    row["test"] = self.measured(model, self.task.test_examples())["accuracy"]
                self.found.append(row)
                if name == "weights":
                    metrics = seen
        return metrics  # Fresh: nothing of the plan hangs on it here.

    def measured(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        return metrics_of(self.task, model, examples, self.device)


def trained(config: TrialConfig, full: Any, store: str) -> list[dict[str, Any]]:
    teaching = teaching_of(config, full, Context(store, CPU))
    task = teaching.task
    student, spec = build_student(config, task, teaching.ladder)
    student = placed(student, CPU)
    training = Watched(
        config,
        teaching=teaching,
        student=student,
        cost=cost_of(task, student, spec.arch, CPU),
        worker=LocalWorker(CPU),
        state=initial_state(config),
        save=lambda _: None,
        finish=lambda _: [],
        facts=TrialRow(),
    )
    training.found = []
    training.averages = Averages(student, training.epochs.steps)
    training.epochs.updates.optimizer.register_step_post_hook(training.averages.update)
    training.run()
    return training.found


def record(name: str, points: int, seeds: int, store: str) -> pd.DataFrame:
    loaded: Loaded = load_experiment(SPACES[name], LIMITS.get(name, ()))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    rows = []
    began = time.perf_counter()
    for number in range(points):
        point = study.ask(distributions(loaded.space)).params
        for seed in range(1, seeds + 1):
            try:
                config = resolve(loaded.experiment, point).model_copy(update={"seed": seed})
                full = prepare(config, Context(store, CPU))
                found = trained(config, full, store)
            except Infeasible:
                break
            rows += [{"point": number, "seed": seed, **row} for row in found]
        print(f"{time.perf_counter() - began:6.0f} s  {name} point {number}", flush=True)
    print(f"{name}: teacher {full.value:.4f}", flush=True)
    return pd.DataFrame(rows)


def rank_correlation(early: pd.DataFrame, ends: pd.DataFrame) -> float:
    """Mean over pairs of seeds of Spearman's correlation of one's early with the other's end."""
    found = [early[a].rank().corr(ends[b].rank()) for a in early for b in ends if a != b]
    return float(np.nanmean(found))


def report(name: str, table: pd.DataFrame) -> None:
    last = table["epoch"].max()
    ends = table[table["epoch"] == last].copy()
    tested = ends["test"].notna()
    assert tested.all()
    # The end that counts: fresh statistics of plain weights, the mean of validation and test.
    ends["end"] = (ends["val"] + ends["test"]) / 2
    points = sorted(table["point"].unique())
    truth = ends[ends["way"] == "weights, fresh"].pivot(index="point", columns="seed", values="end")
    epochs = [e for e in EPOCHS if e <= last]
    rng = np.random.default_rng(0)
    draws = [rng.choice(points, len(points)) for _ in range(BOOTSTRAP // 4)]
    print(f"\n{name}: {len(points)} points, {table['seed'].nunique()} seeds, {last} epochs")
    print("rank correlation of validation accuracy with the other seed's end")
    print(f"{'after epoch':<20}" + "".join(f"{e:>7}" for e in epochs))
    early = {
        (way, e): table[(table["way"] == way) & (table["epoch"] == e)].pivot(
            index="point", columns="seed", values="val"
        )
        for way in ways()
        for e in epochs
    }
    for way in ways():
        print(
            f"{way:<20}"
            + "".join(f"{rank_correlation(early[way, e], truth):>+7.2f}" for e in epochs)
        )
    base = "weights, left"
    print(f"difference to '{base}' (95% bootstrap over points)")
    for way in ways()[1:]:
        cells = []
        for e in epochs:
            found = [
                rank_correlation(
                    early[way, e].loc[d].reset_index(drop=True), truth.loc[d].reset_index(drop=True)
                )
                - rank_correlation(
                    early[base, e].loc[d].reset_index(drop=True),
                    truth.loc[d].reset_index(drop=True),
                )
                for d in draws[:200]
            ]
            low, high = np.nanquantile(found, [0.025, 0.975])
            cells.append(f" {low:>+.2f}..{high:>+.2f}")
        print(f"{way:<20}" + "".join(cells))
    print("mean validation accuracy after the epoch, all points and seeds")
    for way in ways():
        means = [early[way, e].to_numpy().mean() for e in epochs]
        print(f"{way:<20}" + "".join(f"{m:>7.3f}" for m in means))
    print(
        "end, mean of validation and test; difference to 'weights, fresh' (95% over points), points"
    )
    wide = ends.pivot_table(index="point", columns="way", values="end")
    best = wide["weights, fresh"].nlargest(max(1, len(points) // 4)).index
    for way in ways():
        for label, part in (("all", wide), ("best quarter", wide.loc[best])):
            d = 100 * (part[way] - part["weights, fresh"])
            half = 1.96 * d.std() / math.sqrt(len(d)) if len(d) > 1 else float("nan")
            print(f"{way:<20} {label:<13}{part[way].mean():.4f}  {d.mean():+.2f} ± {half:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=SPACES)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", help="keeps the raw rows, NAME.parquet")
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in given.names:
        with tempfile.TemporaryDirectory(prefix="pdo-judged-") as folder:
            table = record(name, given.points, given.seeds, str(Store(folder).root))
        if given.out:
            table.to_parquet(Path(given.out) / f"{name}.parquet")
        report(name, table)


if __name__ == "__main__":
    main()
