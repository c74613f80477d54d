"""What a sweep's driver costs at 1,000 and at 10,000 trials, and how full it keeps a cluster.

Trials are replayed, not trained: one real trial is recorded, and every trial reports its messages
again (all tables' rows) with a learning curve that is a function of the point and the epoch. All
else is the product: Tune, sampler, scheduler, recorder, tables, actor reuse.

    python experiments/benchmarks/scaling.py                    # ten minutes on two cores
    python experiments/benchmarks/scaling.py --trials 1000 --nodes
    python experiments/benchmarks/scaling.py --trials --nodes 2 4 8
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

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
EPOCHS_ON_NODES = 3
SECONDS_PER_EPOCH = 1.0
TRIALS_PER_SLOT = 8
REPEATS = 3

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


@dataclass
class Occupied:
    """How a cluster was kept busy.

    Attributes:
        nodes: with CPUs.
        slots: trials that fit at once.
        trials: that were run.
        startup_s: until the first trial started.
        wall_s: from then to the end of the last.
        full: share of the slots' time in use, from when all are until the last trial starts.
    """

    nodes: int
    slots: int
    trials: int
    startup_s: float
    wall_s: float
    full: float


def record(folder: str) -> Reports:
    """The reports of a real trial on digits, all twelve epochs."""
    from pdo_search.config import parse_experiment, resolve
    from pdo_search.distill.protocol import LocalWorker
    from pdo_search.trial.protocol import Places
    from pdo_search.trial.worker import run_trial

    loaded = parse_experiment(EXPERIMENT, file=Path(__file__), base_dir=Path(folder))
    worker = LocalWorker()
    places = Places(f"{folder}/store", folder, None, "t0000", 0)
    run_trial(resolve(loaded.experiment, MIDDLE), worker, places=places)
    return [asdict(report) for report in worker.reports]


def accuracy(point: dict[str, Any], epoch: int) -> float:
    """A learning curve: best at the middle of the space, slower far away from it."""
    distance = abs(math.log10(point["optimizer.lr"]) + 1) + abs(point["temperature"] - 4) / 10
    distance += abs(point["loss.kl"] - 0.5) / 4 + abs(point["prune_ratio"] - 0.2) / 4
    reached: float = 0.98 / (1 + distance / 4) * (1 - 0.7 * math.exp(-epoch / (2 + 2 * distance)))
    return reached


def replayed(reports: Reports, seconds: float, cpus: float) -> Any:
    """A trainable that reports what was recorded, with the point's own accuracies."""
    from ray import tune

    from pdo_search.search.tune.run import named

    def replay(suggestion: dict[str, Any]) -> None:
        from pdo_search.distill.protocol import Report
        from pdo_search.trial.messages import report_message

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

    return tune.with_resources(named(replay), {"cpu": cpus})


def sweep_of(
    folder: str, tree: dict[str, Any], trainable: Any, at_once: int, on_end: Callable[[], None]
) -> str:
    """Run a sweep on the Ray that this process is connected to; its directory."""
    from rich.console import Console

    from pdo_search.base.scratch import scratch_folder
    from pdo_search.config import parse_experiment
    from pdo_search.results.schema import param_types
    from pdo_search.results.sweepfile import write_sweep_file
    from pdo_search.results.writer import TableWriter
    from pdo_search.search import sweep
    from pdo_search.search.session import Session

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
    with scratch_folder("tune") as scratch:
        console = Console(file=Lines())
        held = Session(info, loaded, directory, console, writer, str(scratch), at_once=at_once)
        sweep._search(held, trainable=trainable)
    return directory


def drive(trials: int, folder: str, reports: Reports) -> Driven:
    """Run a replayed sweep of two trials at once in this process, on a local Ray."""
    import torch  # noqa: F401  # As in `pdo-search run`, whose check builds the models.

    from pdo_search.search.cluster import connect, disconnect, import_ray
    from pdo_search.search.tune import TUNE_SETTINGS

    os.environ.update(TUNE_SETTINGS)
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
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
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
        peak_mb=peak_mb,
    )


def occupy(nodes: int, folder: str, reports: Reports) -> Occupied:
    """Keep simulated nodes busy with trials that sleep; the head has no CPU to give."""
    import ray
    from ray.cluster_utils import Cluster

    import pdo_search
    from pdo_search.search.tune import TUNE_SETTINGS

    os.environ.update(TUNE_SETTINGS)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=CPUS_PER_NODE)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        slots = nodes * CPUS_PER_NODE
        tree = {
            **EXPERIMENT,
            "search": {"num_trials": slots * TRIALS_PER_SLOT},
            "scheduler": {"kind": "none"},
        }
        trainable = replayed(reports[-EPOCHS_ON_NODES:], SECONDS_PER_EPOCH, 1.0)
        began = time.time()
        directory = sweep_of(folder, tree, trainable, slots, lambda: None)
    finally:
        ray.shutdown()
        cluster.shutdown()
    trials = pdo_search.open_sweep(directory).trials
    first, last = trials["started_at"].min(), trials["ended_at"].max()
    return Occupied(
        nodes=nodes,
        slots=slots,
        trials=len(trials),
        startup_s=first.timestamp() - began,
        wall_s=(last - first).total_seconds(),
        full=_occupancy(trials, slots),
    )


