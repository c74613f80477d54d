"""Computing a bank's chunks on all of a cluster by Ray Data, for pools that take one slot too long.

The chunks come back to the process that builds the bank, which alone writes them: nodes need no
disk in common, neither for the bank nor for the teacher, whose files travel with the actors. A
chunk whose actor dies is Ray Data's to compute again.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdo_search.base.errors import PdoError
from pdo_search.base.scratch import scratch_folder
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.teaching import pool_of, pool_outputs
from pdo_search.models.build import placed
from pdo_search.models.modelfile import load_for
from pdo_search.store.bank import Compute
from pdo_search.store.encoding import Arrays
from pdo_search.store.plan import Plan
from pdo_search.tasks.base import Task

__all__ = ["spread"]

Batch = dict[str, Any]


def spread(
    config: TrialConfig,
    task: Task,
    view: int,
    *,
    teacher: Path,
    on: Context,
    num_actors: int,
) -> Compute:
    """What computes chunks of a view of the pool on actors, each with a worker's resources.

    Args:
        config: a trial: its task and its resources.
        task: its task, as the process that builds the bank has it.
        view: which recorded view.
        teacher: directory of the teacher's model, on this machine.
        on: where every node finds store and base folder.
        num_actors: at most so many.

    Returns:
        Yields chunks as they come; Ray Data holds its actors back when they are not fetched.
    """
    import ray

    resources = config.resources

    def compute(plan: Plan, chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        ray.data.DataContext.get_current().enable_progress_bars = False
        files = {f.name: f.read_bytes() for f in teacher.iterdir() if f.is_file()}
        wanted = [{"first": rows.start, "last": rows.stop} for rows in chunks]
        mapped = ray.data.from_items(wanted, override_num_blocks=len(wanted)).map_batches(
            _Encoder,
            fn_constructor_args=(
                config.model_dump_json(), on, task.fingerprint, ray.put(files), view, ray.put(plan),
            ),
            batch_size=1,
            concurrency=(1, min(num_actors, len(wanted))),
            num_cpus=resources.cpus,
            num_gpus=resources.num_gpus or None,
        )  # fmt: skip
        for row in mapped.iter_rows():
            yield slice(int(row["first"]), int(row["last"])), _unpacked(row["arrays"])

    return compute


class _Encoder:
    """An actor that computes chunks: data and teacher are loaded once."""

    def __init__(
        self,
        config_json: str,
        on: Context,
        fingerprint: str,
        files: Any,
        view: int,
        plan: Any,
    ) -> None:
        import ray

        config = TrialConfig.model_validate_json(config_json)
        torch.set_num_threads(config.resources.threads)
        task = on.task(config.task)
        if task.fingerprint != fingerprint:
            raise PdoError(f"the data on {socket.gethostname()} differ from those of the driver")
        device = torch.device("cuda" if config.resources.num_gpus else "cpu")
        with scratch_folder("teacher") as teacher:
            for name, content in ray.get(files).items():
                (Path(teacher) / name).write_bytes(content)
            model, _ = load_for(task, Path(teacher), on.base_dir)
        model = placed(model, device).eval()
        self._plan: Plan = ray.get(plan)
        self._outputs = pool_outputs(task, pool_of(task, device), model, view)

    def __call__(self, batch: Batch) -> Batch:
        spans = zip(batch["first"], batch["last"], strict=True)
        packed = [
            _packed(self._plan.encoded(self._outputs, slice(int(a), int(b)))) for a, b in spans
        ]
        return {**batch, "arrays": packed}


def _packed(arrays: Arrays) -> bytes:
    """Arrays, after their names, as bytes that Ray Data carries as they are."""
    buffer = io.BytesIO()
    np.savez(buffer, np.array(list(arrays)), *arrays.values())
    return buffer.getvalue()


def _unpacked(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {str(n): arrays[f"arr_{k}"] for k, n in enumerate(arrays["arr_0"], start=1)}
