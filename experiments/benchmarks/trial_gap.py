"""Seconds from one trial's end to the next trial's first training step, in the same process.

Runs a sweep of short trials on digits, or reads the tables of a sweep that has run in process.

    python experiments/benchmarks/trial_gap.py                    # half a minute on two cores
    python experiments/benchmarks/trial_gap.py results/digits
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import pdo_search

TRIALS = 32
SHORT = ("trial.epochs=6", "scheduler.grace=3", f"search.num_trials={TRIALS}")


def gaps(sweep: str) -> pd.Series[float]:
    """Seconds by trial that followed another one in its process."""
    trials = pdo_search.open_sweep(sweep).trials.sort_values("first_step_at")
    ended = trials.groupby(["host", "pid"])["ended_at"].shift()
    seconds: pd.Series[float] = (trials["first_step_at"] - ended).dt.total_seconds().dropna()
    return seconds


def run(folder: str) -> str:
    """A sweep of short trials; its directory."""
    file = Path(__file__).parents[1] / "digits.yaml"
    changes = [f"--set={change}" for change in (*SHORT, f"output.root={folder}")]
    subprocess.run(
        [sys.executable, "-m", "pdo_search.cli", "run", str(file), "--name", "gap", *changes],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return f"{folder}/gap"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sweep", nargs="?", help="directory of a sweep; none runs one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pdo-gap-") as folder:
        seconds = gaps(given.sweep or run(folder))
    print(f"{len(seconds)} successions of trials in one process")
    for name, value in (("median", 0.5), ("90%", 0.9), ("longest", 1.0)):
        print(f"{name:>8} {seconds.quantile(value):.3f} s")


if __name__ == "__main__":
    main()