def _occupancy(trials: pd.DataFrame, slots: int) -> float:
    began, ended = trials["started_at"].nsmallest(slots).iloc[-1], trials["started_at"].max()
    busy = trials["ended_at"].clip(upper=ended) - trials["started_at"].clip(lower=began)
    seconds = busy.dt.total_seconds().clip(lower=0).sum()
    return float(seconds / (slots * (ended - began).total_seconds()))


def read(directory: str) -> dict[str, float]:
    """Seconds to read a sweep and to show it, in this process, without imports."""
    import pandas  # noqa: F401
    from pyarrow import parquet  # noqa: F401
    from rich.console import Console

    seconds = {}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = action()
        seconds[name] = time.perf_counter() - began
        return result

    import pdo_search
    from pdo_search.analysis.summary import sweep_summary
    from pdo_search.cli.show import print_sweep
    from pdo_search.results.schema import TABLES

    opened = timed("open_sweep(...).trials", lambda: _with_trials(pdo_search.open_sweep(directory)))
    timed("all tables", lambda: [getattr(opened.refresh(), name) for name in TABLES])
    summary = timed("show: summary", lambda: sweep_summary(opened))
    timed("show: print", lambda: print_sweep(summary, Console(file=io.StringIO())))
    return seconds


def _with_trials(sweep: Any) -> Any:
    _ = sweep.trials
    return sweep


def show(directory: str) -> dict[str, float]:
    """Seconds of the command line, the quickest of some."""
    commands = {
        "pdo-search show": ["show", directory],
        "show --json": ["show", directory, "--json"],
    }
    return {
        name: min(_timed(command) for _ in range(REPEATS)) for name, command in commands.items()
    }


def _timed(arguments: list[str]) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "pdo_search.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def table_bytes(directory: str) -> int:
    """Size of all parts."""
    return sum(file.stat().st_size for file in Path(directory).glob("*/*.parquet"))


def resident_mb() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def child(part: str, value: object, folder: str) -> Any:
    """What a part of this file finds in a process of its own."""
    out = Path(folder) / f"{part}.json"
    command = [sys.executable, __file__, "--part", part, str(value), folder]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return json.loads(out.read_text())


def run_part(part: str, value: str, folder: str) -> None:
    """In the process of ``child``."""
    recorded = Path(folder).parent / "record" / "record.json"
    reports = json.loads(recorded.read_text()) if recorded.exists() else []
    parts: dict[str, Callable[[], Any]] = {
        "record": lambda: record(folder),
        "drive": lambda: asdict(drive(int(value), folder, reports)),
        "occupy": lambda: asdict(occupy(int(value), folder, reports)),
        "read": lambda: read(value),
    }
    (Path(folder) / f"{part}.json").write_text(json.dumps(parts[part]()))


def compare_sizes(sizes: list[int], root: Path) -> None:
    """Print what each size costs, and the growth from the first to the last, per trial."""
    columns = []
    for trials in sizes:
        folder = root / str(trials)
        folder.mkdir()
        driven = Driven(**child("drive", trials, str(folder)))
        directory = f"{folder}/{EXPERIMENT['name']}"
        tenth = trials / 10
        columns.append({
            "reports per trial": driven.reports / trials,
            "driver CPU, ms per trial": 1e3 * driven.cpu_s / trials,
            "  first tenth of the trials": 1e3 * driven.first_cpu_s / tenth,
            "  last tenth": 1e3 * driven.last_cpu_s / tenth,
            "wall, ms per trial": 1e3 * driven.wall_s / trials,
            "resident at start, MB": driven.rss_mb,
            "resident at most, MB": driven.peak_mb,
            "tables, kB per trial": table_bytes(directory) / 1e3 / trials,
            **{f"{k}, s": v for k, v in child("read", directory, str(folder)).items()},
            **{f"{k}, s": v for k, v in show(directory).items()},
        })  # fmt: skip
    print(f"{'trials':<30}" + "".join(f"{trials:>12,}" for trials in sizes) + f"{'factor':>10}")
    for name in columns[0]:
        values = [column[name] for column in columns]
        cells = "".join(f"{value:>12.3f}" for value in values)
        print(f"{name:<30}{cells}{values[-1] / values[0]:>10.2f}", flush=True)


def compare_clusters(sizes: list[int], root: Path) -> None:
    """Print trials per minute, start-up of processes and tail included, and how full slots were."""
    print(f"\nnodes of {CPUS_PER_NODE} CPUs, trials of {EPOCHS_ON_NODES} s: trials per minute")
    names = ("nodes", "slots", "trials", "ideal", "found", "share", "full", "first after")
    print(" ".join(f"{name:>{max(6, len(name))}}" for name in names))
    for nodes in sizes:
        folder = root / f"nodes-{nodes}"
        folder.mkdir()
        found = Occupied(**child("occupy", nodes, str(folder)))
        ideal = 60 * found.slots / (EPOCHS_ON_NODES * SECONDS_PER_EPOCH)
        rate = 60 * found.trials / found.wall_s
        print(
            f"{nodes:>6} {found.slots:>6} {found.trials:>6} {ideal:>6.1f} {rate:>6.1f}"
            f" {rate / ideal:>6.1%} {found.full:>6.1%} {found.startup_s:>9.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--nodes", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        run_part(*given.part)
        return
    with tempfile.TemporaryDirectory(prefix="pdo-scaling-") as folder:
        (Path(folder) / "record").mkdir()
        child("record", "", f"{folder}/record")
        if given.trials:
            compare_sizes(given.trials, Path(folder))
        if given.nodes:
            compare_clusters(given.nodes, Path(folder))


if __name__ == "__main__":
    main()
