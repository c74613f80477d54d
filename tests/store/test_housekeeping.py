"""The store commands on a disk and on S3: the same tests for both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pdo_search.base import lease
from pdo_search.base.storage import Storage
from pdo_search.cli.main import run_command
from pdo_search.store import Artifact, Store
from pdo_search.store.housekeeping import Criteria, expendable
from pdo_search.store.layout import Place
from pdo_search.store.shelf import Entry

from .conftest import put

DAY = 86400.0


@dataclass
class Ground:
    """A store, and a way to change what lies in it behind its back."""

    root: str
    new_process: Callable[[], None]

    @property
    def store(self) -> Store:
        return Store(self.root)

    def overwrite(self, artifact: Artifact, file: str, data: bytes) -> None:
        name = artifact.path.relative_to(self.store.root).as_posix()
        Storage(_uri(self.root)).write(f"{name}/{file}", data)

    def names(self) -> list[str]:
        return list(Storage(_uri(self.root)).objects())


def _uri(root: str) -> str:
    return root if "://" in root else f"file://{root}"


@pytest.fixture(params=["disk", "s3"])
def ground(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Callable[[], None],
) -> Ground:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        return Ground(str(tmp_path / "results" / ".store"), new_process)
    bucket = request.getfixturevalue("bucket")
    return Ground(f"{bucket}/{tmp_path.name}/.store", new_process)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert run_command(["store", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_ls_says_what_there_is(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = put(ground.store, "12345")
    put(ground.store, key=2, kind="other")
    found = answer(capsys, "ls", ground.root)
    thing = next(e for e in found["entries"] if e["kind"] == "thing")
    assert thing["digest"] == artifact.digest
    assert thing["what"] == "key 1"
    assert thing["bytes"] == 10 + (artifact.path / "manifest.json").stat().st_size
    assert json.loads((artifact.path / "manifest.json").read_text())["bytes"] == 10
    assert time.time() - thing["used_at"] < 60
    assert {kind: total["count"] for kind, total in found["totals"].items()} == {
        "thing": 1,
        "other": 1,
    }
    parent = ground.root.removesuffix("/.store")
    assert answer(capsys, "ls", parent)["totals"] == found["totals"]


@pytest.mark.parametrize(
    ("file", "data"), [("data", b"gold"), ("data", b"go"), ("manifest.json", b"{")]
)
def test_verify_finds_damage_and_repair_leads_to_a_rebuild(
    ground: Ground, file: str, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(ground.store, "whole", key=2)
    assert answer(capsys, "verify", ground.root)["damaged"] == []
    artifact = put(ground.store, "good")
    ground.overwrite(artifact, file, data)
    (damaged,) = answer(capsys, "verify", ground.root, code=1)["damaged"]
    assert (damaged["digest"], damaged["file"]) == (artifact.digest, file)
    assert not damaged["set_aside"]
    (damaged,) = answer(capsys, "verify", ground.root, "--repair", code=1)["damaged"]
    assert damaged["set_aside"]
    assert answer(capsys, "verify", ground.root)["checked"] == 1
    ground.new_process()
    assert (put(ground.store, "good").path / "data").read_text() == "good"
    found = answer(capsys, "verify", ground.root)
    assert (found["checked"], found["damaged"]) == (2, [])


@pytest.mark.parametrize("name", ["../../../victim", "/etc/hostname"])
def test_a_hostile_manifest_makes_nobody_read_or_delete_elsewhere(
    ground: Ground, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = put(ground.store)
    Storage(_uri(ground.root)).write("victim", b"victim")
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    manifest["files"] = {name: "0" * 64}
    ground.overwrite(artifact, "manifest.json", json.dumps(manifest).encode())
    (damaged,) = answer(capsys, "verify", ground.root, code=1)["damaged"]
    assert damaged["file"] == "manifest.json"
    ground.new_process()
    answer(capsys, "gc", ground.root, "--max-size", "0B")
    assert [n for n in ground.names() if not n.endswith(".lock")] == ["victim"]


def test_gc_removes_those_used_longest_ago(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = [put(ground.store, "x" * 1000, key=key) for key in range(3)]
    size = answer(capsys, "ls", ground.root)["entries"][0]["bytes"]
    kept = answer(capsys, "gc", ground.root, "--max-size", "1B")
    assert (kept["removed"], len(kept["in_use"])) == ([], 3)
    ground.new_process()
    dry = answer(capsys, "gc", ground.root, "--max-size", f"{2 * size + size // 2}B", "--dry-run")
    assert len(dry["removed"]) == 1
    assert len(answer(capsys, "ls", ground.root)["entries"]) == 3
    done = answer(capsys, "gc", ground.root, "--max-size", f"{2 * size + size // 2}B")
    assert [e["digest"] for e in done["removed"]] == [e["digest"] for e in dry["removed"]]
    assert done["bytes"] == done["removed"][0]["bytes"]
    assert len(answer(capsys, "ls", ground.root)["entries"]) == 2
    gone = next(a for a in artifacts if a.digest == done["removed"][0]["digest"])
    assert not gone.path.exists()
    assert answer(capsys, "gc", ground.root, "--older-than", "1d")["removed"] == []
    assert len(answer(capsys, "gc", ground.root, "--kind", "thing")["removed"]) == 0


def test_gc_removes_left_overs_and_partial_work_only_by_age(
    tmp_path: Path, new_process: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(Store(tmp_path)).path
    dead, partial = (path.parent / f".{path.name}.{owner}" for owner in ("host-1", "partial"))
    foreign = tmp_path / "thing" / "ab" / ".git"
    for folder in (dead, partial, foreign):
        folder.mkdir(parents=True)
        (folder / "half").write_text("half")
        os.utime(folder / "half", (1000, 1000))
        os.utime(folder, (1000, 1000))
    (removed,) = answer(capsys, "gc", str(tmp_path))["removed"]
    assert (removed["path"], removed["bytes"]) == (str(dead), 4)
    (removed,) = answer(capsys, "gc", str(tmp_path), "--older-than", "7d")["removed"]
    assert removed["path"] == str(partial)
    assert [foreign.exists(), dead.exists(), partial.exists()] == [True, False, False]
    assert path.exists()


def entry(name: str, size: int, used_at: float) -> Entry:
    return Entry(Place("thing", name * 32), name, size, 0.0, used_at, name)


@pytest.mark.parametrize(
    ("criteria", "busy", "expected"),
    [
        (Criteria(), "", ""),
        (Criteria(older_than_s=5 * DAY), "", "ab"),
        (Criteria(max_bytes=25), "", "a"),
        (Criteria(max_bytes=25), "a", "b"),
        (Criteria(older_than_s=8 * DAY, max_bytes=10), "", "ab"),
        (Criteria(max_bytes=0, kind="other"), "", ""),
    ],
)
def test_what_may_go(criteria: Criteria, busy: str, expected: str) -> None:
    entries = [entry("c", 10, 9 * DAY), entry("a", 10, 1 * DAY), entry("b", 10, 3 * DAY)]
    names = frozenset(Place("thing", b * 32).name for b in busy)
    due = expendable(entries, criteria, now=10 * DAY, busy=names)
    assert "".join(e.path for e in due) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls", "nowhere"], "no folder"),
        (["ls", "."], "holds no artifact store"),
        (["gc", ".store", "--older-than", "soon"], "write 12h, 7d or 2w"),
        (["gc", ".store", "--max-size", "10XB"], "write 500MB or 10GB"),
        (["gc", ".store", "--kind", "banks"], "bank, level, rung, teacher"),
    ],
)
def test_bad_input(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / ".store").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    if arguments[1] == ".":
        (tmp_path / ".store").rmdir()
    assert run_command(["store", *arguments]) == 2
    assert said in capsys.readouterr().err
