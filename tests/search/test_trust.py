"""Whose sweep it is: one's own goes on, a stranger's asks."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdo_search.base.errors import InputError
from pdo_search.cli.main import run_command
from pdo_search.config import parse_experiment
from pdo_search.results.sweepfile import SweepInfo, write_sweep_file
from pdo_search.search.sweep import new_sweep
from pdo_search.search.trust import Ground, doubts_of, ground_of, outside_of, refuse_strangers

from ..conftest import TINY

OWN = Ground(
    owner=7, user=7, store="/r/.store", leads_to="/r/.store", beside=True, there=True, named=False
)


def sweep(folder: Path, store: str | None = None, **changes: Any) -> tuple[SweepInfo, str]:
    output = {"root": str(folder / "results"), **({} if store is None else {"store": store})}
    tree = {**TINY, "student": {"arch": "mine:net"}, "output": output, **changes}
    loaded = parse_experiment(tree, file=folder / "e.yaml", base_dir=folder)
    info, directory = new_sweep(loaded)
    write_sweep_file(directory, info)
    return info, directory


@pytest.mark.parametrize(
    ("changes", "doubts"),
    [
        ({}, []),
        ({"there": False}, []),
        ({"owner": 8}, ["belongs to another user (number 8)"]),
        ({"owner": 0}, ["belongs to another user (number 0)"]),
        ({"owner": None}, []),
        ({"owner": None, "beside": False, "there": False}, ["its store /r/.store is not there"]),
        ({"beside": False, "named": True}, []),
        ({"beside": False, "named": True, "there": False}, ["its store /r/.store is not there"]),
        (
            {"beside": False},
            ["its store /r/.store lies neither beside it nor where its experiment says"],
        ),
        (
            {"beside": False, "leads_to": "/home/me"},
            [
                "its store /r/.store, which is /home/me, lies neither beside it nor where its"
                " experiment says"
            ],
        ),
    ],
)
def test_what_makes_a_sweep_a_strangers(changes: dict[str, Any], doubts: list[str]) -> None:
    assert doubts_of(replace(OWN, **changes)) == doubts


def test_ones_own_sweep_goes_on_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, directory = sweep(tmp_path)
    refuse_strangers(directory, info, trust=False)
    monkeypatch.chdir(tmp_path)
    refuse_strangers("results/tiny", info, trust=False)
    refuse_strangers("results/tiny/", info, trust=False)
    # The folder of all results may be a link, and so may the sweep.
    (tmp_path / "results").rename(tmp_path / "far")
    (tmp_path / "results").symlink_to(tmp_path / "far")
    refuse_strangers(directory, info, trust=False)
    (tmp_path / "latest").symlink_to(directory)
    refuse_strangers(str(tmp_path / "latest"), info, trust=False)


def test_another_users_sweep_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, directory = sweep(tmp_path)
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(InputError, match=f"belongs to another user \\(number {owner}\\)") as caught:
        refuse_strangers(directory, info, trust=False)
    for part in ("mine:net", str(tmp_path), info.store, "--trust"):
        assert part in str(caught.value)
    assert "--base-dir" not in str(caught.value)
    with pytest.raises(InputError, match="--trust and --base-dir FOLDER"):
        refuse_strangers(directory, replace(info, base_dir=str(tmp_path / "gone")), trust=False)
    refuse_strangers(directory, info, trust=True)


def test_a_store_elsewhere_that_is_not_there_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stores").mkdir()
    info, directory = sweep(tmp_path, str(tmp_path / "stores"))
    refuse_strangers(directory, info, trust=False)
    (tmp_path / "stores").rmdir()
    for command in ("resume", "confirm"):
        assert run_command([command, directory]) == 2
        said = capsys.readouterr().err
        assert "is not there" in said
        assert "--trust" in said
    assert not (tmp_path / "stores").exists()


def test_a_store_that_the_experiment_does_not_name_asks(tmp_path: Path) -> None:
    info, directory = sweep(tmp_path)
    (tmp_path / "home").mkdir()
    for store in (
        str(tmp_path / "home"),
        f"{tmp_path}/results/../home",
        f"{tmp_path}/results",
        "home",
        "s3://bucket/store",
    ):
        with pytest.raises(InputError, match="--trust"):
            refuse_strangers(directory, replace(info, store=store), trust=False)


def test_a_store_of_the_experiments_own_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, store in enumerate(("shared/store", str(tmp_path / "shared"))):
        info, directory = sweep(tmp_path, store, name=f"n{number}")
        Path(store).mkdir(parents=True, exist_ok=True)
        refuse_strangers(directory, info, trust=False)
    remote = {**info.resolved, "output": {"root": "results", "store": "s3://bucket/store"}}
    refuse_strangers(
        directory, replace(info, resolved=remote, store="s3://bucket/store"), trust=False
    )
    info, directory = sweep(tmp_path, "../elsewhere", name="up")
    assert ground_of(directory, info).named


def test_a_sweep_that_was_carried_away(tmp_path: Path) -> None:
    """Its store stayed where its experiment says: in the folder that it came from."""
    info, directory = sweep(tmp_path)
    Path(info.store).mkdir()
    shutil.copytree(directory, tmp_path / "elsewhere" / "tiny")
    carried = str(tmp_path / "elsewhere" / "tiny")
    refuse_strangers(carried, info, trust=False)
    relative = {**info.resolved, "output": {"root": "results", "store": None}}
    with pytest.raises(InputError, match="lies neither beside it"):
        refuse_strangers(carried, replace(info, resolved=relative), trust=False)
    Path(info.store).rmdir()
    with pytest.raises(InputError, match="is not there"):
        refuse_strangers(carried, info, trust=False)


def test_a_store_beside_that_is_a_link_elsewhere_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, directory = sweep(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "results" / ".store").symlink_to(tmp_path / "home")
    assert run_command(["resume", directory]) == 2
    assert f".store, which is {tmp_path}/home, lies neither" in capsys.readouterr().err
    assert list((tmp_path / "home").iterdir()) == []


def test_a_sweep_on_an_object_store_has_no_owner(tmp_path: Path) -> None:
    info, _ = sweep(tmp_path)
    beside = replace(info, store="s3://bucket/results/.store")
    assert doubts_of(ground_of("s3://bucket/results/tiny", beside)) == []
    other = replace(info, store="s3://other/.store")
    assert len(doubts_of(ground_of("s3://bucket/results/tiny", other))) == 1
    up = replace(info, store="s3://bucket/results/../x")
    assert len(doubts_of(ground_of("s3://bucket/results/tiny", up))) == 1


def test_all_that_runs_is_said_in_lines_that_fit(tmp_path: Path) -> None:
    info, _ = sweep(tmp_path)
    student = {"arch": {"choice": ["mine:net", "theirs:net\x1b[2J\nGoing on runs no code"]}}
    many = [{"arch": f"module_{n}:function"} for n in range(9)]
    given = {**info.given, "student": student, "many": many}
    said = outside_of(replace(info, given=given, base_dir="/exp", store="/r/.store"))
    assert said.splitlines()[0].startswith("Going on runs mine:net, module_0:function, ")
    assert said.splitlines()[-2:] == ["from /exp", "Teachers are built and read in /r/.store"]
    assert "theirs:net\\x1b[2J\\nGoing" in said
    assert max(map(len, said.splitlines())) <= 80
    named = replace(info, given={}, resolved={}, store="/r/.store")
    assert outside_of(named) == (
        "Going on runs no code of yours\nTeachers are built and read in /r/.store"
    )
