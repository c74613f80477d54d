"""Data of the shipped experiments: got once, whole or not at all, and every file's is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", EXPERIMENTS / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare"] = module
    spec.loader.exec_module(module)
    return module


def test_what_one_way_does_not_give_another_does_and_once(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(prepare, "DATA", tmp_path / "data")
    calls = []

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise prepare.NotToBeHad("no network")

    def works(folder: Path) -> None:
        calls.append(folder)
        assert not list(folder.iterdir())
        (folder / "whole").write_text("x" * 1_500_000)

    need = prepare.Need("thing", "whole", (fails, works), "copy it")
    assert prepare.prepare(need) is None
    assert "thing: 1.5 MB" in capsys.readouterr().out
    assert prepare.prepare(need) is None
    assert "is there" in capsys.readouterr().out
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thing"]


def test_what_is_not_to_be_had_says_why_and_leaves_nothing(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "DATA", tmp_path / "data")
    missing = prepare.from_debian("no-such-package", "usr/share/no-such-package")
    empty = prepare.Need("thing", "whole", (missing, lambda folder: None), "copy it")
    said = prepare.prepare(empty)
    assert "no-such-package" in said
    assert "the package has no whole" in said
    assert said.endswith("By hand: copy it")
    assert list((tmp_path / "data").iterdir()) == []


def test_every_folder_that_a_shipped_file_names_is_known(prepare: ModuleType) -> None:
    """And the file says how to get it."""
    for file in sorted(EXPERIMENTS.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        named = {part.split("/")[1] for part in _strings(yaml.safe_load(text))
                 if part.startswith("data/")}  # fmt: skip
        if not named:
            continue
        needs = {need.name for need in prepare.DOMAINS[file.stem]}
        assert named == needs, file
        assert f"experiments/prepare.py {file.stem}" in text, file


def _strings(tree: object) -> list[str]:
    if isinstance(tree, dict):
        return [found for value in tree.values() for found in _strings(value)]
    if isinstance(tree, list):
        return [found for value in tree for found in _strings(value)]
    return [tree] if isinstance(tree, str) else []
