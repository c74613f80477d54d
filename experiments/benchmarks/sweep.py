"""Wall time of a whole sweep of twelve configurations, all sides in one go, at equal training.

    python experiments/benchmarks/sweep.py                     # ten minutes on two cores
    python experiments/benchmarks/sweep.py --limit 2000 --points 2 --epochs 2    # a quick look

Teacher, student, augmentation and optimizer are those of `experiments/fashion_mnist.yaml` (the
student costs 6.4% of the teacher's FLOPs), the data a stratified subset of Fashion-MNIST. Every
side trains the same points (temperature, learning rate) for the same number of updates of the same
size from the same initial weights, without early stopping, and evaluates on the same validation
split after every epoch; two trials at once on two cores. The teacher is trained beforehand, for
all.

Sides: *ours* is `pdo-search run` (teacher's outputs stored by the sweep itself, which counts);
*nested* is a Ray Train trainer in every trial of Ray Tune, with the teacher in every step, as Ray's
user guide has it; *optuna* is `study.optimize` over the same hand-written loop, as one job with all
threads and as two jobs with one thread each. The hand-written loop gets its data as ready tensors
and keeps no checkpoints. Every side is a process of its own, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from pictures import classes, classifier, pixels, prepared
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import pdo_search
from pdo_search.base.seeds import seed_for
from pdo_search.config import load_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.config.task import TaskConfig
from pdo_search.distill.context import Context
from pdo_search.distill.optim import lr_factor
from pdo_search.tasks.base import Split
from pdo_search.tasks.inputs import PictureInputs
from pdo_search.trial.worker import prepare

CPU = torch.device("cpu")
SLOTS = 2
EXPERIMENT = "experiment.yaml"
PEERS = ("optuna, 2 jobs", "nested", "optuna, 1 job")
TEMPERATURES = (2.0, 4.0, 6.0)
RATES = (0.05, 0.1, 0.15, 0.2)
KL, HARD = 0.7, 0.5
CLIP = 5.0


def points(count: int) -> list[dict[str, float]]:
    grid = [(t, lr) for t in TEMPERATURES for lr in RATES]
    return [{"temperature": t, "optimizer.lr": lr} for t, lr in grid[:count]]


def experiment(folder: Path, count: int, epochs: int, limit: int) -> Path:
    """The shipped experiment, reduced to one stage from the full teacher and a grid."""
    file = Path(__file__).parents[1] / "fashion_mnist.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    splits = tree["task"]["splits"]
    of_pool = splits["transfer"] / (1 - splits["validation"])
    tree["task"]["data"]["limit"] = limit
    tree["teacher"]["train"]["epochs"] = 4
    tree["trial"] = {
        "epochs": epochs,
        "init_epochs": 0,
        "num_stages": 1,
        "temperature": {"float": [1.0, 8.0]},
        "prune_ratio": 0.0,
        "num_views": tree["trial"]["num_views"],
        # Each mean is over its own part of a batch; together they weigh every example alike.
        "loss": {"kl": KL, "avg": HARD * of_pool, "init": HARD * (1 - of_pool)},
        "optimizer": {**tree["trial"]["optimizer"], "clip_norm": CLIP},
        "composite": None,
    }
    grid = points(count)
    tree["search"] = {"sampler": "grid", "points": grid, "num_trials": len(grid)}
    tree["scheduler"] = {"kind": "none"}
    tree["output"] = {"root": str(folder)}
    written = folder / EXPERIMENT
    written.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return written


def trial_config(folder: Path, point: dict[str, float]) -> TrialConfig:
    return resolve(load_experiment(str(folder / EXPERIMENT)).experiment, point)


def share(folder: Path) -> str:
    """Train the teacher into the store, and leave it and the data as tensors for the others."""
    from pdo_search.models.modelfile import load_model_file
    from pdo_search.tasks import cached_task

    config = trial_config(folder, points(1)[0])
    level = prepare(config, Context(str(folder / ".store"), CPU, folder))
    task = cached_task(config.task, folder)
    teacher, _ = load_model_file(level.path, folder)
    train, transfer, validation = (
        task.examples(split) for split in (Split.TRAIN, Split.TRANSFER, Split.VALIDATION)
    )
    inputs = task.inputs()
    assert isinstance(inputs, PictureInputs)
    torch.save(
        {
            "inputs": torch.cat([pixels(train), pixels(transfer)]),
            "targets": torch.cat([classes(train), classes(transfer)]),
            "validation_inputs": prepared(task, validation).contiguous(),
            "validation_targets": classes(validation),
            "num_train": len(train),
            "normalization": (inputs.mean, inputs.std),
            "teacher": teacher.state_dict(),
        },
        folder / "shared.pt",
    )
    return f"{level.value:.4f} on validation, {len(train):,} pictures in the train split"


def augmented(inputs: Tensor, pad: int) -> Tensor:
    """Random crops and flips, each picture its own: (N, 1, H, W)."""
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, (pad,) * 4)[:, 0]
    down, right = torch.randint(0, 2 * pad + 1, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    flipped = (torch.rand(count, 1) < 0.5).expand(-1, width)
    columns = torch.where(flipped, columns.flip(1), columns)
    picked = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked[:, None]


def distil(
    folder: Path,
    config: TrialConfig,
    shared: dict[str, Any],
    report: Callable[[int, float], None],
    *,
    nested: bool = False,
) -> float:
    """What one writes by hand: online distillation of one configuration; its last accuracy."""
    recipe, shape = config.recipe, (1, 28, 28)
    temperature, settings = recipe.temperature, recipe.optimizer
    teacher = classifier(config.teacher, shape, 10)
    teacher.load_state_dict(shared["teacher"])
    teacher.eval()
    student = classifier(config.student, shape, 10, seed=seed_for(config.seed, "student"))
    data = TensorDataset(shared["inputs"], shared["targets"])
    batch = settings.batch_size
    steps = shared["num_train"] // batch
    loader = DataLoader(data, batch, sampler=RandomSampler(data, num_samples=steps * batch))
    if nested:
        from ray.train import torch as ray_torch

        student = ray_torch.prepare_model(student)
        loader = ray_torch.prepare_data_loader(loader)
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )
    total = recipe.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: lr_factor(settings, update / total)
    )
    assert isinstance(config.task, TaskConfig)
    average, deviation = (torch.tensor(v).view(1, -1, 1, 1) for v in shared["normalization"])
    accuracy = 0.0
    for epoch in range(recipe.epochs):
        student.train()
        for inputs, targets in loader:
            inputs = (augmented(inputs, config.task.augment.crop) - average) / deviation
            with torch.no_grad():
                taught = teacher(inputs)
            logits = student(inputs)
            soft = F.kl_div(
                F.log_softmax(logits / temperature, 1),
                F.softmax(taught / temperature, 1),
                reduction="batchmean",
            )
            loss = KL * temperature**2 * soft + HARD * F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
            optimizer.step()
            schedule.step()
        student.eval()
        with torch.no_grad():
            parts = shared["validation_inputs"].split(512)
            answers = torch.cat([student(part).argmax(1) for part in parts])
        accuracy = (answers == shared["validation_targets"]).float().mean().item()
        report(epoch + 1, accuracy)
    return accuracy


def run_optuna(folder: Path, grid: list[dict[str, float]], jobs: int) -> list[float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = torch.load(folder / "shared.pt")

    def objective(trial: Any) -> float:
        torch.set_num_threads(SLOTS // jobs)
        trial.suggest_float("temperature", 1.0, 8.0)
        trial.suggest_float("optimizer.lr", 0.02, 0.3, log=True)
        config = trial_config(folder, trial.params)
        return distil(folder, config, shared, lambda epoch, value: trial.report(value, epoch))

    study = optuna.create_study(direction="maximize")
    for point in grid:
        study.enqueue_trial(point)
    torch.set_num_threads(SLOTS // jobs)
    study.optimize(objective, n_trials=len(grid), n_jobs=jobs)
    return [trial.value for trial in study.trials]


def train_worker(settings: dict[str, Any]) -> None:
    """The training function of Ray Train."""
    from ray import train

    folder = Path(settings["folder"])
    shared = torch.load(folder / "shared.pt")
    config = trial_config(folder, settings["point"])
    distil(folder, config, shared, lambda _, value: train.report({"accuracy": value}), nested=True)


def nested_trial(settings: dict[str, Any]) -> None:
    """The function of Ray Tune: starts a trainer of one worker."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        train_worker,
        train_loop_config=settings,
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.99}),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=settings["folder"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def run_nested(folder: Path, grid: list[dict[str, float]]) -> list[float]:
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=SLOTS, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(nested_trial, {"cpu": 0.01}),
        param_space={"folder": str(folder), "point": tune.grid_search(grid)},
        tune_config=tune.TuneConfig(max_concurrent_trials=SLOTS, metric="accuracy", mode="max"),
        run_config=tune.RunConfig(name="nested", storage_path=str(folder), verbose=0),
    )
    found = [result.metrics["accuracy"] for result in tuner.fit()]
    ray.shutdown()
    return found


