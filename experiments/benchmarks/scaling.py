"""What a sweep's driver costs at 1,000 and at 10,000 trials, and how full it keeps a cluster.

Trials are replayed, not trained: one real trial is recorded, and every trial reports its messages
again (all tables' rows) with a learning curve that is a function of the point and the epoch. All
else is the product: Tune, sampler, scheduler, recorder, tables, actor reuse.

    python experiments/benchmarks/scaling.py                                # ten minutes, two cores
    python experiments/benchmarks/scaling.py --trials 1000 --nodes
    python experiments/benchmarks/scaling.py --trials --nodes 2 4 8
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EXPERIMENT: dict[str, Any] = {
    "name": "replayed",
    "task": {"data": {"source": "digits"}},
    "teacher": {"arch": "small_resnet", "width": 8, "train": {"epochs": 1}},
    "student": {"arch": "small_convnet", "width": 4},
    "trial": {
        "epochs": 12,
        "num_stages": {"int": [1, 4]},
        "temperature": {"float": [1.0, 8.0]},
        "prune_ratio": {"float": [0.1, 0.4], "step": 0.1},
        "teacher_order": {"choice": ["descending", "ascending"]},
        "loss": {
            "kl": {"float": [0.1, 1.0]},
            "avg": {"float": [0.0, 0.5]},
            "init": {"float": [0.0, 1.0]},
        },
        "optimizer": {"lr": {"float": [1.0e-2, 3.0e-1], "log": True}, "batch_size": 32},
        "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
    },
    "scheduler": {"kind": "asha", "grace": 2, "reduction": 3},
}
MIDDLE = {
    "num_stages": 3, "temperature": 4.0, "prune_ratio": 0.3, "teacher_order": "descending",
    "loss.kl": 0.5, "loss.avg": 0.2, "loss.init": 0.5, "optimizer.lr": 0.1,
}  # fmt: skip
SLOTS = 2
CPUS_PER_NODE = 2
SECONDS_PER_EPOCH = 1.0
WAVES = 8
EPOCHS_ON_NODES = 3

Reports = list[dict[str, Any]]


@dataclass
class Driven:
    """What one run of the driver took.

    Attributes:
        trials: how many.
        reports: epochs reported, of all trials.
        wall_s: from Tune's start to its end.
        cpu_s: of the driver's process in that time.
        first_cpu_s: of it until a tenth of the trials had ended.
        last_cpu_s: of it for the last tenth.
        rss_mb: resident at the start, torch included, as `pdo-search run` has it.
        peak_mb: the most that was resident.
    """

    trials: int
    reports: int
    wall_s: float
    cpu_s: float
    first_cpu_s: float
    last_cpu_s: float
    rss_mb: float
    peak_mb: float


def record(folder: str) -> Reports:
    """The reports of a real trial on digits, all twelve epochs."""
    from pdo_search.config import parse_experiment, resolve
    from pdo_search.distill.protocol import LocalWorker
    from pdo_search.trial.protocol import Places
    from pdo_search.trial.worker import run_trial

    loaded = parse_experiment(EXPERIMENT, file=Path(__file__), base_dir=Path(folder))
    worker = LocalWorker()
    places = Places(f"{folder}/store", f"{folder}/checkpoint", f"{folder}/model", None, "t0000", 0)
    run_trial(resolve(loaded.experiment, MIDDLE), worker, places=places)
    return [asdict(report) for report in worker.reports]


def accuracy(point: dict[str, Any], epoch: int) -> float:
    """A learning curve: best at the middle of the space, slower far away from it."""
    distance = abs(math.log10(point["optimizer.lr"]) + 1) + abs(point["temperature"] - 4) / 10
    distance += abs(point["loss.kl"] - 0.5) / 4 + abs(point["prune_ratio"] - 0.2) / 4
    return 0.98 / (1 + distance / 4) * (1 - 0.7 * math.exp(-epoch / (2 + 2 * distance)))


def replayed(reports: Reports, seconds: float, cpus: float) -> Any:
    """A trainable that reports what was recorded, with the point's own accuracies."""
    from ray import tune

    from pdo_search.search.sweep import _named

    def replay(suggestion: dict[str, Any]) -> None:
        from pdo_search.trial.messages import report_message
        from pdo_search.trial.protocol import Report

        for recorded in reports:
            time.sleep(seconds)
            value = accuracy(suggestion["point"], recorded["metrics"]["epoch"])
            rows = {
                table: [{**row, "val_accuracy": value} if table != "teachers" else row for row in r]
                for table, r in recorded["rows"].items()
            }
            tune.report(
                report_message(Report({**recorded["metrics"], "val_accuracy": value}, rows))
            )

    return tune.with_resources(_named(replay), {"cpu": cpus})


def sweep_of(
    folder: str, tree: dict[str, Any], trainable: Any, at_once: int, on_end: Callable[[], None]
) -> str:
    """Run a sweep on the Ray that this process is connected to; its directory."""
    from rich.console import Console

    from pdo_search.config import parse_experiment
    from pdo_search.results.schema import param_types
    from pdo_search.results.sweepfile import write_sweep_file
    from pdo_search.results.writer import TableWriter
    from pdo_search.search import sweep

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("["):
                on_end()
            return len(text)

    tree = {**tree, "output": {"root": folder}}
    loaded = parse_experiment(tree, file=Path(__file__), base_dir=Path(folder))
    info, directory = sweep.new_sweep(loaded)
    write_sweep_file(directory, info)
    writer = TableWriter(directory, param_types(loaded.space))
    with sweep._scratch() as scratch:
        sweep._tune(
            info, loaded, directory, writer, at_once, scratch, Console(file=Lines()),
            trainable=trainable,
        )  # fmt: skip
    return directory


def drive(trials: int, folder: str, reports: Reports) -> Driven:
    """Run the replayed sweep in this process, on a local Ray."""
    import torch  # noqa: F401  # As in `pdo-search run`, whose check builds the models.

    from pdo_search.search import sweep
    from pdo_search.search.cluster import connect, disconnect, import_ray

    os.environ.update(sweep.TUNE_SETTINGS)
    import_ray("local")
    connect("local", dashboard=False)
    tree = {**EXPERIMENT, "search": {"num_trials": trials}}
    cpu_s = [time.process_time()]
    try:
        began, rss_mb = time.monotonic(), resident_mb()
        trainable = replayed(reports, 0.0, 1.0)
        directory = sweep_of(
            folder, tree, trainable, SLOTS, lambda: cpu_s.append(time.process_time())
        )
        cpu_s.append(time.process_time())
        wall_s = time.monotonic() - began
    finally:
        disconnect()
    import pdo_search

    tenth = trials // 10
    return Driven(
        trials=trials,
        reports=len(pdo_search.open_sweep(directory).epochs),
        wall_s=wall_s,
        cpu_s=cpu_s[-1] - cpu_s[0],
        first_cpu_s=cpu_s[tenth] - cpu_s[0],
        last_cpu_s=cpu_s[trials] - cpu_s[trials - tenth],
        rss_mb=rss_mb,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def resident_mb() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
