"""The store: one builder, atomic publication, verification, an object store's mirror."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pdo_search.base import lease
from pdo_search.base.errors import StoreError
from pdo_search.store import Store, artifacts

from .conftest import put

BUILDER = """
import os, sys, time
from pathlib import Path
from pdo_search.store import Store

def build(folder):
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, b"x")
    (folder / "half").write_text("half")
    time.sleep(float(sys.argv[3]))
    (folder / "data").write_text("whole")

found = Store(sys.argv[1]).get_or_build("thing", {"a": 1}, build)
print((found.path / "data").read_text(), found.built)
"""


def builder(root: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root), str(log), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


pytestmark = pytest.mark.usefixtures("new_process")


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    processes = [builder(tmp_path / "store", tmp_path / "log", 0.5) for _ in range(3)]
    answers = sorted(p.communicate(timeout=30)[0].strip() for p in processes)
    assert answers == ["whole False", "whole False", "whole True"]
    assert (tmp_path / "log").read_text() == "x"


def test_a_killed_builder_is_taken_over(tmp_path: Path) -> None:
    first = builder(tmp_path / "store", tmp_path / "log", 60)
    deadline = time.monotonic() + 20
    while not list((tmp_path / "store").rglob("half")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = builder(tmp_path / "store", tmp_path / "log", 0)
    assert second.communicate(timeout=30)[0].strip() == "whole True"
    assert len(list((tmp_path / "store").rglob("half"))) == 1


def test_the_same_key_is_found_and_another_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store)
    assert first.built
    assert not put(store).built
    assert put(store, key=2).path != first.path


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "manifest"])
def test_a_damaged_artifact_is_set_aside_and_rebuilt(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = put(store, "good").path
    if how == "flipped":
        (path / "data").write_text("gold")
    elif how == "truncated":
        (path / "data").write_text("go")
    elif how == "missing":
        (path / "data").unlink()
    else:
        (path / "manifest.json").write_text("{")
    monkeypatch.setattr(artifacts, "_VERIFIED", set())
    again = put(store, "good")
    assert again.built
    assert (again.path / "data").read_text() == "good"
    assert len(list((tmp_path / ".damaged").iterdir())) == 1


def test_a_failing_builder_leaves_nothing_and_its_error_is_passed_on(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Store(tmp_path).get_or_build("thing", {"key": 1}, fail)
    assert not list(tmp_path.rglob("data"))
    assert put(Store(tmp_path)).built


RESUMED = """
import os, sys, time
from pathlib import Path
from pdo_search.store import Store

def build(folder):
    done = sorted(f.name for f in folder.iterdir())
    print("found", *done, flush=True)
    for chunk in "abc":
        if chunk not in done:
            (folder / chunk).write_text(chunk)
            print("wrote", chunk, flush=True)
            if chunk == sys.argv[2]:
                time.sleep(60)

found = Store(sys.argv[1]).get_or_build("thing", {"a": 1}, build, resumable=True)
print("done", *sorted(f.name for f in found.path.iterdir()))
"""


def test_a_killed_builder_is_gone_on_with(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RESUMED, str(tmp_path / "store")]
    first = subprocess.Popen([*command, "b"], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    said = [first.stdout.readline().split() for _ in range(3)]
    assert said == [["found"], ["wrote", "a"], ["wrote", "b"]]
    first.kill()
    first.communicate()
    second = subprocess.run([*command, ""], capture_output=True, text=True, timeout=30)
    assert second.stdout.splitlines() == ["found a b", "wrote c", "done a b c manifest.json"]
    assert not list((tmp_path / "store").rglob(".*.partial"))


def test_a_resumable_builder_that_raises_leaves_its_work_to_the_next(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_text("half")
        # As if it had been killed between the manifest and the rename.
        (folder / "manifest.json").write_text("{")
        raise ValueError("no")

    def go_on(folder: Path) -> None:
        assert [f.name for f in folder.iterdir()] == ["data"]
        (folder / "data").write_text((folder / "data").read_text() + " and half")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.get_or_build("thing", {"key": 1}, fail, resumable=True)
    found = store.get_or_build("thing", {"key": 1}, go_on, resumable=True)
    assert (found.path / "data").read_text() == "half and half"


def test_a_builder_that_cannot_go_on_gets_an_empty_directory(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "foreign").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Store(tmp_path).get_or_build("thing", {"key": 1}, fail, resumable=True)
    assert not (put(Store(tmp_path)).path / "foreign").exists()
    assert not list(tmp_path.rglob("foreign"))


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(StoreError, match="the disk is full; make space and resume"):
        Store(tmp_path).get_or_build("thing", {"key": 1}, full)


def test_an_object_store_serves_a_second_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    uri = f"file://{tmp_path}/bucket"
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / "first"))
    assert put(Store(uri)).built
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / "second"))
    fetched = put(Store(uri))
    assert not fetched.built
    assert (fetched.path / "data").read_text() == "content"
    assert (fetched.path / "inner" / "more").read_text() == "content"
    assert str(tmp_path / "second") in str(fetched.path)
    # Without its manifest, uploaded last, an artifact is not there.
    next((tmp_path / "bucket").rglob("manifest.json")).unlink()
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / "third"))
    assert put(Store(uri)).built


def test_a_really_full_disk_leaves_nothing_torn(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(StoreError, match="the disk is full; make space and resume"):
            put(Store(disk), "x" * 200_000)
        assert not [f for f in disk.rglob("*") if f.is_file() and f.suffix != ".lock"]
        assert put(Store(disk), "short").built
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_manifest_that_names_foreign_files_is_refused(
    tmp_path: Path, new_process: Callable[[], None]
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    store = Store(tmp_path / "store")
    path = put(store).path
    for name in ("../../../../outside", str(outside)):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"] = {name: hashlib.sha256(b"secret").hexdigest()}
        (path / "manifest.json").write_text(json.dumps(manifest))
        new_process()
        assert put(store).built
    assert outside.read_text() == "secret"


def test_last_use_is_recorded_at_most_once_a_minute(
    tmp_path: Path, new_process: Callable[[], None]
) -> None:
    store = Store(tmp_path)
    path = put(store).path
    os.utime(path, (1000, 1000))
    put(store)
    assert path.stat().st_mtime == 1000
    new_process()
    put(store)
    assert time.time() - path.stat().st_mtime < 60
