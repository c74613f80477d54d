"""What others wrote is shown and not obeyed: no control characters, no markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import pdo_search
from pdo_search.base.errors import InputError
from pdo_search.base.safetext import printable
from pdo_search.base.screen import Screen
from pdo_search.records import TrialRow, TrialStatus
from pdo_search.search.progress import Progress

from ..conftest import TINY
from .conftest import Command
from .sweeps import trial, write_sweep

ESCAPES = "\x1b[2J\x1b]8;;http://evil\x07\x9b31m\u202e\x00"
HARMFUL = f"{ESCAPES}[red]x[/red][link=http://evil]y[/link][/nothing]:smile:"


def assert_harmless(told: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in told), told
    assert "\\x1b" in told
    assert "[red]x[/red][link=http://evil]y[/link][/nothing]:smile:" in told.replace("\n", "")


def test_everything_a_sweep_says_is_shown_as_it_is(command: Command, tmp_path: Path) -> None:
    failed = trial(2, status="failed", cause=HARMFUL)
    rows = (trial(0, trial_id=HARMFUL), trial(1), failed)
    sweep = write_sweep(tmp_path, *rows, name=HARMFUL)
    content = json.loads((sweep / "sweep.json").read_text())
    content["metric"] = HARMFUL
    content["resolved"]["teacher"]["arch"] = HARMFUL
    content["resolved"]["task"]["data"]["source"] = HARMFUL
    (sweep / "sweep.json").write_text(json.dumps(content))
    assert_harmless(command("show", str(sweep), code=0))
    assert "\x1b" not in command("show", str(sweep), "--json", code=0)


def test_parameters_and_their_names_are_shown_as_they_are(command: Command, tmp_path: Path) -> None:
    given: Any = {
        "student": {"arch": "small_convnet", "args": {HARMFUL: {"choice": [HARMFUL, "b"]}}}
    }
    name = f"param.student.args.{HARMFUL}"
    rows = (trial(0, **{name: HARMFUL}), trial(1, **{name: "b"}))
    sweep = write_sweep(tmp_path, *rows, given=given)
    assert_harmless(command("show", str(sweep), code=0))


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_of_a_sweep_is_shown_as_it_is(terminal: bool) -> None:
    shown = io.StringIO()
    screen: Console = Screen(
        file=shown, width=400, highlight=False, markup=False, emoji=False,
        force_terminal=terminal, color_system=None,
    )  # fmt: skip
    progress = Progress(screen, num_trials=2, metric=HARMFUL, mode="max")
    progress.started(HARMFUL, TrialRow(method=HARMFUL, point={"x": HARMFUL}))
    progress.reported(HARMFUL, {"epoch": 1, "stage": 1, "phase": HARMFUL})
    screen.print(progress._table())
    progress.ended(HARMFUL, TrialStatus.FAILED, HARMFUL)
    assert_harmless(shown.getvalue())


def test_an_experiment_is_checked_and_shown_as_it_is(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    for place in ("teacher", "task"):
        tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(TINY))
        if place == "teacher":
            tree["teacher"]["arch"] = HARMFUL
        else:
            tree["task"]["data"]["source"] = HARMFUL
        file.write_text(yaml.safe_dump(tree))
        told = command("check", str(file), code=2)
        assert "\x1b" not in told
        assert "[red]x[/red]" in told


def test_class_names_and_files_with_escapes_are_shown_as_they_are(
    command: Command, tmp_path: Path
) -> None:
    for name in (f"a{ESCAPES[:-1]}", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.png").write_bytes(b"no picture")
    file = tmp_path / "experiment.yaml"
    data = {"source": "image_folder", "path": "pictures"}
    file.write_text(yaml.safe_dump({**TINY, "task": {"data": data}}))
    told = command("check", str(file), code=2)
    assert "\x1b" not in told
    assert "a\\x1b[2J" in told


def test_a_root_with_brackets_is_no_markup(command: Command, tmp_path: Path) -> None:
    shown = io.StringIO()
    Screen(file=shown, width=100, markup=False).print(f"Tables: {tmp_path}/results[/x]")
    assert "results[/x]" in shown.getvalue()


def test_long_values_are_cut_and_endless_ones_named() -> None:
    assert len(str(InputError("is long", value="x" * 10_000))) < 400
    assert "a int too large to show" in str(InputError("is long", value=10**5000))


def test_ordinary_text_stays_what_it_is() -> None:
    text = "Größe 0.5 µs, 漢字\nnext line"
    assert printable(text) == text


def test_nothing_prints_but_through_the_screen() -> None:
    root = Path(pdo_search.__file__).parent
    assert "class Screen(Console):" in (root / "base/screen.py").read_text()
    makers = [p.name for p in root.rglob("*.py") if re.search(r"\bConsole\(", p.read_text())]
    assert makers == []
