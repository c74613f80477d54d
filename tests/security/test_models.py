"""Models from a stranger: loading one runs no code but that of a folder the caller gives."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search import load_model
from pdo_search.base.errors import InputError, StoreError
from pdo_search.base.storage import Storage
from pdo_search.models.composite import Fit, save_composite
from pdo_search.models.modelfile import load_model_file

from ..pictures import picture_spec
from .sweeps import PICTURES, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "student")


def edit(model: Path, **changes: Any) -> None:
    file = model / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(model: Path, base_dir: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_model(model, base_dir=base_dir)
    assert str(model) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("folder", ["none", "empty"])
@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("os:system", "command"),
        ("subprocess:getoutput", "cmd"),
        ("pydoc:pipepager", "cmd"),
        ("torch.utils.cpp_extension:subprocess", "args"),
    ],
)
def test_a_factory_of_the_strangers_choice_is_not_called(
    factory: str, arguments: str, folder: str, model: Path, canary: Path, tmp_path: Path
) -> None:
    edit(model, arch={"arch": factory, "args": {arguments: f"touch {canary}"}})
    (tmp_path / "mine").mkdir()
    told = refused(model, tmp_path / "mine" if folder == "empty" else None)
    assert factory in told
    assert "base_dir" in told


def test_importing_a_module_of_the_strangers_choice_is_refused(
    model: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "harmful.py").write_text(f"import os\nos.system('touch {canary}')\n")
    edit(model, arch={"arch": "harmful:make"})
    monkeypatch.chdir(model)
    monkeypatch.syspath_prepend(str(model))
    refused(model)
    assert "harmful" not in sys.modules


def test_of_the_given_folder_only_its_own_functions_are_called(
    model: Path, canary: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "own_models.py").write_text(
        "from os import system\nfrom torch import nn\n"
        "def make(num_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))\n"
    )
    edit(model, arch={"arch": "own_models:system", "args": {"command": f"touch {canary}"}})
    refused(model, mine)
    edit(model, arch={"arch": "own_models:make"})
    refused(model)
    weights = {"1.weight": torch.ones(3, 64), "1.bias": torch.zeros(3)}
    from safetensors.torch import save_file

    save_file(weights, model / "weights.safetensors")
    assert load_model(model, base_dir=mine)(PICTURES + 1).tolist() == [[64.0] * 3] * 2


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_pickles_in_a_model_are_not_read(name: str, model: Path, pickled: bytes) -> None:
    (model / name).write_bytes(pickled)
    refused(model)


def inputs(**changes: Any) -> dict[str, Any]:
    """What the model takes, with changes."""
    pictures = {"kind": "pictures", "input_shape": [1, 8, 8], "class_names": ["a", "b", "c"]}
    return {"inputs": {**pictures, "mean": [0.0], "std": [1.0], "unit": 1.0, **changes}}


CHANGES: dict[str, dict[str, Any]] = {
    "another format": {"format": 99},
    "no shape": inputs(input_shape=[1, 8]),
    "a shape of terabytes": inputs(input_shape=[1, 10**6, 10**6]),
    "a negative shape": inputs(input_shape=[-1, 8, 8]),
    "outputs without end": {"heads": [{"name": "class", "kind": "categorical", "size": 10**12}]},
    "no heads": {"heads": []},
    "inputs of no kind": inputs(kind="nothing"),
    "names that are numbers": inputs(class_names=[[1]]),
    "no means": inputs(mean=[]),
    "means that are text": inputs(mean=["a"]),
    "an unknown architecture": {"arch": {"arch": "nothing"}},
    "a giant": {"arch": {"arch": "small_convnet", "width": 4096, "depth": 256}},
    "no architecture": {"arch": None},
    "another architecture": {"arch": {"arch": "small_resnet", "width": 4}},
    "a block that is an attribute": {"dropped_blocks": ["__class__"]},
    "a block that is not there": {"dropped_blocks": ["nothing.at.all"]},
    "the model itself as a block": {"dropped_blocks": [""]},
    "a number as a block": {"dropped_blocks": 7},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_description_that_is_none_is_refused(change: str, model: Path) -> None:
    edit(model, **CHANGES[change])
    refused(model)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"7", b"\xff", b'{"format": 1}'])
def test_a_description_that_is_no_object_is_refused(content: bytes, model: Path) -> None:
    (model / "model.json").write_bytes(content)
    refused(model)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "pipe"])
def test_links_to_what_is_no_model_are_refused(name: str, target: str, model: Path) -> None:
    (model / name).unlink()
    if target == "pipe":
        os.mkfifo(model / name)
    else:
        (model / name).symlink_to(target)
    assert "root:" not in refused(model)


def test_copies_do_not_carry_along_what_a_link_points_to(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (model / "extra").symlink_to(secret)
    with pytest.raises(StoreError, match="extra is neither a file nor a folder"):
        Storage(tmp_path).publish(model, "published")
    module, spec = load_model_file(model)
    with pytest.raises(StoreError, match="extra is neither"):
        save_composite(tmp_path / "composite", Fit("ensemble", 0.5), module, spec, model)
    copies = [p for p in tmp_path.rglob("extra") if p != model / "extra"]
    assert copies == []


COMPOSITES: dict[str, bytes] = {
    "text": b"text",
    "deep": b"[" * 50_000,
    "an unknown mode": b'{"mode": "exec"}',
    "no weight": b'{"mode": "ensemble"}',
    "a weight that is none": b'{"mode": "ensemble", "weight": NaN}',
    "no threshold": b'{"mode": "cascade", "calibration": 1.0}',
}


@pytest.mark.parametrize("content", COMPOSITES)
def test_a_damaged_composite_is_refused(content: str, tmp_path: Path) -> None:
    for name in ("student", "teacher"):
        write_model(tmp_path / "composite" / name)
    (tmp_path / "composite" / "composite.json").write_bytes(COMPOSITES[content])
    refused(tmp_path / "composite")


def test_a_composite_runs_no_code_of_its_parts(tmp_path: Path, canary: Path) -> None:
    for name in ("student", "teacher"):
        write_model(tmp_path / "composite" / name)
    (tmp_path / "composite" / "composite.json").write_text('{"mode": "ensemble", "weight": 0.5}')
    assert load_model(tmp_path / "composite")(PICTURES).shape == (2, 3)
    hostile = {"arch": "os:system", "args": {"command": f"touch {canary}"}}
    edit(tmp_path / "composite" / "teacher", arch=hostile)
    with pytest.raises(InputError, match="os:system"):
        load_model(tmp_path / "composite")


def test_a_spec_of_ones_own_is_checked_as_well() -> None:
    from pdo_search.config.model import ModelConfig

    with pytest.raises(ValueError, match="one number per channel"):
        picture_spec(
            ModelConfig(arch="small_convnet"), (3, 8, 8), "abc", statistics=((0.0,), (1.0,))
        )


def test_what_is_whole_is_still_loaded(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "linked")
    (tmp_path / "linked" / "weights.safetensors").unlink()
    (tmp_path / "linked" / "weights.safetensors").symlink_to(model / "weights.safetensors")
    expected = load_model(model)(PICTURES)
    assert torch.equal(load_model(tmp_path / "linked")(PICTURES), expected)
