"""A disk that fills up: the sweep says so and ends, nothing is torn, and resume goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pdo_search
from pdo_search.base.errors import StoreError

from ..conftest import Cluster, Pdo
from ..store.test_bank import EXAMPLES, counted, files, logits, opened
from ..sweeps import WHOLE_TRIALS, assert_free, assert_whole, same_numbers, tables

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes."""
    filler = disk / "filler"
    with filler.open("wb") as stream:
        while True:
            free = int(subprocess.check_output(["stat", "-f", "-c", "%a", str(disk)])) * 4096
            if free <= leave:
                return filler
            stream.write(b"x" * min(free - leave, 1 << 16))
            stream.flush()


def test_a_bank_on_a_full_disk_keeps_its_chunks(disk: Path, tmp_path: Path) -> None:
    values = logits(4.0)
    filler = fill(disk, leave=60_000)
    computed: list[int] = []
    with pytest.raises(StoreError, match="the disk is full; make space and resume"):
        opened(disk / "store", counted(values, computed))
    filler.unlink()
    before = len(computed)
    opened(disk / "store", counted(values, computed))
    opened(tmp_path / "whole", counted(values, []))
    assert files(disk / "store") == files(tmp_path / "whole")
    # The chunk that found no place is computed again, and no other.
    assert len(computed) - len(set(computed)) == (1 if before else 0)
    assert before >= 1, f"{EXAMPLES} examples fit nowhere"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(200)
@pytest.mark.parametrize("fills", ["sweep", "store"])
def test_a_sweep_on_a_full_disk_ends_and_goes_on_with_space(
    pdo: Pdo, ray_cluster: Cluster, disk: Path, fills: str
) -> None:
    places = {"root": "results", "store": "store", fills: str(disk / fills)}
    if fills == "sweep":
        places["root"] = places.pop("sweep")
    output: dict[str, Any] = {"store": places["store"], "root": places["root"]}
    file = pdo.experiment(**WHOLE_TRIALS, output=output)
    process = pdo.start("run", str(file), "--address", "auto", "--name", "full")
    sweep = pdo.folder / places["root"] / "full"
    while not (sweep / "trials" / "part-00000.parquet").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    filler = fill(disk, leave=0)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert "make space and resume" in said
    assert "Traceback" not in said
    assert set(tables(sweep)["trials"]["status"]) <= {
        "running",
        "interrupted",
        "finished",
        "stopped",
    }
    filler.unlink()
    pdo.run("resume", str(sweep), "--address", "auto")
    assert_whole(sweep, 6)
    pdo.run("run", str(file), "--address", "auto", "--name", "whole", "--set", "output.root=whole")
    same_numbers(pdo.folder / "whole" / "whole", sweep)
    assert pdo_search.open_sweep(sweep).best().name
    assert_free(ray_cluster)
