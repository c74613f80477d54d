"""A given teacher is run as it was trained, measured, and refused where it knows nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.cli.before import print_check
from pdo_search.cli.check import check_experiment, preflight
from pdo_search.config import Loaded, parse_experiment, resolve
from pdo_search.config.model import ModelConfig
from pdo_search.config.training import TrainConfig
from pdo_search.distill.chance import Standing, refuse_guessing, standing, warning_of
from pdo_search.distill.context import Context
from pdo_search.distill.feed import Feed
from pdo_search.distill.fit import fit
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.losses import label_mean
from pdo_search.distill.norms import Calibration, refresh_statistics
from pdo_search.distill.teacher import trained_teacher
from pdo_search.models.modelfile import load_for, load_inference
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Batch, Split, Task
from pdo_search.tasks.inputs import PictureInputs
from pdo_search.trial.worker import build_student

from ..pictures import as_input, build_model, classes, pixels

CPU = torch.device("cpu")
BYTES = {"mean": [0.0], "std": [1.0]}


def faint() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Digits without contrast: run on their own mean and deviation, a model of plain x/255 sees
    twenty times what it was trained on."""
    digits = load_digits()
    return np.rint(digits.images * 0.8 + 120).astype(np.uint8)[:, None], digits.target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of somebody else: trained on x/255; the same with its classes in another order;
    and one that was never trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    task = build_task(loaded(folder).experiment.task)
    model = build_model(ModelConfig(arch="small_resnet", width=8), (1, 8, 8), 10, seed=0)
    torch.save(model.state_dict(), folder / "untrained.pth")
    feed = Feed(task.examples(Split.TRAIN), CPU)
    settings = TrainConfig(epochs=6, batch_size=32)
    fit(
        AsBytes(task), model, feed,
        lambda outputs, batch, _: label_mean(task, outputs, batch),
        settings, epochs=settings.epochs, seed=0,
    )  # fmt: skip
    torch.save(model.state_dict(), folder / "w.pth")
    state = model.state_dict()
    for key in ("head.weight", "head.bias"):
        state[key] = state[key].roll(1, 0)
    torch.save(state, folder / "rolled.pth")
    return folder


