"""Short runs of every method in double precision: the numbers that a refactor must leave alone.

    python -m tests.golden.runs            # compare with curves.json
    python -m tests.golden.runs --write    # renew it: a change of the maths, in a commit of its own

In float64 the processors' different roundings stay below 1e-9 over so few updates. What is compared
is every column of every table but clock readings, names of machines and digests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.text.made import EXPERIMENT as MADE_TEXTS

CURVES = Path(__file__).with_name("curves.json")
TOLERANCE = 1e-9
LEFT_OUT = ("key", "parent_key", "cached", "host", "pid", "model", "composite")
CLOCKS = ("_s", "_at", "_ms")

TREE: dict[str, Any] = {
    "name": "golden",
    "task": {"data": {"source": "digits", "limit": 400}, "augment": {"crop": 1, "flip": True}},
    "teacher": {"arch": "small_resnet", "width": 8, "train": {"epochs": 2, "batch_size": 16}},
    "student": {"arch": "small_convnet", "width": 4, "dropout": 0.1},
    "trial": {
        "epochs": 4,
        "init_epochs": 1,
        "finetune_epochs": 1,
        "num_stages": 2,
        "prune_ratio": 0.3,
        "optimizer": {"batch_size": 16, "lr": 0.05, "label_smoothing": 0.05},
        "curriculum": {"start": 0.5, "difficulty": "student_loss"},
        "simplify": {"recovery_epochs": 0.5, "max_drop": 1.0},
        "composite": {"finetune_epochs": 1},
    },
}
CASES: dict[str, dict[str, Any]] = {
    "progressive, descending": {"teacher_order": "descending"},
    "progressive, ascending": {"teacher_order": "ascending", "temperature_end": 1.5},
    "scratch": {"method": "scratch"},
    "one_shot": {"method": "one_shot"},
    "assistant": {"method": "assistant"},
}
TWO_WORKERS = "two workers"
PLAIN = "a student without norms and dropout"
STUDENTS = {PLAIN: {"arch": "tests.golden.plain:student"}}
TEXTS = "texts"
TREES = {TEXTS: MADE_TEXTS}
"""Experiments of other domains."""


def config_of(case: str) -> Any:
    from pdo_search.config import parse_experiment, resolve

    tree = {**TREE, "trial": {**TREE["trial"], **CASES.get(case, {})}}
    tree["student"] = STUDENTS.get(case, TREE["student"])
    tree = TREES.get(case, tree)
    return resolve(parse_experiment(tree, file=Path("g.yaml"), base_dir=Path.cwd()).experiment, {})


def places_of(case: str, folder: Path) -> Any:
    from pdo_search.trial.protocol import Places

    own = folder / case
    return Places(str(folder / "store"), str(own), None, "t0000", 0)


def compared(reports: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of all reports by table, without what differs from run to run."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for table, rows in report.rows.items():
            for row in rows:
                kept = {
                    name: value
                    for name, value in row.items()
                    if not name.endswith(CLOCKS) and name not in LEFT_OUT
                    and name not in ("examples_per_s", "examples_per_s")
                }  # fmt: skip
                tables.setdefault(table, []).append(kept)
    return tables


def run_cases(folder: Path, cases: list[str]) -> dict[str, Any]:
    """Run cases here, one after the other. Makes float64 the process's default type."""
    import torch

    from pdo_search.distill.protocol import LocalWorker
    from pdo_search.trial.worker import run_trial

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = {}
    for case in cases:
        worker = LocalWorker()
        run_trial(config_of(case), worker, places=places_of(case, folder))
        found[case] = compared(worker.reports)
    return found


def run_rank(folder: Path, rank: int, case: str) -> dict[str, Any]:
    """Run a case as one of two workers, in a gloo group that meets in the folder."""
    import torch
    from torch import distributed

    from pdo_search.trial.ray_train import TrainWorker
    from pdo_search.trial.worker import run_trial

    class GlooWorker(TrainWorker):
        """A worker of ours without Ray: it keeps its reports."""

        def __init__(self) -> None:
            self.rank, self.world_size = rank, 2
            self.device = torch.device("cpu")
            self.sync_batch_norm = False
            self.reports: list[Any] = []

        def report(self, report: Any) -> None:
            self.reports.append(report)

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    worker = GlooWorker()
    run_trial(config_of(case), worker, places=places_of(f"{case}, two workers", folder))
    distributed.barrier()
    return {case: compared(worker.reports)}


def all_runs() -> dict[str, Any]:
    """The numbers of all cases, each group in fresh processes."""
    with tempfile.TemporaryDirectory(prefix="pdo-golden-") as folder:
        return with_workers(folder, 1, *CASES) | with_workers(folder, 2, TWO_WORKERS)


def with_workers(folder: str, workers: int, *cases: str) -> dict[str, Any]:
    """The numbers of cases run in fresh processes, by one worker or by two."""
    command = [sys.executable, "-m", "tests.golden.runs", "--folder", folder, *cases, "--role"]
    roles = ["alone"] if workers == 1 else [f"rank {rank}" for rank in range(workers)]
    started = [
        subprocess.Popen(
            [*command, role], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for role in roles
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{roles} failed")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two trees of numbers differ by more than the tolerance."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = [f"{path}: only in one: {name}" for name in sorted(expected.keys() ^ found.keys())]
        for name in expected.keys() & found.keys():
            lines += differences(expected[name], found[name], f"{path}/{name}")
        return lines
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for k, (one, two) in enumerate(zip(expected, found, strict=True))
            for line in differences(one, two, f"{path}/{k}")
        ]
    if isinstance(expected, float) and isinstance(found, float):
        same = abs(expected - found) <= TOLERANCE * max(1.0, abs(expected))
        return [] if same else [f"{path}: {expected!r} is now {found!r}"]
    return [] if expected == found else [f"{path}: {expected!r} is now {found!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="renew curves.json")
    parser.add_argument("cases", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        alone = given.role == "alone"
        found = (
            run_cases(given.folder, given.cases)
            if alone
            else run_rank(given.folder, int(given.role[-1]), given.cases[0])
        )
        print(json.dumps(found), flush=True)
        os._exit(0)  # A group's threads may abort a process that ends in order.
    found = all_runs()
    if given.write:
        CURVES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    lines = differences(json.loads(CURVES.read_text(encoding="utf-8")), found)
    print("\n".join(lines) or "equal")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
