"""Records the learning curves that `search_quality.py` replays.

Runs `curves/NAME.yaml` (random points, nobody stopped), then 30 of its trials, spread over the
ranks, with two more seeds, and writes `curves/NAME.parquet`: number, seed, epoch, val_accuracy and
a column per dimension. A quarter of an hour on one core.

    python experiments/benchmarks/record_curves.py digits
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

import pdo_search
from pdo_search.results.schema import PARAM

CURVES = Path(__file__).parent / "curves"
METRIC = "val_accuracy"
RERUN = 30
SEEDS = (1, 2)


def run(file: Path, name: str, folder: Path, *changes: str) -> pd.DataFrame:
    """Run an experiment one trial at a time; its epochs with the trials' points."""
    settings = [f"output.root={folder}", "resources.max_concurrent=1", *changes]
    given = [f"--set={setting}" for setting in settings]
    command = [sys.executable, "-m", "pdo_search.cli", "run", str(file), "--name", name, *given]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    sweep = pdo_search.open_sweep(folder / name)
    columns = [str(column) for column in sweep.trials]
    params = {c: c.removeprefix(PARAM) for c in columns if c.startswith(PARAM)}
    points = sweep.trials[["number", *params]].rename(columns=params)
    return sweep.epochs[["number", "epoch", METRIC]].merge(points, on="number")


def again(file: Path, first: pd.DataFrame, folder: Path) -> tuple[Path, list[int]]:
    """An experiment of some of the trials, from the worst to the best; their numbers."""
    ends = first[first["epoch"] == first["epoch"].max()].sort_values(METRIC, kind="stable")
    chosen = ends.iloc[[i * (len(ends) - 1) // (RERUN - 1) for i in range(RERUN)]]
    points = chosen.drop(columns=["number", "epoch", METRIC]).to_dict("records")
    tree = yaml.safe_load(file.read_text())
    tree["search"] |= {"sampler": "grid", "num_trials": RERUN, "points": points}
    rerun = folder / "again.yaml"
    rerun.write_text(yaml.safe_dump(tree))
    return rerun, chosen["number"].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", help="of an experiment in curves/")
    file = CURVES / f"{parser.parse_args().name}.yaml"
    with tempfile.TemporaryDirectory(prefix="pdo-curves-") as scratch:
        folder = Path(scratch)
        first = run(file, "first", folder)
        rerun, numbers = again(file, first, folder)
        runs = [first.assign(seed=0)]
        for seed in SEEDS:
            more = run(rerun, f"seed{seed}", folder, f"search.seed={seed}")
            more["number"] = more["number"].map(dict(enumerate(numbers)))
            runs.append(more.assign(seed=seed))
    types = {"number": "int32", "seed": "int8", "epoch": "int16", METRIC: "float32"}
    table = pd.concat(runs).astype(types)
    table.to_parquet(file.with_suffix(".parquet"), index=False, compression="zstd")
    print(f"{len(first['number'].unique())} trials, {RERUN} of them {1 + len(SEEDS)} times")


if __name__ == "__main__":
    main()