class AsBytes:
    """The task, its pictures prepared as x/255."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def prepare(self, raw: Batch) -> Batch:
        return {"pixels": raw["pixels"].float() / 255}


def loaded(folder: Path, **teacher: Any) -> Loaded:
    tree = {
        "name": "given",
        "task": {"data": {"source": f"{__name__}:faint"}},
        "teacher": {"arch": "small_resnet", "width": 8, "weights": "w.pth", **teacher},
        "student": {"arch": "small_convnet", "width": 4},
        "trial": {
            "epochs": 4,
            "prune_ratio": 0.3,
            "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
        },
        "output": {"root": str(folder / "results")},
    }
    return parse_experiment(tree, file=folder / "e.yaml", base_dir=folder)


def test_check_measures_a_given_teacher_as_it_was_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = check_experiment(loaded(folder, force=True))["teacher"]["validation"]
    found = check_experiment(loaded(folder, normalization=BYTES))
    right = found["teacher"]["validation"]
    assert right["value"] > 0.9 > wrong["value"] + 0.1
    assert right["chance"] == 0.1
    print_check(found)
    assert f"Teacher as given: val_accuracy {right['value']:.4f}" in capsys.readouterr().out


def test_stored_taught_pruned_and_shrunk_it_stays_as_it_was_trained(
    folder: Path, tmp_path: Path
) -> None:
    experiment = loaded(folder, normalization=BYTES).experiment
    task, on = build_task(experiment.task), Context(str(tmp_path), CPU, folder)
    full = trained_teacher(task, experiment.teacher, on, seed=0)
    assert full.value > 0.9
    validation = task.examples(Split.VALIDATION)
    raw = pixels(validation)
    prepared = as_input(task, pixels(validation))
    alone = build_model(experiment.teacher, (1, 8, 8), 10, seed=0, base_dir=folder).eval()
    config = resolve(experiment, {})
    ladder = Ladder(task, full, config.recipe, on, seed=0)
    light = ladder.model(1)
    with torch.inference_mode():
        expected = alone(raw.float() / 255)
        given = load_for(task, full.path)[0].eval()
        for logits in (given(prepared), ladder.model(0)(prepared), load_inference(full.path)(raw)):
            torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
        assert ladder.level(1).cost.params < full.cost.params
        assert ladder.level(1).value > 0.6
        torch.testing.assert_close(
            load_inference(ladder.level(1).path)(raw), light(prepared), rtol=1e-3, atol=1e-3
        )
    shrunk = config.model_copy(
        update={"student": config.student.model_copy(update={"arch": "teacher", "shrink": 0.3})}
    )
    student, spec = build_student(shrunk, task, ladder)
    assert isinstance(spec.inputs, PictureInputs)
    assert (spec.inputs.mean, spec.inputs.std) == ((0.0,), (255.0,))
    refresh_statistics(student, Calibration(task, CPU))
    assert accuracy(student, task) > 0.3


def accuracy(model: nn.Module, task: Task) -> float:
    validation = task.examples(Split.VALIDATION)
    with torch.inference_mode():
        answers = copy.deepcopy(model).eval()(as_input(task, pixels(validation))).argmax(1)
    return int((answers == classes(validation)).sum()) / len(validation)


@pytest.mark.parametrize("weights", ["rolled.pth", "untrained.pth"])
def test_a_given_teacher_that_knows_nothing_is_refused_unless_forced(
    folder: Path, weights: str
) -> None:
    with pytest.raises(InputError, match="no better than guessing: val_accuracy") as caught:
        preflight(loaded(folder, normalization=BYTES, weights=weights))
    for part in ("e.yaml", "teacher.weights", weights, "teacher.normalization", "order of classes",
                 "teacher.force"):  # fmt: skip
        assert part in str(caught.value)
    # `check` measures it all the same, and says what `run` will say.
    checked = check_experiment(loaded(folder, normalization=BYTES, weights=weights))
    assert checked["notes"][-1].startswith("Warning: `run` refuses this teacher.")
    forced = check_experiment(loaded(folder, normalization=BYTES, weights=weights, force=True))
    assert "no better than guessing; nothing trains it here" in forced["notes"][-1]


def test_force_makes_no_other_teacher(folder: Path, tmp_path: Path) -> None:
    keys = set()
    for force in (False, True):
        experiment = loaded(folder, normalization=BYTES, force=force).experiment
        task, on = build_task(experiment.task), Context(str(tmp_path), CPU, folder)
        keys.add(trained_teacher(task, experiment.teacher, on, seed=0).key)
    other = trained_teacher(task, loaded(folder).experiment.teacher, on, seed=0)
    assert len(keys) == 1
    assert other.key not in keys


def test_a_trained_teacher_that_knows_nothing_is_only_warned_of(folder: Path) -> None:
    trained = loaded(folder, weights=None, train={"epochs": 1}).experiment.teacher
    guessing = Standing(0.11, 300, 0.1, 0.1, "accuracy")
    refuse_guessing(trained, guessing)
    said = warning_of(trained, guessing)
    assert said is not None
    assert "its training has taught it nothing" in said
    assert warning_of(trained, Standing(0.2, 300, 0.1, 0.1, "accuracy")) is None


@pytest.mark.parametrize(
    ("accuracy", "examples", "majority", "knows"),
    [
        (0.15, 512, 0.1, True),
        (0.12, 512, 0.1, False),  # Two standard errors are 0.029.
        (0.95, 100, 0.92, False),  # Four in a hundred: 0.044.
        (0.98, 100, 0.92, True),
        (0.0, 512, 0.1, False),
        (1.0, 10, 0.5, True),
    ],
)
def test_better_than_guessing_is_by_two_standard_errors(
    accuracy: float, examples: int, majority: float, knows: bool
) -> None:
    assert Standing(accuracy, examples, 0.1, majority, "accuracy").knows is knows


def test_majority_is_of_the_whole_validation_split(folder: Path) -> None:
    task = build_task(loaded(folder).experiment.task)
    labels = classes(task.examples(Split.VALIDATION))
    found = standing(task, 0.5)
    assert found is not None
    assert found.examples == len(labels)
    assert found.majority == labels.bincount().max().item() / len(labels)
    assert "chance 0.1000" in str(found)
