"""How much of the store teachers' outputs take, and that a sweep for which it is too much starts
nowhere: with the remedies that are named it does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdo_search.base.errors import InputError
from pdo_search.base.sizes import bytes_of, shown_bytes
from pdo_search.cli.check import preflight
from pdo_search.cli.main import run_command
from pdo_search.cli.stored import stored_outputs
from pdo_search.config import load_experiment, parse_experiment
from pdo_search.store import Store
from pdo_search.tasks import cached_task
from pdo_search.tasks.base import Split

from ..conftest import TINY

TRIAL = {**TINY["trial"], "num_stages": 2, "epochs": 9, "num_views": 4}
TREE = {**TINY, "task": {**TINY["task"], "augment": {"crop": 1}}, "trial": TRIAL}
SEARCHED = (Split.TRAIN, Split.TRANSFER, Split.VALIDATION)
ROW = 20
"""Bytes of an example: ten classes in half precision."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return path


def checked(file: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> Any:
    options = [word for setting in settings for word in ("--set", setting)]
    assert run_command(["check", str(file), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("settings", "views", "teachers", "trains"),
    [
        # Stages of four epochs, from the second epoch on: each level on all four views.
        ([], 8, 2, 0),
        (["trial.num_views=3"], 6, 2, 0),
        (["trial.num_views=64"], 8, 2, 0),
        (["trial.num_stages={int: [1, 8]}"], 8, 8, 0),
        (["task.augment.crop=0"], 2, 2, 0),
        (["trial.prune_ratio=0.0"], 4, 1, 0),
        (["trial.teacher_outputs=online"], 0, 1, 0),
        (["trial.teacher_outputs=online", "trial.curriculum.start=0.5"], 1, 1, 0),
        (["trial.composite.finetune_epochs=1"], 8, 2, 1),
    ],
    ids=str,
)
def test_bytes_are_those_of_what_a_trial_asks_for(
    settings: list[str],
    views: int,
    teachers: int,
    trains: int,
    file: Path,
) -> None:
    loaded = load_experiment(file, settings)
    task = cached_task(loaded.experiment.task, loaded.base_dir)
    stored = stored_outputs(loaded, task)
    train, transfer, validation = (len(task.examples(split)) for split in SEARCHED)
    pool = train + transfer
    assert stored.bytes_per_view == ROW * pool
    assert stored.teachers == teachers
    composite = transfer + validation + trains * train
    assert stored.bytes_per_trial == ROW * (views * pool + validation + composite)


def test_above_the_limit_check_and_run_refuse_and_every_remedy_helps(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checked(file, capsys)["stored_outputs"]["bytes_per_trial"]
    assert checked(file, capsys, f"output.max_bank={whole}")["stored_outputs"]["max_bank"] == whole
    assert run_command(["check", str(file), "--set", f"output.max_bank={whole - 1}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"output.max_bank: teachers' outputs take up to {shown_bytes(whole)}" in said
    with pytest.raises(InputError) as refused:
        preflight(load_experiment(file, [f"output.max_bank={whole - 1}"]))
    assert refused.value.remedy is not None
    remedies = refused.value.remedy.removeprefix("set ").split("; or ")
    assert [remedy.partition(":")[0] for remedy in remedies] == [
        "trial.num_views", "trial.teacher_outputs", "output.max_bank",
    ]  # fmt: skip
    for remedy in remedies:
        setting = re.sub(",.*", "", remedy).replace(": ", "=")
        checked(file, capsys, f"output.max_bank={whole - 1}", setting)


def test_a_remedy_that_would_not_help_is_not_named(file: Path) -> None:
    with pytest.raises(InputError) as refused:
        preflight(load_experiment(file, ["output.max_bank=1KB", "trial.num_views={int: [1, 4]}"]))
    assert refused.value.remedy == "set output.max_bank: 1MB, if there is room for them"
    with pytest.raises(InputError, match=r"trial.num_views: \{int: \[1, 3\]\}"):
        preflight(load_experiment(file, ["output.max_bank=120KB", "trial.num_views={int: [1, 4]}"]))


def test_by_default_a_quarter_of_the_free_disk_may_be_taken_what_is_kept_counted_as_free(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checked(file, capsys)["stored_outputs"]["bytes_per_trial"]
    usage = shutil.disk_usage(file)
    free = 4 * whole - 4000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    store = Store("results/.store")
    for kind in ("teacher", "bank"):
        with pytest.raises(InputError, match="a quarter of what is free"):
            preflight(load_experiment(file))
        store.get_or_build(kind, {"a": 1}, five_kilobytes)
    preflight(load_experiment(file))


def five_kilobytes(folder: Path) -> None:
    (folder / "outputs").write_bytes(bytes(5000))


def test_sizes_are_read_and_shown() -> None:
    read = [bytes_of(text) for text in ("7", "7b", "1.5 kB", "2KiB", "20GB")]
    assert read == [7, 7, 1500, 2048, 20 * 10**9]
    assert [shown_bytes(n) for n in (7, 1500, 20 * 10**9)] == ["7 B", "1.5 KB", "20 GB"]
    with pytest.raises(InputError, match=r"output.max_bank: is no size: write 500MB"):
        parse_experiment(
            {**TREE, "output": {"max_bank": "much"}}, file=Path("tiny.yaml"), base_dir=Path()
        )
