"""A sweep that version 3 of the tables holds opens, its columns under the names of today.

The files are a real sweep of that version: four trials on digits, confirmed on one seed.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import pdo_search
from pdo_search.analysis.summary import sweep_summary
from pdo_search.results.schema import TABLES
from pdo_search.results.writer import TableWriter
from pdo_search.search.confirm import run_confirmation

OLD = Path(__file__).parent / "assets" / "version3"


def test_values_stand_under_the_names_of_today() -> None:
    sweep = pdo_search.open_sweep(OLD)
    assert sweep.info.schema_version == 3
    assert sweep.info.primary == "val_accuracy"
    best = sweep.best()
    assert best.name == "t0003"
    assert best.val_score == best.val_accuracy == pytest.approx(0.977695, abs=1e-6)
    assert best.teacher_score == pytest.approx(0.985130, abs=1e-6)
    assert best.examples_per_s > 0
    ladder = sweep.teachers[sweep.teachers["trial_id"] == "t0003"]
    assert ladder["level"].tolist() == [0, 1, 2, 3, 4]
    assert ladder["score_before"].notna().tolist() == [False, True, True, True, True]
    assert ladder["val_score"].iloc[4] == pytest.approx(0.970260, abs=1e-6)
    assert sweep.stages["teacher_level"].max() == 3
    assert sweep.epochs["train_quality"].between(0, 1).all()
    assert sweep.pareto()["trial_id"].tolist() == ["t0003"]
    assert sweep.leaderboard()["val_accuracy"].iloc[0] == best.val_accuracy
    old = {"images_per_s", "rung", "teacher_rung", "train_accuracy", "composite_accuracy"}
    for name in TABLES:
        assert not old & set(getattr(sweep, name).columns)


def test_its_summary_and_verdict_are_as_they_were() -> None:
    summary = sweep_summary(pdo_search.open_sweep(OLD))
    assert summary["teacher"]["val_accuracy"] == pytest.approx(0.985130, abs=1e-6)
    assert summary["best"]["against_teacher"]["val_accuracy"] == pytest.approx(0.9925, abs=1e-4)
    first, second = summary["confirmation"]["configurations"]
    assert first["test_primary"]["mean"] == pytest.approx(0.974930, abs=1e-6)
    assert second["composite"]["validation_primary"]["mean"] == pytest.approx(0.970260, abs=1e-6)
    (difference,) = summary["confirmation"]["differences"]
    assert "-2.51 points apart" in difference["verdict"]


def test_its_confirmation_has_the_columns_of_today() -> None:
    rows = pdo_search.open_sweep(OLD).confirmations
    assert rows["trial_id"].tolist() == ["t0002", "t0003"]
    assert rows["val_score"].tolist() == rows["val_accuracy"].tolist()
    assert rows["test_accuracy"].tolist() == pytest.approx([0.974930, 0.949861], abs=1e-6)
    assert rows["teacher_score"].tolist() == pytest.approx([0.985130] * 2, abs=1e-6)
    assert rows["composite_score"].iloc[1] == pytest.approx(0.970260, abs=1e-6)


def test_its_confirmation_is_gone_on_with(tmp_path: Path) -> None:
    """All of its runs are there: none is begun anew, and no Ray is started for it."""
    shutil.copytree(OLD, tmp_path / "old")
    said = io.StringIO()
    outcome = run_confirmation(
        str(tmp_path / "old"),
        seeds=1,
        address="local",
        console=Console(file=said, width=200),
        base_dir=str(tmp_path),
    )
    assert "0 of 2 runs to do" in said.getvalue()
    assert (outcome.counts, outcome.interrupted) == ({"finished": 2}, False)


def test_it_can_be_written_on(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    writer = TableWriter(tmp_path / "old", {})
    assert writer.damaged == []
    row = writer.get("trials", 3)
    assert row is not None
    writer.upsert("trials", {"number": 3, "cause": "looked at"})
    writer.flush()
    trials = pdo_search.open_sweep(tmp_path / "old").trials
    assert trials["cause"].iloc[3] == "looked at"
    assert trials["val_score"].iloc[3] == row["val_score"]
