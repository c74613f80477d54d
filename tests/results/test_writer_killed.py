"""A writer killed at any moment leaves whole tables, and a reader beside it sees nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from pdo_search.results.writer import TableWriter

WRITING = """
import sys, time
from pdo_search.results.writer import TableWriter
writer = TableWriter(sys.argv[1], {"temperature": "float64"})
writer.flush()
print("ready", flush=True)
for step in range(10**9):
    number, epoch = step % 100, step // 100 + 1
    identity = {"trial_id": f"t{number:04d}", "number": number}
    row = {**identity, "method": "progressive", "status": "running", "epochs_done": epoch}
    writer.upsert("trials", row)
    writer.upsert("epochs", {**identity, "epoch": epoch, "lr": float(epoch)})
    if step % 25 == 0:
        writer.flush()
"""


def check(sweep: Path) -> int:
    """Read both tables as a user would; the number of epochs there."""
    epochs = pd.read_parquet(sweep / "epochs")
    trials = pd.read_parquet(sweep / "trials")
    assert not epochs.duplicated(["number", "epoch"]).any()
    assert trials["number"].is_unique
    assert (epochs["lr"] == epochs["epoch"]).all()
    assert (epochs["trial_id"] == epochs["number"].map("t{:04d}".format)).all()
    return len(epochs)


def test_killed_while_it_flushes(tmp_path: Path) -> None:
    counts = []
    for delay in (0.2, 0.3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            end = time.monotonic() + delay
            while time.monotonic() < end:
                check(tmp_path)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        counts.append(check(tmp_path))
        writer = TableWriter(tmp_path)
        assert writer.damaged == []
        assert len(list(writer.rows("epochs"))) == counts[-1]
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert counts[1] >= counts[0] > 0
