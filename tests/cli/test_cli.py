"""The command line's answers, in this process and without a cluster."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdo_search.cli.check import preflight
from pdo_search.cli.main import run_command
from pdo_search.config import load_experiment

from ..conftest import TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_command([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    said = capsys.readouterr().out
    for command in ("run", "resume", "check", "show", "schema", "doctor"):
        assert command in said


def test_check_says_what_there_is(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "check", str(tiny))
    assert found["task"]["classes"] == 10
    assert sum(found["task"]["splits"].values()) < 1200
    assert found["teacher"]["params"] > 20 * found["students"][0]["params"]
    assert set(found["dimensions"]) == {"num_stages", "temperature", "optimizer.lr"}
    assert found["estimate"]["trial_s"] > 0
    assert not (tiny.parent / "results").exists()


def test_check_prints_the_same_for_people(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny)]) == 0
    said = capsys.readouterr().out
    assert "small_resnet" in said
    assert "validation" in said


def test_check_counts_labels(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [str(tiny), "--set", "task.splits.labels=20"]
    plain, found = answer(capsys, "check", str(tiny)), answer(capsys, "check", *few)
    assert plain["task"]["labelled"] == plain["task"]["splits"]
    assert found["task"]["labelled"]["train"] == found["task"]["splits"]["train"] == 20
    assert found["task"]["labelled"]["transfer"] == 0
    assert found["task"]["epoch_examples"] == plain["task"]["splits"]["train"]
    rates = [
        f["estimate"]["trial_s"] * f["estimate"]["student_examples_per_s"] for f in (plain, found)
    ]
    assert rates[0] == pytest.approx(rates[1]), "an epoch is as long"
    assert run_command(["check", *few]) == 0
    said = " ".join(capsys.readouterr().out.split())
    transfer, validation = (found["task"]["splits"][s] for s in ("transfer", "validation"))
    for line in (
        "train 20: 10 classes, from 2 (0) to 2 (0)",
        f"transfer {transfer:,}: unlabelled {transfer:,}",
        f"validation {validation}: 10 classes,",
    ):
        assert line in said


def test_what_was_left_out_of_the_splits_is_told(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--set", "task.transfer_data={source: digits, labelled: false}"]
    dropped = answer(capsys, "check", str(tiny), *again)["task"]["dropped"]
    assert set(dropped) == {"transfer"}
    assert sum(dropped["transfer"].values()) == pytest.approx(1200, abs=10)
    line = f"Left out, as copies: {dropped['transfer']['test']} of transfer that are in test, "
    assert run_command(["check", str(tiny), *again]) == 0
    assert line in capsys.readouterr().out
    preflight(load_experiment(tiny, again[1:]))
    assert line in capsys.readouterr().out
    assert answer(capsys, "check", str(tiny))["task"]["dropped"] == {}
    preflight(load_experiment(tiny))
    assert "Left out" not in capsys.readouterr().out


def test_values_can_be_set(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "check", str(tiny), "--set", "student.width=8", "--set", "search.num_trials=3"
    )
    plain = answer(capsys, "check", str(tiny))
    assert found["num_trials"] == 3
    assert found["students"][0]["params"] > plain["students"][0]["params"]


def test_schema_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) >= {*TINY, "limits", "resources", "output"}


def test_doctor_says_what_this_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    found = {finding["what"]: finding for finding in answer(capsys, "doctor")["findings"]}
    assert found["python"]["found"] == platform.python_version()
    assert found["torch"]["found"] == version("torch")


def test_a_command_that_does_not_exist_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["dance"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_limit_below_every_student_is_told(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = (
        answer(capsys, "check", str(tiny), "--set", f"limits.params={n}") for n in (10, 10**9)
    )
    assert [n for n in high["notes"] if "over limits" in n] == []
    (said,) = [n for n in low["notes"] if "over limits.params 10: the smallest has" in n]
    assert f"{min(s['params'] for s in low['students']):,}" in said
