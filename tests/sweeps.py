"""What tests ask of a sweep: that its tables are whole, and that nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import pdo_search
from pdo_search.results.schema import TABLES

from .conftest import Cluster

TIMINGS = ("_s", "_at", "_ms")
OF_THE_RUN = ("pid", "host", "end_index", "cached", "attempt")
"""Columns that tell of the machine, and of what befell it."""


def tables(sweep: Path | str) -> dict[str, pd.DataFrame]:
    opened = pdo_search.open_sweep(sweep)
    return {name: getattr(opened, name) for name in TABLES}


def assert_whole(sweep: Path | str, num_trials: int) -> None:
    """Every trial has ended, once, and no row stands twice."""
    found = tables(sweep)
    assert sorted(found["trials"]["number"]) == list(range(num_trials))
    assert set(found["trials"]["status"]) <= {"finished", "stopped"}
    for name, table in TABLES.items():
        assert not found[name].duplicated(list(table.key)).any(), name
    epochs = found["epochs"].groupby("number")["epoch"]
    for row in found["trials"].to_dict("records"):
        seen = sorted(epochs.get_group(row["number"]))
        assert seen == list(range(1, row["epochs_done"] + 1))


def same_numbers(first: Path | str, second: Path | str) -> None:
    """All columns but clock readings are equal, to the last bit; causes where nothing broke."""
    both = tables(first), tables(second)
    whole = ~(both[0]["trials"]["attempt"].gt(1) | both[1]["trials"]["attempt"].gt(1))
    for found in both:
        found["trials"]["cause"] = found["trials"]["cause"].where(whole)
    for name, one in both[0].items():
        two = both[1][name]
        kept = [c for c in one.columns if not c.endswith(TIMINGS) and c not in OF_THE_RUN]
        pd.testing.assert_frame_equal(one[kept], two[kept], check_exact=True)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read a command's output until a text appears."""
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} did not appear in:\n{seen}")


SERIAL: dict[str, Any] = {
    "resources": {"cpus": 1, "max_concurrent": 1},
    "trial": {
        "epochs": 6,
        "num_stages": {"int": [2, 4]},
        "temperature": {"float": [1.0, 8.0]},
        "optimizer": {"batch_size": 16},
        "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
        "composite": None,
    },
}


WHOLE_TRIALS: dict[str, Any] = {**SERIAL, "scheduler": {"kind": "none"}}
"""No trial ends early: each is there long enough to be struck."""

FREE = """
import time, ray
from ray.util.state import list_placement_groups
ray.init(address="auto", log_to_driver=False)
for _ in range(60):
    groups = [g for g in list_placement_groups() if g.state != "REMOVED"]
    there, free = ray.cluster_resources(), ray.available_resources()
    taken = {n: there[n] - free.get(n, 0) for n in ("CPU", "GPU") if n in there}
    if not any(taken.values()) and not groups:
        break
    time.sleep(0.5)
print(sum(taken.values()), len(groups))
"""


def assert_free(cluster: Cluster) -> None:
    """No CPU, GPU or placement group is held half a minute after a sweep."""
    command = [sys.executable, "-c", FREE]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0", "0"]
