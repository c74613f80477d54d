"""Whose sweep it is: one's own goes on, a stranger's asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdo_search.cli import run_command
from pdo_search.config import parse_experiment
from pdo_search.errors import InputError
from pdo_search.results.sweepfile import SweepInfo, write_sweep_file
from pdo_search.search.sweep import new_sweep
from pdo_search.search.trust import outside_of, refuse_strangers

from ..conftest import TINY


def sweep(folder: Path, store: str | None = None) -> tuple[SweepInfo, str]:
    output = {"root": str(folder / "results"), **({} if store is None else {"store": store})}
    tree = {**TINY, "student": {"arch": "mine:net"}, "output": output}
    loaded = parse_experiment(tree, file=folder / "e.yaml", base_dir=folder)
    info, directory = new_sweep(loaded)
    write_sweep_file(directory, info)
    return info, directory


def test_ones_own_sweep_goes_on_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, directory = sweep(tmp_path)
    refuse_strangers(directory, info, trust=False)
    monkeypatch.chdir(tmp_path)
    refuse_strangers("results/tiny", info, trust=False)
    refuse_strangers("results/tiny/", info, trust=False)
    assert outside_of(info).startswith(f"Going on runs mine:net of {tmp_path}; ")


def test_another_users_sweep_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, directory = sweep(tmp_path)
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(InputError, match=f"belongs to another user \\(number {owner}\\)") as caught:
        refuse_strangers(directory, info, trust=False)
    for part in ("mine:net", str(tmp_path), info.store, "--trust"):
        assert part in str(caught.value)
    refuse_strangers(directory, info, trust=True)


def test_a_store_elsewhere_that_is_not_there_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stores").mkdir()
    info, directory = sweep(tmp_path, str(tmp_path / "stores"))
    refuse_strangers(directory, info, trust=False)
    (tmp_path / "stores").rmdir()
    assert run_command(["resume", directory]) == 2
    said = capsys.readouterr().err
    assert "is not there" in said
    assert "--trust" in said
    assert not (tmp_path / "stores").exists()
