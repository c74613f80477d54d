"""Pipes in a store, wherever a file or a folder should be: no command waits for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdo_search.base.errors import StoreError
from pdo_search.store import Store, artifacts
from pdo_search.store.artifacts import digest_of
from pdo_search.store.layout import Place, unfinished_name

from .conftest import Command

KEY = {"a": 1}
PLACE = Place("thing", digest_of("thing", KEY))
OTHER = Place("thing", digest_of("thing", {"a": 2}))
PARTIAL = str(Path(PLACE.name).with_name(unfinished_name(PLACE.digest, resumable=True)))
PLACES = {
    "a manifest": f"{PLACE.name}/manifest.json",
    "a file": f"{PLACE.name}/data",
    "an extra file": f"{PLACE.name}/extra",
    "a lock": f"{PLACE.name}.lock",
    "a note of use": f"{PLACE.name}.used",
    "a lease": f"{PLACE.name}.lease",
    "an artifact": PLACE.name,
    "unfinished work": PARTIAL,
    "a file of unfinished work": f"{PARTIAL}/label.npy",
    "what is damaged": ".damaged",
    "one that is damaged": f".damaged/thing.{PLACE.digest}.1",
    "a file of a damaged one": f".damaged/thing.{PLACE.digest}.1/data",
    "a kind": "kind",
    "a kind's part": "kind/ab",
}
DAMAGE = ("a manifest", "a file", "an extra file")


def build(folder: Path) -> None:
    (folder / "data").write_text("whole")


def store_with(case: str, root: Path) -> Store:
    """A store of two artifacts with a pipe in it."""
    store = Store(root)
    for key in (KEY, {"a": 2}):
        store.get_or_build("thing", key, build)
    pipe = root / PLACES[case]
    if pipe.is_dir():
        pipe.rename(root / "away")
    pipe.unlink(missing_ok=True)
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    artifacts._VERIFIED.clear()
    for place in (PLACE, OTHER):
        artifacts._USES.let_go(root / place.name)
    return store


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["path", "uri"])
@pytest.mark.parametrize("case", PLACES)
def test_housekeeping_waits_for_no_pipe(
    case: str, scheme: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDO_SEARCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "store"
    store_with(case, root)
    uri = f"{scheme}{root}"
    assert OTHER.digest[:8] in command("store", "ls", uri, code=0)
    # An object store's files are those that its manifest names, and without one there is nothing.
    damaged = case in (("a file",) if scheme else DAMAGE)
    told = command("store", "verify", uri, code=1 if damaged else 0)
    assert (PLACE.digest[:8] in told) == damaged
    command("store", "gc", uri, "--older-than", "0s", code=0)
    assert not (root / OTHER.name / "manifest.json").exists()


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("resumable", [False, True])
def test_a_builder_waits_for_no_pipe(case: str, resumable: bool, tmp_path: Path) -> None:
    """It builds anew what is damaged, or says what stands in its way."""
    store = store_with(case, tmp_path / "store")
    if case == "an artifact":
        with pytest.raises(StoreError, match=PLACE.digest):
            store.get_or_build("thing", KEY, build, resumable=resumable)
        return
    found = store.get_or_build("thing", KEY, build, resumable=resumable)
    assert found.built == (case in DAMAGE)
    assert (found.path / "data").read_text() == "whole"


@pytest.mark.parametrize("case", ["a lock", "what is damaged"])
def test_a_builder_says_what_stands_in_its_way(case: str, tmp_path: Path) -> None:
    store = store_with(case, tmp_path / "store")
    (store.root / PLACE.name / "data").write_text("torn")
    with pytest.raises(StoreError, match=r"is no regular file|Not a directory|File exists"):
        store.get_or_build("thing", KEY, build)
