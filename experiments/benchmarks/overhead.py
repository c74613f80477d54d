"""Seconds that a trial costs beside training, all sides in one go: trials that only report once.

    python experiments/benchmarks/overhead.py                # two minutes on two cores
    python experiments/benchmarks/overhead.py --trials 300

Sides: *ours* is a sweep as `pdo-search run` makes it (searcher, scheduler, warm processes,
progress, tables) with an empty function in the worker function's place; *digits* is the same with
the real one, an epoch of a tiny student without composite (training, evaluation, checkpoint and the
model's saving included); *tune* is plain Ray Tune, a fresh process per trial; *nested* is a Ray
Train trainer of one worker in every trial of Ray Tune; *optuna* is `study.optimize`, one trial at a
time in one process. All but *optuna* run two trials at once.

*Seconds per trial* are from one training function's end to the end of the next one in the same
slot; the *gap* is from its end to the next one's start. A slot is a warm process; where every trial
has a process of its own, the third trial follows the first one to end, and so on. *Wall / trials*
is from the first function's start to the last one's end, all slots together; the *start-up*, from
the side's call to the first function's start, stands apart.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SLOTS = 2
SIDES = ("ours", "digits", "tune", "nested", "optuna")
FEWER = {"tune": 12, "nested": 6}
"""Sides that take seconds per trial run no more trials than this."""
NOTES = "notes.txt"
TINY = (
    "task.augment.crop=0", "teacher.width=8", "teacher.train.epochs=2", "student.width=4",
    "trial.epochs=1", "trial.init_epochs=0", "trial.num_stages=1", "trial.composite=null",
    "trial.teacher_order=descending", "scheduler.kind=none",
)  # fmt: skip


@dataclass(frozen=True)
class Note:
    """One run of the training function, in epoch seconds."""

    pid: int
    began: float
    ended: float


def note(folder: str, began: float) -> None:
    """Called by the training function at its end."""
    with open(f"{folder}/{NOTES}", "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {began} {time.time()}\n")


def notes(folder: str) -> list[Note]:
    lines = (Path(folder) / NOTES).read_text(encoding="utf-8").splitlines()
    return [Note(int(p), float(b), float(e)) for p, b, e in map(str.split, lines)]


def empty_trial(sweep: str) -> Callable[[dict[str, Any]], None]:
    """In the worker function's place: one epoch's report, the last one."""

    def trial(suggestion: dict[str, Any]) -> None:
        from ray import tune

        from pdo_search.distill.protocol import Report
        from pdo_search.results.schema import IMAGE_METRICS
        from pdo_search.trial.messages import report_message

        began = time.time()
        values = {f"val_{name}": 0.5 for name in IMAGE_METRICS}
        flat = {
            "epoch": 1, "stage": 1, "phase": "stage", "stage_end": True, "stages_done": 1,
            "done": True, "decision": "completed", **values,
        }  # fmt: skip
        rows: dict[str, list[dict[str, Any]]] = {
            "trials": [{"epochs_done": 1, "stages_done": 1, "pid": os.getpid(), **values}],
            "epochs": [{"epoch": 1, "stage": 1, "phase": "stage", **values}],
            "stages": [{"stage": 1, "phase": "stage", **values}],
        }
        tune.report(report_message(Report(flat, rows)))
        note(sweep, began)

    return trial


def run_ours(folder: str, trials: int, *, empty: bool) -> list[Note]:
    from rich.console import Console

    import pdo_search
    from pdo_search.config import load_experiment
    from pdo_search.search.sweep import new_sweep, run_sweep

    file = Path(__file__).parents[1] / "digits.yaml"
    loaded = load_experiment(str(file), [*TINY, f"output.root={folder}"])
    info, sweep = new_sweep(loaded, num_trials=trials)
    trainable = empty_trial(sweep) if empty else None
    run_sweep(info, sweep, address="local", console=Console(), trainable=trainable)
    if empty:
        return notes(sweep)
    rows = pdo_search.open_sweep(sweep).trials.to_dict("records")
    return [
        Note(row["pid"], row["started_at"].timestamp(), row["ended_at"].timestamp()) for row in rows
    ]


def reports_to_tune(settings: dict[str, Any]) -> None:
    from ray import tune

    began = time.time()
    tune.report({"accuracy": 0.5})
    note(settings["folder"], began)


def reports_to_train(settings: dict[str, Any]) -> None:
    from ray import train

    began = time.time()
    train.report({"accuracy": 0.5})
    note(settings["folder"], began)


def starts_a_trainer(settings: dict[str, Any]) -> None:
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        reports_to_train,
        train_loop_config=settings,
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.99}),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=settings["folder"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def run_tune(folder: str, trials: int, function: Any, cpus: float) -> list[Note]:
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=SLOTS, log_to_driver=False)
    tune.Tuner(
        tune.with_resources(function, {"cpu": cpus}),
        param_space={"folder": folder, "number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=SLOTS),
        run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
    ).fit()
    ray.shutdown()
    return notes(folder)


def run_optuna(folder: str, trials: int) -> list[Note]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        began = time.time()
        trial.suggest_float("lr", 0.01, 0.3, log=True)
        trial.report(0.5, 1)
        note(folder, began)
        return 0.5

    optuna.create_study().optimize(objective, n_trials=trials)
    return notes(folder)


def side(name: str, folder: str, trials: int) -> None:
    """Run a side in this process and leave what it noted."""
    called = time.time()
    if name in ("ours", "digits"):
        found = run_ours(folder, trials, empty=name == "ours")
    elif name == "optuna":
        found = run_optuna(folder, trials)
    elif name == "tune":
        found = run_tune(folder, trials, reports_to_tune, 1)
    else:
        found = run_tune(folder, trials, starts_a_trainer, 0.01)
    content = {"called": called, "notes": [[n.pid, n.began, n.ended] for n in found]}
    (Path(folder) / "found.json").write_text(json.dumps(content), encoding="utf-8")


def measure(name: str, trials: int) -> tuple[float, list[Note]]:
    """When a side was called, and what it noted."""
    with tempfile.TemporaryDirectory(prefix="pdo-over-") as folder:
        command = [__file__, "--side", name, "--folder", folder, "--trials", str(trials)]
        ended = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            env={**os.environ, "RAY_TRAIN_V2_ENABLED": "1"},
            check=False,
        )
        if ended.returncode:
            raise SystemExit(f"{name} failed:\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")
        content = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    return content["called"], [Note(*values) for values in content["notes"]]


def successions(found: list[Note]) -> list[tuple[Note, Note]]:
    """Every trial that followed another one in its slot, after that one."""
    found = sorted(found, key=lambda n: n.began)
    if len({n.pid for n in found}) == len(found):
        ends = sorted(found, key=lambda n: n.ended)
        return list(zip(ends, found[SLOTS:], strict=False))
    seen, last = [], dict[int, Note]()
    for now in found:
        if now.pid in last:
            seen.append((last[now.pid], now))
        last[now.pid] = now
    return seen


def row(name: str, called: float, found: list[Note]) -> str:
    began, ended = min(n.began for n in found), max(n.ended for n in found)
    pairs = successions(found)
    seconds = [now.ended - before.ended for before, now in pairs]
    gaps = [now.began - before.ended for before, now in pairs]
    cells = [
        name, str(len(found)), f"{began - called:.1f}", f"{(ended - began) / len(found):.3f}",
        *(f"{np.quantile(values, q):.3f}" for values in (seconds, gaps) for q in (0.5, 0.9)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side(given.side, given.folder, given.trials)
        return
    print("| side | trials | start-up s | wall / trials | s per trial, median | 90% | gap, median"
          " | 90% |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name in given.sides:
        trials = min(given.trials, FEWER.get(name, given.trials))
        print(row(name, *measure(name, trials)), flush=True)


if __name__ == "__main__":
    main()
