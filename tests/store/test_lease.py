"""Several nodes and one object store: one builds, a dead one is taken over, damage is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pdo_search.base import lease
from pdo_search.base.storage import Storage
from pdo_search.store import Store

from .conftest import put

NODE = """
import os, sys, time
from pdo_search.base import lease
from pdo_search.store import Store
lease.SETTLE_S, lease.POLL_S, lease.HEARTBEAT_S, lease.STALE_S = 0.5, 0.2, 0.3, 1.5

def build(folder):
    print("building", flush=True)
    (folder / "data").write_text("whole")
    time.sleep(float(sys.argv[2]))

found = Store(sys.argv[1]).get_or_build("thing", {"a": 1}, build)
print((found.path / "data").read_text(), found.built)
"""


def node(root: str, cache: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", NODE, root, str(seconds)],
        env={**os.environ, "PDO_SEARCH_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_several_nodes_one_builds(bucket: str, tmp_path: Path) -> None:
    # Longer than a lease is believed without renewal.
    nodes = [node(f"{bucket}/together", tmp_path / str(i), 2.5) for i in range(3)]
    said = [n.communicate(timeout=40)[0].split() for n in nodes]
    assert sorted(s[-1] for s in said) == ["False", "False", "True"]
    assert sum(s.count("building") for s in said) == 1
    assert not [n for n in Storage(f"{bucket}/together").objects() if n.endswith(".lease")]


def test_a_node_that_died_is_taken_over(bucket: str, tmp_path: Path) -> None:
    first = node(f"{bucket}/killed", tmp_path / "first", 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    first.kill()
    first.communicate()
    second = node(f"{bucket}/killed", tmp_path / "second", 0)
    assert second.communicate(timeout=30)[0].split() == ["building", "whole", "True"]


@pytest.mark.parametrize("how", ["flipped", "removed", "half uploaded", "hostile"])
def test_what_is_damaged_on_the_object_store_is_replaced_there(
    how: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Callable[[], None],
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    root = f"{bucket}/{how.replace(' ', '-')}"

    def on(machine: str) -> tuple[bool, str]:
        new_process()
        monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / machine))
        found = put(Store(root), "good")
        return found.built, (found.path / "data").read_text()

    assert on("first") == (True, "good")
    mirror = Storage(root)
    data = next(n for n in mirror.objects() if n.endswith("/data"))
    manifest = data.replace("/data", "/manifest.json")
    if how == "flipped":
        mirror.write(data, b"gold")
    elif how == "removed":
        mirror.delete(data)
    elif how == "hostile":
        content = mirror.read(manifest)
        assert content is not None
        mirror.write(manifest, content.replace(b'"data"', b'"../../../../escaped"'))
    else:
        mirror.delete(manifest)
        # The builder's own machine has it whole, and finishes the upload.
        assert on("first") == (False, "good")
    assert on("second") == (how != "half uploaded", "good")
    assert on("third") == (False, "good")
    assert not list(tmp_path.rglob("escaped"))


def test_a_silent_holder_is_believed_for_a_while_and_then_no_longer(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 0.3)
    mirror = Storage(f"{bucket}/silent")
    assert lease.Lease(mirror, "a.lease", "a").take(settle_s=0)
    second = lease.Lease(mirror, "a.lease", "a")
    assert not second.take(settle_s=0)
    time.sleep(0.4)
    assert second.take(settle_s=0)
