"""Where the slots' time goes in a sweep: training of students, and all the rest by cause.

    python experiments/benchmarks/utilisation.py                # its own: two minutes on two cores
    python experiments/benchmarks/utilisation.py results/digits  # a sweep that ran in process

A *slot* is a process that trials run in, one after the other; all are there from the first trial's
start to the last trial's end. *Utilisation* is the share of the slots' time in which a student's
forward, backward and update ran (`student_s` of the tables), as far as there were trials left: the
*tail*, in which a slot has no trial because none is left, counts in the second figure only, and
what comes before the first trial (Ray's start-up, the look for the teacher) in the third. The
teacher's training counts nowhere. All are wall seconds: a student that waits for a core counts as
training, so its images per second stand beside those of the same student alone on the machine.

The rest by cause: *set-up* is from a trial's start to its first step, imports and data of a
process's first trial included, without the *bank* (the teacher's outputs and levels, or waiting for
another trial that makes them); *evaluation*, *data* and *waiting* (checkpoints and the search's
answer) are the tables' columns; *closing* is what is left of a trial, mostly its models' saving and
composite; *between* is from one trial's end to the next one's start in the same process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

import pdo_search

TRIALS = 6
EPOCHS = 10
LIMIT = 20_000


@dataclass(frozen=True)
class Account:
    """Slot seconds of a sweep.

    Attributes:
        slots: processes.
        before_s: wall seconds from the sweep's beginning to the first trial, teacher's training
            taken off.
        teacher_s: wall seconds of the teacher's training, if this sweep trained it.
        wall_s: wall seconds from the first trial's start to the last one's end.
        student_s: slot seconds of training.
        rest_s: slot seconds by cause; with ``student_s`` they add up to ``slots * wall_s``.
        examples_per_s: median over trials.
    """

    slots: int
    before_s: float
    teacher_s: float
    wall_s: float
    student_s: float
    rest_s: dict[str, float]
    examples_per_s: float

    def utilisation(self, *, tail: bool, before: bool) -> float:
        """Share of slot time in which students trained."""
        time = self.slots * (self.wall_s + before * self.before_s)
        return self.student_s / (time - (not tail) * self.rest_s["tail"])


def account(path: str) -> Account:
    """Add up a sweep's tables."""
    sweep = pdo_search.open_sweep(path)
    trials = sweep.trials.sort_values("started_at")
    slots = trials.groupby(["host", "pid"])
    began, ended = trials["started_at"].min(), trials["ended_at"].max()
    count = slots.ngroups
    before_s = (began - datetime.fromisoformat(sweep.info.created_at)).total_seconds()
    teacher_s = sweep.teachers.query("level == 0")["build_s"].max()
    if teacher_s > before_s:
        teacher_s = 0.0  # An earlier sweep trained it.
    epochs = sweep.epochs.set_index("number")
    bank_first = epochs[epochs["epoch"] == 1]["teacher_s"].reindex(trials["number"]).to_numpy()
    to_first_step = seconds(trials["first_step_at"] - trials["started_at"])
    set_up = (to_first_step - bank_first).sum()
    phases = {
        name: trials[f"{column}_s"].sum()
        for name, column in (
            ("bank", "teacher"),
            ("evaluation", "evaluation"),
            ("data", "data"),
            ("waiting", "waiting"),
        )
    }
    student = trials["student_s"].sum()
    inside = seconds(trials["ended_at"] - trials["started_at"]).sum()
    rest = {
        "set-up": set_up,
        **phases,
        "closing": inside - set_up - student - sum(phases.values()),
        "between": seconds(trials["started_at"] - slots["ended_at"].shift()).sum()
        + seconds(slots["started_at"].min() - began).sum(),
        "tail": seconds(ended - slots["ended_at"].max()).sum(),
    }
    return Account(
        slots=count,
        before_s=before_s - teacher_s,
        teacher_s=teacher_s,
        wall_s=(ended - began).total_seconds(),
        student_s=student,
        rest_s=rest,
        examples_per_s=trials["examples_per_s"].median(),
    )


def seconds(times: pd.Series[pd.Timedelta]) -> pd.Series[float]:
    found: pd.Series[float] = times.dt.total_seconds()
    return found


def run(folder: str, trials: int, epochs: int, limit: int) -> str:
    """A sweep of long trials, its teacher trained by a short one before; its directory."""
    file = Path(__file__).parents[1] / "fashion_mnist.yaml"
    changes = (
        f"task.data.limit={limit}", "teacher.train.epochs=2", f"trial.epochs={epochs}",
        "trial.num_stages=1", "trial.teacher_order=descending", "trial.prune_ratio=0",
        "trial.composite=null", "scheduler.kind=none", f"output.root={folder}",
    )  # fmt: skip
    for name, more in (
        ("first", ("trial.epochs=2", "trial.num_views=1", "search.num_trials=1")),
        ("sweep", ()),
    ):
        settings = [
            f"--set={change}" for change in (*changes, f"search.num_trials={trials}", *more)
        ]
        subprocess.run(
            [sys.executable, "-m", "pdo_search.cli", "run", str(file), "--name", name, *settings],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return f"{folder}/sweep"


def show(found: Account) -> None:
    total = found.slots * found.wall_s
    print(f"{found.slots} slots for {found.wall_s:.1f} s, {found.examples_per_s:,.0f} examples/s;"
          f" {found.before_s:.1f} s before the first trial,"
          f" {found.teacher_s:.1f} s of the teacher's training\n")  # fmt: skip
    print("| slot seconds | s | share |\n|---|---|---|")
    for name, value in {"student": found.student_s, **found.rest_s}.items():
        print(f"| {name} | {value:.1f} | {value / total:.1%} |")
    print(f"\nutilisation {found.utilisation(tail=False, before=False):.3f};"
          f" with the tail {found.utilisation(tail=True, before=False):.3f};"
          f" with the start-up too {found.utilisation(tail=True, before=True):.3f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sweep", nargs="?", help="directory of a sweep; none runs one")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int, default=LIMIT, help="pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pdo-use-") as folder:
        show(account(given.sweep or run(folder, given.trials, given.epochs, given.limit)))


if __name__ == "__main__":
    main()
