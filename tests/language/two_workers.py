"""One of two processes that train a trial together.

``python -m tests.language.two_workers RANK PORT FOLDER`` leaves rank 0's metrics in FOLDER.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pdo_search.distill.protocol import LocalWorker
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from .texts import ROOT, config_of

T = TypeVar("T")


@dataclass
class Worker(LocalWorker):
    """A worker of two, by torch's own processes."""

    world_size: int = 2

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model)

    def broadcast(self, value: T) -> T:
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total / 2


def metrics_of_trial(worker: LocalWorker, folder: Path) -> list[dict[str, float]]:
    """What every epoch of the trial reports."""
    torch.set_num_threads(1)
    places = Places(str(folder / "store"), str(folder / "sweep"), str(ROOT), "t0000", 0)
    run_trial(config_of(), worker, places=places)
    return [report.metrics for report in worker.reports]


def main(rank: str, port: str, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=2
    )
    found = metrics_of_trial(Worker(rank=int(rank)), Path(folder))
    if rank == "0":
        (Path(folder) / "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
