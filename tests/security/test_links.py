"""Links in a stranger's sweep or store: nothing is written or deleted where they lead."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdo_search.base.errors import StoreError
from pdo_search.base.log import log_to_file
from pdo_search.results.sweepfile import read_sweep_file
from pdo_search.search.base_folder import keep_code
from pdo_search.search.lock import only_driver
from pdo_search.store import Store, artifacts
from pdo_search.store.artifacts import digest_of
from pdo_search.store.bank import bank as opened_bank
from pdo_search.store.bank import in_process
from pdo_search.store.encoding import StoredHead
from pdo_search.store.layout import Place, unfinished_name
from pdo_search.store.plan import Plan

from .conftest import Command
from .sweeps import write_sweep

KEY = {"a": 1}
PLACE = Place("thing", digest_of("thing", KEY))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user's own, in which nothing changes."""
    folder = tmp_path / "outside"
    for name in ("driver.log", "precious"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    yield folder
    assert contents(folder) == {str(folder / name): b"mine" for name in ("driver.log", "precious")}
    assert len(list(folder.iterdir())) == 2


@contextmanager
def driver(sweep: Path) -> Iterator[None]:
    """Hold a sweep and log into it, as a driver does."""
    with (
        only_driver(str(sweep), say=lambda line: None, lost=lambda line: None),
        log_to_file(str(sweep)),
    ):
        yield


def build(folder: Path) -> None:
    (folder / "data").write_text("whole")


@pytest.mark.parametrize("name", [".driver.lock", ".driver.json", "logs", "logs/driver.log"])
def test_a_driver_writes_into_no_link(name: str, outside: Path, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    link = sweep / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside if name == "logs" else outside / "driver.log")
    with pytest.raises(StoreError, match="links in it are not followed"), driver(sweep):
        pass


@pytest.mark.parametrize("name", [".driver.lock", ".driver.json", "logs/driver.log"])
def test_a_driver_waits_for_no_pipe(name: str, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    (sweep / name).parent.mkdir(exist_ok=True)
    os.mkfifo(sweep / name)
    with pytest.raises(StoreError, match="is no regular file"), driver(sweep):
        pass


def test_modules_are_kept_behind_no_link(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious.py").write_text("def net(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "precious", importlib.import_module("precious"))
    sweep = write_sweep(tmp_path)
    info = read_sweep_file(sweep)
    tree = {**info.resolved, "student": {"arch": "precious:net"}}
    (sweep / "code").symlink_to(outside)
    with pytest.raises(StoreError, match="links in it are not followed"):
        keep_code(str(sweep), replace(info, resolved=tree), anew=True)


@pytest.mark.parametrize("part", ["thing", "thing/ab"])
def test_a_link_on_the_way_to_an_artifact(part: str, outside: Path, tmp_path: Path) -> None:
    link = tmp_path / "store" / part.replace("ab", PLACE.digest[:2])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(StoreError, match="links in it are not followed"):
        Store(tmp_path / "store").get_or_build("thing", KEY, build)


def test_a_link_in_the_place_of_a_lock(outside: Path, tmp_path: Path) -> None:
    lock = tmp_path / "store" / f"{PLACE.name}.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(outside / "precious")
    with pytest.raises(StoreError, match="links in it are not followed"):
        Store(tmp_path / "store").get_or_build("thing", KEY, build)


def test_what_is_damaged_goes_into_no_link(outside: Path, tmp_path: Path, command: Command) -> None:
    store = Store(tmp_path / "store")
    path = store.get_or_build("thing", KEY, build).path
    (path / "data").write_text("torn")
    (tmp_path / "store" / ".damaged").symlink_to(outside)
    artifacts._VERIFIED.clear()
    with pytest.raises(StoreError, match="links in it are not followed"):
        store.get_or_build("thing", KEY, build)
    told = command("store", "verify", str(tmp_path / "store"), "--repair", code=1)
    assert "links in it are not followed" in told


@pytest.mark.parametrize("name", ["resumable", "own"])
def test_a_link_in_the_place_of_unfinished_work(name: str, outside: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    place = (store.root / PLACE.name).with_name(
        unfinished_name(PLACE.digest, resumable=name == "resumable")
    )
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    found = store.get_or_build("thing", KEY, build, resumable=name == "resumable")
    assert found.built
    assert contents(found.path)[str(found.path / "data")] == b"whole"


def bank(store: Store, on_progress: Callable[[int, int], None] | None = None) -> Path:
    opened_bank(
        store, Plan({"label": StoredHead(3)}, 5, {}), teacher_key="t", task_fingerprint="f",
        split_name="train", view=0, on_progress=on_progress,
        compute=in_process(lambda rows: [(rows, {"label": torch.ones(len(rows), 3)})]),
    )  # fmt: skip
    return next(p for p in store.root.glob("bank/*/*") if p.is_dir())


@pytest.mark.parametrize("file", ["label.npy", "label.new", "chunks.jsonl", "extra", "pipe"])
def test_a_link_in_the_partial_work_of_a_bank(file: str, outside: Path, tmp_path: Path) -> None:
    """It is begun anew: what lay there is removed, and what the link leads to stays."""
    store = Store(tmp_path / "store")
    whole = bank(store)
    saved = contents(whole)
    partial = whole.with_name(unfinished_name(whole.name, resumable=True))
    shutil.copytree(whole, partial)
    shutil.rmtree(whole)
    (partial / file).unlink(missing_ok=True)
    if file == "pipe":
        os.mkfifo(partial / file)
    else:
        (partial / file).symlink_to(outside / "precious")
    store = Store(tmp_path / "store")
    progress: list[int] = []
    again = bank(store, lambda done, _: progress.append(done))
    assert progress[0] == 0
    assert set(contents(again)) == set(saved)
    assert np.load(again / "label.npy").tolist() == [[1.0] * 3] * 5


def test_housekeeping_stays_in_its_store(tmp_path: Path, command: Command) -> None:
    """Of a store whose folders are links to another's, nothing is listed and nothing removed."""
    other = Store(tmp_path / "other")
    kept = other.get_or_build("thing", KEY, build).path
    (kept.with_name(unfinished_name("0" * 32, resumable=True))).mkdir()
    aside = other.root / ".damaged" / f"thing.{PLACE.digest}.1"
    aside.mkdir(parents=True)
    own = Store(tmp_path / "own")
    own.get_or_build("mine", KEY, build)
    (own.root / "thing").symlink_to(other.root / "thing")
    (own.root / ".damaged").symlink_to(other.root / ".damaged")
    before = sorted(other.root.rglob("*"))
    told = command("store", "gc", str(own.root), "--max-size", "1B", code=0)
    assert "mine" in told
    assert "thing" not in told
    assert not list(own.root.glob("mine/*/*/"))[1:]
    assert sorted(other.root.rglob("*")) == before
