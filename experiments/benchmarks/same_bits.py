"""Whether two commits give the same numbers, in every bit: long runs of both on this machine.

Each commit runs the same experiment from a checkout of its own, trial after trial, and confirms two
seeds of the winners; then every column of every table is compared but clock readings, names of
machines and digests. What the short golden runs (`python -m tests.golden.runs`) are too short to
show, this does; processors round differently, so both run here.

    python experiments/benchmarks/same_bits.py HEAD~1 HEAD          # two minutes on two cores
    python experiments/benchmarks/same_bits.py main HEAD --file experiments/digits.yaml
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import pdo_search
from pdo_search.results.schema import TABLES

ROOT = Path(__file__).parents[2]
CLOCKS = ("_s", "_at", "_ms")
LEFT_OUT = (
    "key",
    "parent_key",
    "cached",
    "host",
    "pid",
    "end_index",
    "attempt",
    "images_per_s",
    "examples_per_s",
)


def run(commit: str, file: Path, folder: Path) -> Path:
    """Run and confirm an experiment as a commit has it; the sweep's directory."""
    checkout = folder / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(checkout), commit], check=True)
    try:
        command = [sys.executable, "-m", "pdo_search.cli"]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        serial = [f"--set=output.root={folder}", "--set=resources.max_concurrent=1"]
        for words in (
            ["run", str(file), "--name", "sweep", *serial],
            ["confirm", str(folder / "sweep"), "--seeds", "2"],
        ):
            subprocess.run(
                [*command, *words], check=True, env=environment, cwd=checkout,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
    finally:
        subprocess.run([*git, "remove", "--force", str(checkout)], check=True)
    return folder / "sweep"


def differing(one: pd.DataFrame, two: pd.DataFrame) -> list[str]:
    """The columns in which two tables differ, those that only one has included."""
    columns = [[str(c) for c in table.columns] for table in (one, two)]
    shared = [c for c in columns[0] if c in columns[1] and not c.endswith(CLOCKS)]
    lines = [f"{c}: in one alone" for c in sorted(set(columns[0]) ^ set(columns[1]))]
    if len(one) != len(two):
        return [*lines, f"{len(one)} rows and {len(two)}"]
    for column in [c for c in shared if c not in LEFT_OUT]:
        a, b = one[column].reset_index(drop=True), two[column].reset_index(drop=True)
        other = ~((a == b) | (a.isna() & b.isna()))
        if other.any():
            pairs = f"{a[other].iloc[0]!r} and {b[other].iloc[0]!r}"
            lines.append(f"{column}: {int(other.sum())} rows, first {pairs}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--file", type=Path, default=ROOT / "experiments" / "digits.yaml")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pdo-bits-") as scratch:
        sweeps = []
        for place, commit in enumerate((given.first, given.second)):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            sweeps.append(pdo_search.open_sweep(run(commit, given.file.resolve(), folder)))
        same = True
        for table in TABLES:
            one, two = (getattr(sweep, table) for sweep in sweeps)
            lines = differing(one, two)
            print(f"{table}: {len(one)} rows, {'equal' if not lines else 'different'}")
            print("".join(f"  {line}\n" for line in lines), end="")
            same = same and not any(": in one alone" not in line for line in lines)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
