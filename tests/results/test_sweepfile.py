"""``sweep.json``: what it keeps, and where revisions come from."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pdo_search.base.errors import InputError
from pdo_search.results.sweepfile import read_sweep_file, write_sweep_file

from .conftest import sweep_info


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    info = sweep_info(given={"trial": {"temperature": {"float": [1.0, 8.0]}}})
    written = write_sweep_file(tmp_path, info)
    assert read_sweep_file(tmp_path) == written
    assert replace(written, revision=None, base_revision=None) == info
    assert {"python", "torch", "ray", "optuna", "pyarrow"} <= set(written.versions)
    assert json.loads((tmp_path / "sweep.json").read_text())["seeds"] == {"search": 3, "task": 0}


def test_extending_keeps_what_was_recorded_at_the_start(tmp_path: Path) -> None:
    write_sweep_file(tmp_path, sweep_info(created_at="2026-01-01T00:00:00+00:00", revision="abc"))
    write_sweep_file(tmp_path, replace(read_sweep_file(tmp_path), num_trials=50))
    info = read_sweep_file(tmp_path)
    assert (info.num_trials, info.created_at, info.revision) == (
        50,
        "2026-01-01T00:00:00+00:00",
        "abc",
    )


def test_the_experiments_revision_is_recorded_where_it_is_tracked(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    tracked, other = folder / "a.yaml", folder / "b.yaml"
    tracked.write_text("name: a")
    other.write_text("name: b")
    git(folder, "init", "-q")
    git(folder, "add", "a.yaml")
    git(folder, "commit", "-q", "--no-verify", "-m", "a")
    revision = git(folder, "rev-parse", "HEAD")
    write = write_sweep_file
    assert write(tmp_path / "1", sweep_info(file=str(tracked))).base_revision == revision
    tracked.write_text("name: changed")
    assert write(tmp_path / "2", sweep_info(file=str(tracked))).base_revision == f"{revision}-dirty"
    assert write(tmp_path / "3", sweep_info(file=str(other))).base_revision is None


def test_a_file_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    write_sweep_file(tmp_path, sweep_info())
    with (tmp_path / "sweep.json").open("r+b") as file:
        file.truncate(200 << 20)
    with pytest.raises(InputError, match=r"cannot be read: .* is larger than"):
        read_sweep_file(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[" * 500 + "]" * 500, "nested more than 100 levels deep"),
        ("[" * 100_000, "is damaged"),
        ("[" + "1," * 1_000_000 + "1]", "more than 250,000 values"),
    ],
    ids=["deep", "deeper", "wide"],
)
def test_an_experiment_without_bounds_is_refused_at_once(
    given: str, words: str, tmp_path: Path
) -> None:
    write_sweep_file(tmp_path, sweep_info())
    file = tmp_path / "sweep.json"
    content = json.loads(file.read_text())
    text = json.dumps({**content, "given": {"x": "HERE"}}).replace('"HERE"', given)
    file.write_text(text)
    started = time.monotonic()
    with pytest.raises(InputError, match=words):
        read_sweep_file(tmp_path)
    assert time.monotonic() - started < 2
