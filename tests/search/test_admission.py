"""What is told and refused at the door: counts of trials, GPUs of older sweeps, the estimate."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdo_search.base.errors import InputError
from pdo_search.cli.main import run_command
from pdo_search.config.load import parse_experiment
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file, write_sweep_file
from pdo_search.search.admission import admit
from pdo_search.search.session import loaded_of
from pdo_search.search.sweep import planned_sweep, reopened_sweep

from ..conftest import TINY


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    """A sweep that was asked for six trials."""
    tree = {**copy.deepcopy(TINY), "output": {"root": str(tmp_path)}}
    loaded = parse_experiment(tree, file=tmp_path / "tiny.yaml", base_dir=tmp_path)
    info, directory = planned_sweep(loaded)
    write_sweep_file(directory, info)
    return directory


@pytest.mark.parametrize(("trials", "count"), [(None, 6), ("+2", 8), ("6", 6), ("9", 9)])
def test_a_sweep_can_be_extended(sweep: str, trials: str | None, count: int) -> None:
    assert reopened_sweep(sweep, trials=trials).num_trials == count


@pytest.mark.parametrize("trials", ["1", "5", "0", "-1", "+", "++2", "²", "many", "9" * 30])
def test_a_sweep_is_not_made_smaller(sweep: str, trials: str) -> None:
    with pytest.raises(InputError) as caught:
        reopened_sweep(sweep, trials=trials)
    assert caught.value.path == "--trials"
    assert "+50" in str(caught.value)


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_an_older_sweep_keeps_its_gpus(sweep: str, gpus: float) -> None:
    assert loaded_of(read_sweep_file(sweep)).experiment.resources.gpus == "auto"
    file = Path(sweep) / "sweep.json"
    content: dict[str, Any] = json.loads(file.read_text())
    content["resolved"]["resources"]["gpus"] = gpus
    file.write_text(json.dumps(content))
    assert loaded_of(read_sweep_file(sweep)).experiment.resources.gpus == gpus


def info_of(tmp_path: Path, **changes: Any) -> tuple[SweepInfo, str]:
    tree: dict[str, Any] = {**copy.deepcopy(TINY), "output": {"root": str(tmp_path)}}
    for section, values in changes.items():
        tree[section] = {**tree[section], **values}
    loaded = parse_experiment(tree, file=tmp_path / "tiny.yaml", base_dir=tmp_path)
    return planned_sweep(loaded)


def test_a_search_with_fewer_points_than_trials_says_so(tmp_path: Path) -> None:
    trial = {"temperature": 2.0, "optimizer": {"lr": 0.1}}
    _, notes = admit(*info_of(tmp_path, trial=trial), "local")
    assert notes == ["progressive: 3 of the 6 trials, as there are no more points to try"]
    _, notes = admit(*info_of(tmp_path), "local")
    assert notes == []


@pytest.mark.timeout(180)
def test_what_this_machine_lacks_a_cluster_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({**TINY, "resources": {"cpus": 4096}}))
    assert run_command(["check", "e.yaml"]) == 2
    assert "4096 CPUs" in capsys.readouterr().err
    assert run_command(["check", "e.yaml", "--address", "auto"]) == 0
    assert not (tmp_path / "results").exists()


@pytest.mark.timeout(180)
def test_the_estimate_counts_ladders_and_teacher_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def estimate(**trial: Any) -> Any:
        tree = {**TINY, "trial": {**TINY["trial"], "simplify": {"recovery_epochs": 2}, **trial}}
        (tmp_path / "e.yaml").write_text(yaml.safe_dump(tree))
        assert run_command(["check", "e.yaml", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["estimate"]

    plain = estimate()
    assert (plain["ladders"], plain["ladder_levels"]) == (1, 3), "three stages and a composite"
    epoch_s = plain["teacher_training_s"] / 2
    assert plain["ladder_s"] == pytest.approx(3 * (2 * 4 / 3 + 1 / 3) * epoch_s)
    assert plain["teacher_outputs_s"] > 0
    parts = ("teacher_training_s", "teacher_outputs_s", "ladder_s", "all_trials_one_slot_s")
    assert plain["total_one_slot_s"] == pytest.approx(sum(plain[name] for name in parts))
    many = estimate(prune_ratio={"float": [0.1, 0.3]}, composite=None)
    assert (many["ladders"], many["ladder_levels"]) == (6, 2)
    assert estimate(method="scratch", composite=None)["ladder_s"] == 0
