"""The bank: what it gives back, how exactly, and that a death of its builder costs little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.errors import PdoError
from pdo_search.store import Store
from pdo_search.store.bank import Bank, Compute, bank, in_process
from pdo_search.store.encoding import Arrays, StoredHead
from pdo_search.store.plan import CHUNK, Outputs, Plan

EXAMPLES, CLASSES = 5000, 10
CHUNKS = -(-EXAMPLES // CHUNK)


def logits(scale: float, view: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(view)
    return (torch.rand(EXAMPLES, CLASSES, generator=generator) * 2 - 1) * scale


def outputs_from(values: Tensor) -> Outputs:
    def outputs(rows: Tensor) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        for part in torch.split(rows, 300):
            yield part, {"class": values[part]}

    return outputs


def opened(
    root: Path,
    compute: Compute,
    view: int = 0,
    progress: list[tuple[int, int]] | None = None,
) -> Bank:
    return bank(
        Store(root),
        Plan({"class": StoredHead(CLASSES)}, EXAMPLES, {}),
        teacher_key="t",
        task_fingerprint="f",
        split_name="train",
        view=view,
        compute=compute,
        on_progress=None if progress is None else lambda *seen: progress.append(seen),
    )


def counted(values: Tensor, computed: list[int], die_after: int | None = None) -> Compute:
    """Computes from given logits, notes which chunks, and breaks after so many."""

    def compute(plan: Plan, chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        for number, rows in enumerate(chunks):
            if number == die_after:
                raise KeyboardInterrupt
            computed.append(rows.start)
            yield rows, plan.encoded(outputs_from(values), rows)

    return compute


def files(root: Path) -> dict[str, bytes]:
    """Every built file by name, but for the manifest, which holds times."""
    found = [f for f in root.rglob("*") if f.is_file() and f.suffix in (".npy", ".jsonl")]
    assert not any("partial" in str(f) for f in found)
    return {f.name: f.read_bytes() for f in found}


def test_rows_by_position(tmp_path: Path) -> None:
    values = logits(8.0)
    rows = torch.tensor([4999, 0, 4096, 17])
    found = opened(tmp_path, in_process(outputs_from(values))).rows("class", rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, values[rows].half().float())


def test_every_view_is_built_once_and_apart(tmp_path: Path) -> None:
    computed: list[int] = []
    for view in (0, 1, 0, 1, 0):
        opened(tmp_path, counted(logits(1.0, view), computed), view)
    assert len(computed) == 2 * CHUNKS
    everything = torch.arange(EXAMPLES)
    for view in (0, 1):
        found = opened(tmp_path, counted(logits(1.0), computed), view).rows("class", everything)
        assert torch.equal(found, logits(1.0, view).half().float())


def test_progress_counts_examples_up_to_all(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    opened(tmp_path, in_process(outputs_from(logits(1.0))), progress=progress)
    done = [seen[0] for seen in progress]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, EXAMPLES)
    assert {seen[1] for seen in progress} == {EXAMPLES}


@pytest.mark.parametrize(("scale", "bound"), [(8.0, 3e-6), (32.0, 5e-5)])
def test_half_precision_costs_next_to_nothing(tmp_path: Path, scale: float, bound: float) -> None:
    values = logits(scale)
    found = opened(tmp_path, in_process(outputs_from(values))).rows("class", torch.arange(EXAMPLES))
    exact, stored = F.log_softmax(values.double(), 1), F.log_softmax(found.double(), 1)
    gap = (exact.exp() * (exact - stored)).sum(1)
    assert gap.max() < bound


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = logits(1.0)
    values[7, 3] = float("nan")
    for _ in range(2):
        with pytest.raises(PdoError, match="not finite"):
            opened(tmp_path, in_process(outputs_from(values)))


def test_outputs_beyond_half_precision_are_cut_not_infinite(tmp_path: Path) -> None:
    values = logits(1.0)
    values[0, 0] = 1e6
    found = opened(tmp_path, in_process(outputs_from(values))).rows("class", torch.tensor([0]))
    assert torch.isfinite(found).all()
    assert found.argmax() == 0


def test_the_next_builder_goes_on_and_the_bits_are_the_same(tmp_path: Path) -> None:
    values = logits(4.0)
    opened(tmp_path / "whole", counted(values, []))
    computed: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cut", counted(values, computed, die_after=2))
    progress: list[tuple[int, int]] = []
    opened(tmp_path / "cut", counted(values, computed), progress=progress)
    assert sorted(computed) == [k * CHUNK for k in range(CHUNKS)]
    assert progress[0] == (2 * CHUNK, EXAMPLES)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_chunks_may_come_in_any_order(tmp_path: Path) -> None:
    values = logits(4.0)

    def backwards(plan: Plan, chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        yield from counted(values, [])(plan, list(reversed(chunks)))

    opened(tmp_path / "forwards", counted(values, []))
    opened(tmp_path / "backwards", backwards)
    assert files(tmp_path / "backwards") == files(tmp_path / "forwards")


@pytest.mark.parametrize("damage", ["flipped", "torn log", "short file", "no header"])
def test_a_damaged_chunk_is_computed_again_not_trusted(tmp_path: Path, damage: str) -> None:
    values = logits(4.0)
    opened(tmp_path / "whole", counted(values, []))
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cut", counted(values, [], die_after=3))
    stored = next((tmp_path / "cut").rglob("class.npy"))
    log = stored.with_name("chunks.jsonl")
    if damage == "flipped":
        content = bytearray(stored.read_bytes())
        content[128 + CHUNK * CLASSES * 2 + 5] ^= 1
        stored.write_bytes(content)
    elif damage == "torn log":
        log.write_text(log.read_text()[:-20])
    elif damage == "short file":
        stored.write_bytes(stored.read_bytes()[:1000])
    else:
        stored.write_bytes(b"x" * stored.stat().st_size)
    computed: list[int] = []
    opened(tmp_path / "cut", counted(values, computed))
    again = {"flipped": [CHUNK], "torn log": [2 * CHUNK]}.get(damage, [0, CHUNK, 2 * CHUNK])
    assert computed == [*again, *(k * CHUNK for k in range(3, CHUNKS))]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
import torch
from pdo_search.store import Store
from pdo_search.store.bank import bank, in_process
from tests.store.test_bank import CLASSES, EXAMPLES, logits
from pdo_search.store.encoding import StoredHead
from pdo_search.store.plan import Plan
values = logits(4.0)

def outputs(rows):
    for part in torch.split(rows, 512):
        time.sleep(float(sys.argv[2]))
        yield part, {"class": values[part]}

def progress(done, count):
    print(done, flush=True)

bank(Store(sys.argv[1]), Plan({"class": StoredHead(CLASSES)}, EXAMPLES, {}), teacher_key="t",
     task_fingerprint="f", split_name="train", view=0, compute=in_process(outputs),
     on_progress=progress)
"""


def test_a_killed_builder_loses_the_chunk_in_hand_and_no_more(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "0.15"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = 0
    while seen < 2 * CHUNK:
        seen = int(process.stdout.readline())
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    seen = max([seen, *(int(line) for line in process.stdout.read().split())])
    process.wait()

    values, computed = logits(4.0), []  # type: ignore[var-annotated]
    opened(tmp_path / "killed", counted(values, computed))
    assert 0 < len(computed) <= CHUNKS - 2
    assert computed[0] >= seen
    opened(tmp_path / "whole", counted(values, []))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
