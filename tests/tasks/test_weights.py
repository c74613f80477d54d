"""Weights files as others write them: their tensors are loaded, or the reason is said."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search.config.schema import ModelConfig
from pdo_search.errors import InputError
from pdo_search.tasks.models import build_model
from pdo_search.tasks.weights import load_weights

from .test_models import SHAPE, build, given_or_trained


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_is_loaded(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    source = build("small_convnet", seed=3)
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        state = {f"module.{k}": v for k, v in source.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        save_file(source.state_dict(), file)
    model = build("small_convnet", weights=file.name, base_dir=tmp_path)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path: Path) -> None:
    model = build("small_convnet")
    state = model.state_dict()
    state["head.weight"] = torch.zeros(3, 64)
    state["tail.weight"] = state.pop("head.bias")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_weights(model, tmp_path / "w.pt", path="student.weights")
    message = str(caught.value)
    for part in ("missing: head.bias", "unexpected: tail.weight", "head.weight (3, 64) for (7, 64)",
                 "student.weights"):  # fmt: skip
        assert part in message


def test_a_checkpoint_of_other_classes_gets_a_new_head_where_one_is_trained(tmp_path: Path) -> None:
    source = build("small_resnet", classes=3, seed=3)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    said: list[str] = []
    for config in (
        given_or_trained(True, arch="small_resnet", weights="w.pt"),
        ModelConfig(arch="small_resnet", weights="w.pt"),  # As a student's.
    ):
        model = build_model(config, SHAPE, 7, seed=0, base_dir=tmp_path, say=said.append)
        state = model.state_dict()
        assert state["head.weight"].shape[0] == 7
        kept = [k for k in state if not k.startswith("head.")]
        assert all(torch.equal(state[k], source.state_dict()[k]) for k in kept)
    assert len(said) == 2
    assert "new head for 7 classes (head) on the weights of w.pt" in said[0]
    given = given_or_trained(False, arch="small_resnet", weights="w.pt")
    with pytest.raises(InputError, match="nothing trains a new head") as caught:
        build_model(given, SHAPE, 7, seed=0, base_dir=tmp_path, path="teacher")
    for part in ("w.pt", "teacher.weights", "head.bias (3,) for (7,)", "`teacher.train`"):
        assert part in str(caught.value)


def test_a_body_of_another_shape_gets_no_new_head(tmp_path: Path) -> None:
    torch.save(build("small_resnet", classes=3, width=8).state_dict(), tmp_path / "w.pt")
    config = given_or_trained(True, arch="small_resnet", width=12, weights="w.pt")
    with pytest.raises(InputError, match="does not fit the model; of another shape: stem"):
        build_model(config, SHAPE, 7, seed=0, base_dir=tmp_path)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path, writer: str) -> None:
    file, target = tmp_path / "w.pt", tmp_path / "owned"
    if writer == "torch":
        torch.save({"head": Hostile(target)}, file)
    else:
        file.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(build("small_convnet"), file, path="student.weights")
    assert not target.exists()
