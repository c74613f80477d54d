"""A sweep of replayed trials: all of the product but the training. A script, started by tests.

    python replay.py SWEEP NUM_TRIALS SLOTS SECONDS [SCHEDULER]

Runs on the cluster of the environment with SLOTS trials at once; with a kind of scheduler, as the
command line would. Goes on with a sweep that exists.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from pdo_search.base.scratch import scratch_folder
from pdo_search.config import parse_experiment
from pdo_search.results.schema import param_types
from pdo_search.results.sweepfile import SWEEP_FILE, write_sweep_file
from pdo_search.results.writer import TableWriter
from pdo_search.search import sweep
from pdo_search.search.session import Session
from pdo_search.search.tune import TUNE_SETTINGS
from pdo_search.search.tune.run import named

EPOCHS = 3


def experiment(folder: Path, num_trials: int, **more: Any) -> Any:
    tree = {
        "name": folder.name,
        "task": {"data": {"source": "digits"}},
        "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
        "student": {"arch": "small_convnet"},
        "trial": {"epochs": EPOCHS, "temperature": {"float": [1.0, 8.0]}},
        "search": {"num_trials": num_trials},
        "scheduler": {"kind": "none"},
        "output": {"root": str(folder.parent)},
        **more,
    }
    return parse_experiment(tree, file=Path(__file__), base_dir=folder.parent)


def replayed(seconds: float) -> Any:
    def replay(suggestion: dict[str, Any]) -> None:
        from pdo_search.distill.protocol import Report
        from pdo_search.trial.messages import report_message

        # Trials of unlike lengths: slots fall free one by one.
        pause = seconds * (1 + suggestion["number"] % 4 / 8) / EPOCHS
        for epoch in range(1, EPOCHS + 1):
            time.sleep(pause)
            metrics = {
                "epoch": epoch, "stages_done": 0, "stage_end": False, "done": epoch == EPOCHS,
                "val_accuracy": suggestion["point"]["temperature"] / 8,
            }  # fmt: skip
            trial = {"epochs_done": epoch, "pid": os.getpid()}
            rows = {"epochs": [{"epoch": epoch, "val_accuracy": metrics["val_accuracy"]}]}
            tune.report(report_message(Report(metrics, {**rows, "trials": [trial]})))

    return tune.with_resources(named(replay), {"cpu": 1})


def run_whole(folder: Path, num_trials: int, slots: int, trainable: Any, scheduler: str) -> None:
    """Start the sweep, or go on with it, through the same door as the command line."""
    if (folder / SWEEP_FILE).exists():
        info = sweep.reopened_sweep(str(folder))
    else:
        loaded = experiment(
            folder, num_trials,
            scheduler={"kind": scheduler, "grace": 1, "reduction": 2},
            resources={"max_concurrent": slots}, limits={"trial_timeout": 60},
        )  # fmt: skip
        info, _ = sweep.new_sweep(loaded)
    sweep.run_sweep(info, str(folder), address="auto", console=Console(), trainable=trainable)


def main() -> None:
    folder, num_trials, slots = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    trainable = replayed(float(sys.argv[4]))
    if len(sys.argv) > 5:
        run_whole(folder, num_trials, slots, trainable, scheduler=sys.argv[5])
        return
    os.environ.update(TUNE_SETTINGS)
    ray.init(address="auto", log_to_driver=False)
    loaded = experiment(folder, num_trials)
    if folder.exists():
        info = sweep.reopened_sweep(str(folder))
    else:
        info, _ = sweep.new_sweep(loaded)
        write_sweep_file(folder, info)
    writer = TableWriter(folder, param_types(loaded.space))
    with scratch_folder("tune") as scratch:
        held = Session(
            info, loaded, str(folder), Console(quiet=True), writer, str(scratch), at_once=slots
        )
        sweep._search(held, trainable=trainable)


if __name__ == "__main__":
    main()
