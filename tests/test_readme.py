"""README's worked example, executed as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pdo_search

from .conftest import Pdo

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The one code block of a language that contains a text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in b]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_your_own_model_and_data(pdo: Pdo) -> None:
    (pdo.folder / "my_project.py").write_text(block("python", "def pictures"))
    (pdo.folder / "my_experiment.yaml").write_text(block("yaml", "my_project:pictures"))
    assert "my_project:student" in pdo.run("check", "my_experiment.yaml")
    pdo.run("run", "my_experiment.yaml", "--address", "auto")
    done = subprocess.run(
        [sys.executable, "-c", block("python", "load_model")],
        cwd=pdo.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "('disc', 'diamond', 'square')" in done.stdout
    sweep = pdo_search.open_sweep(pdo.folder / "results" / "shapes")
    assert set(sweep.trials["status"]) <= {"finished", "stopped"}
    best = sweep.best()
    assert best.teacher_score > 0.9
    assert best.val_accuracy > 0.8
    assert best.params <= 2000
