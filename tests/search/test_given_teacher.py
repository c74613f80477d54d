"""A sweep compares its teacher with guessing, and refuses a given one that knows no better."""

from __future__ import annotations

import pytest
import torch

from pdo_search.config.model import ModelConfig

from ..conftest import Pdo
from ..pictures import build_model


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_given_teacher_that_guesses_is_refused_before_the_first_trial(pdo: Pdo) -> None:
    model = build_model(ModelConfig(arch="small_resnet", width=8), (1, 8, 8), 10, seed=0)
    torch.save(model.state_dict(), pdo.folder / "w.pth")
    given = {"weights": "w.pth", "train": None}
    options = ("--address", "auto", "--trials", "1")
    file = pdo.experiment(teacher=given)
    said = " ".join(pdo.run("run", str(file), *options, code=2).split())
    for part in ("no better than guessing: val_accuracy 0.", "chance 0.1000", "teacher.weights",
                 "teacher.force"):  # fmt: skip
        assert part in said
    assert "t0000" not in said
    # Nothing stands in the way of the corrected experiment.
    forced = pdo.experiment(teacher={**given, "force": True})
    said = " ".join(pdo.run("run", str(forced), *options).split())
    assert "Warning: the teacher is no better than guessing; nothing trains it here" in said