def peer(side: str, folder: Path, count: int) -> None:
    """Run a side in this process and leave its accuracies."""
    grid = points(count)
    if side == "nested":
        found = run_nested(folder, grid)
    else:
        found = run_optuna(folder, grid, jobs=int(side.split()[1]))
    (folder / f"{side}.json").write_text(json.dumps(found), encoding="utf-8")


def measure(side: str, folder: Path, count: int) -> tuple[float, list[float]]:
    """Wall seconds of a side's process, and its accuracies."""
    if side == "ours":
        command = ["-m", "pdo_search.cli", "run", str(folder / EXPERIMENT), "--name", "ours"]
    else:
        command = [__file__, "--side", side, "--folder", str(folder), "--points", str(count)]
    log = folder / "log.txt"
    started = time.perf_counter()
    with log.open("wb") as stream:
        ended = subprocess.run(
            [sys.executable, *command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_TRAIN_V2_ENABLED": "1"},
            check=False,
        )
    wall_s = time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(f"{side} failed:\n{log.read_text(errors='replace')[-4000:]}")
    if side == "ours":
        return wall_s, list(pdo_search.open_sweep(folder / "ours").trials["val_accuracy"])
    return wall_s, json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))


def phases(folder: Path, wall_s: float) -> str:
    """Where our time went."""
    trials = pdo_search.open_sweep(folder / "ours").trials
    began, ended = trials["started_at"].min(), trials["ended_at"].max()
    running_s = (ended - began).total_seconds()
    names = ("teacher_s", "student_s", "evaluation_s", "data_s", "waiting_s")
    spent = ", ".join(f"{name} {trials[name].sum():.1f}" for name in names)
    return (
        f"ours: {running_s:.1f} s from the first trial's start to the last one's end,"
        f" {wall_s - running_s:.1f} s before and after (Ray, imports, data);"
        f" slot seconds of the trials: {spent}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=len(TEMPERATURES) * len(RATES))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, default=10_000, help="pictures")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        peer(given.side, Path(given.folder), given.points)
        return
    with tempfile.TemporaryDirectory(prefix="pdo-sweep-") as name:
        folder = Path(name)
        experiment(folder, given.points, given.epochs, given.limit)
        print(f"teacher: {share(folder)}", flush=True)
        print(f"{given.points} configurations of {given.epochs} epochs\n")
        print("| side | wall s | s per trial | validation accuracy | times ours |")
        print("|---|---|---|---|---|")
        ours_s, accuracies = measure("ours", folder, given.points)
        print(row("ours", ours_s, accuracies, ours_s), flush=True)
        for side in given.peers:
            wall_s, accuracies = measure(side, folder, given.points)
            print(row(side, wall_s, accuracies, ours_s), flush=True)
        print(f"\n{phases(folder, ours_s)}")


def row(side: str, wall_s: float, accuracies: list[float], ours_s: float) -> str:
    spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return (
        f"| {side} | {wall_s:.1f} | {wall_s / len(accuracies):.2f}"
        f" | {mean(accuracies):.4f} ± {spread:.4f} | {wall_s / ours_s:.2f} |"
    )


if __name__ == "__main__":
    main()
