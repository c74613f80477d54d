"""The bank in numbers: build rate, bytes per example, time to open, memory of many readers.

    python experiments/benchmarks/bank.py                  # about a minute on one CPU thread
    python experiments/benchmarks/bank.py --device cuda --examples 100000

*bare* is the teacher's forward over the same pictures, already drawn and prepared, whose outputs
are dropped; *build* draws the views, prepares, runs the teacher, encodes, writes, checks and
publishes. Rounds go round both, so that a busy machine hits both alike; the median counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.evaluate import evaluation_batches
from pdo_search.distill.teaching import Teaching
from pdo_search.store import Store
from pdo_search.store.bank import Bank, bank, in_process
from pdo_search.store.encoding import Said, StoredHead
from pdo_search.store.plan import Plan
from pdo_search.tasks.base import Batch
from pdo_search.trial.worker import prepare, teaching_of

CLASSES = 10
EDGE = 32
READERS = 8
AT_ONCE = 512
GATHERED = 128
"""Rows per gather: a batch of a trial."""


def pictures(count: int) -> tuple[Any, Any]:
    """Noise: what is on a picture does not change how long it takes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, EDGE, EDGE), generator=generator, dtype=torch.uint8)
    return inputs.numpy(), torch.arange(count).remainder(CLASSES).numpy()


def configured(examples: int) -> TrialConfig:
    tree = {
        "name": "bank",
        "task": {
            "data": {"source": "bank:pictures", "args": {"count": round(examples / 0.8)}},
            "splits": {"transfer": 0.1, "validation": 0.1, "test": 0.1},
            "augment": {"crop": 4, "flip": True},
        },
        "teacher": {"arch": "small_resnet", "width": 16, "train": {"epochs": 1, "lr": 1e-6}},
        "student": {"arch": "small_convnet"},
        "trial": {"num_views": 64},
    }
    loaded = parse_experiment(tree, file=Path(__file__), base_dir=Path(__file__).parent)
    return resolve(loaded.experiment, {})


def build_rate(examples: int, rounds: int, device: torch.device, folder: str) -> None:
    config, on = configured(examples), Context(folder, device, Path(__file__).parent)
    teaching = teaching_of(config, prepare(config, on), on)
    model, pool = teaching.ladder.model(0), teaching.pool
    rows = torch.arange(len(pool), device=device)
    prepared = list(pool.batches(0, evaluation_batches(teaching.task, pool.examples, device, rows)))
    rates: dict[str, list[float]] = {"bare": [], "build": []}
    for turn in range(rounds + 1):
        for side in rates:
            started = time.perf_counter()
            if side == "bare":
                bare(teaching, model, prepared)
            else:
                teaching.pool_bank(0, turn)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                rates[side].append(len(pool) / (time.perf_counter() - started))
    median = {side: statistics.median(values) for side, values in rates.items()}
    print(f"build: {len(pool):,} pictures of {EDGE} pixels, {config.teacher.arch}, {device}")
    print(
        f"  bare forward {median['bare']:,.0f} images/s, build {median['build']:,.0f} images/s:"
        f" {median['build'] / median['bare']:.1%} of it"
    )


def bare(teaching: Teaching, model: torch.nn.Module, prepared: Sequence[Batch]) -> None:
    with torch.inference_mode():
        for batch in prepared:
            teaching.task.forward(model, batch)


def noise(store: Store, size: int, examples: int) -> Bank:
    """A bank of random outputs."""
    logits = torch.randn(AT_ONCE, size, generator=torch.Generator().manual_seed(0))

    def outputs(rows: Tensor) -> Iterator[tuple[Tensor, Said]]:
        for part in torch.split(rows, AT_ONCE):
            yield part, {"class": logits[: len(part)]}

    return bank(
        store,
        Plan({"class": StoredHead(size)}, examples, {}),
        teacher_key="noise",
        task_fingerprint="noise",
        split_name="noise",
        view=0,
        compute=in_process(outputs),
    )


def stored_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("bank/??/*/*") if f.is_file())


def sizes(folder: Path) -> None:
    print("size: classes, bytes per example and view, of a float32 array")
    for size in (10, 1000, 10_000):
        count = 4096
        noise(Store(folder / str(size)), size, count)
        each = stored_bytes(folder / str(size)) / count
        print(f"  {size:>6,}: {each:,.0f} bytes, {each / (4 * size):.1%}")


def readers(folder: Path, examples: int) -> None:
    """Eight processes gather batches from one bank of 1,000 classes."""
    root = folder / "readers"
    noise(Store(root), 1000, examples)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(READERS), context.SimpleQueue()
    processes = [
        context.Process(target=read, args=(str(root), examples, number, barrier, results))
        for number in range(READERS)
    ]
    for process in processes:
        process.start()
    seen: list[dict[str, float]] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    size = stored_bytes(root) / 2**20
    median = {name: statistics.median(one[name] for one in seen) for name in seen[0]}
    total = sum(one["pss"] for one in seen)
    print(f"readers: {READERS} processes, {examples:,} examples of 1,000 classes, {size:,.0f} MiB")
    print(f"  opened in {median['first_s'] * 1e3:.1f} ms with its checksums, at once for all;"
          f" again in {median['again_s'] * 1e3:.1f} ms")  # fmt: skip
    print(f"  gather of {GATHERED} rows {median['gather_s'] * 1e6:,.0f} microseconds")
    print(f"  memory of the bank's pages: RSS {median['rss']:,.0f} MiB each, PSS {total:,.0f} MiB"
          f" in all: {total / size:.2f} of the files' size")  # fmt: skip
    print(f"  memory of a whole process: PSS {median['process_pss']:,.0f} MiB")


def read(root: str, examples: int, number: int, barrier: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    started = time.perf_counter()
    opened = noise(Store(root), 1000, examples)
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    noise(Store(root), 1000, examples)
    again_s = time.perf_counter() - started
    generator = torch.Generator().manual_seed(number)
    orders = torch.split(torch.randperm(examples, generator=generator), GATHERED)
    started = time.perf_counter()
    for rows in orders:
        opened.rows("class", rows)
    gather_s = (time.perf_counter() - started) / len(orders)
    # Nobody leaves before all have read and all have looked.
    barrier.wait()
    memory = mapped(".npy")
    process_pss = mapped_total()
    barrier.wait()
    results.put(
        {"first_s": first_s, "again_s": again_s, "gather_s": gather_s, "process_pss": process_pss}
        | memory
    )


def mapped(suffix: str) -> dict[str, float]:
    """RSS and PSS in MiB of this process's mappings of files with a suffix."""
    found, counts = {"rss": 0.0, "pss": 0.0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counts = line.endswith(suffix)
        elif counts and line.split(":")[0].lower() in found:
            found[line.split(":")[0].lower()] += float(line.split()[1]) / 1024
    return found


def mapped_total() -> float:
    """PSS of this process in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--examples", type=int, default=4096, help="pictures of the build")
    parser.add_argument("--rows", type=int, default=50_000, help="examples that readers share")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pdo-bank-") as folder:
        build_rate(given.examples, given.rounds, torch.device(given.device), folder)
        sizes(Path(folder))
        readers(Path(folder), given.rows)


if __name__ == "__main__":
    main()
