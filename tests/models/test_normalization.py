"""A model is run on inputs that are normalised as it was trained, wherever it goes."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pdo_search.base.errors import InputError
from pdo_search.config import parse_experiment
from pdo_search.config.model import ModelConfig
from pdo_search.config.task import DataConfig, TaskConfig
from pdo_search.models.build import build_for
from pdo_search.models.modelfile import ModelSpec, load_for, load_inference, save_model
from pdo_search.models.normalization import IMAGENET, normalization_of, normalized_as
from pdo_search.models.prune import drop_blocks, prune_channels
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split, Task
from pdo_search.tasks.inputs import PictureInputs

from ..pictures import as_input, build_model, of_pictures, pixels

EDGE = 32
OWN = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}


def pictures(channels: int, whole: bool) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Bright pictures: bytes, or floats of a range of their own."""
    drawn = np.random.default_rng(0).integers(40, 256, (120, channels, EDGE, EDGE))
    values = drawn.astype(np.uint8) if whole else (drawn / 200).astype(np.float32)
    return values, np.arange(120) % 4


def task_of(channels: int = 3, whole: bool = True) -> Task:
    source = f"{__name__}:pictures"
    args = {"channels": channels, "whole": whole}
    return build_task(TaskConfig(data=DataConfig(source=source, args=args)))


def inputs_of(task: Task) -> PictureInputs:
    inputs = task.inputs()
    assert isinstance(inputs, PictureInputs)
    return inputs


def built(task: Task, **config: Any) -> nn.Module:
    return build_for(task, ModelConfig(**{"arch": "small_resnet", "width": 8, **config}), seed=0)


class Echo(nn.Module):
    """Keeps what it was given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def plain(raw: Tensor, mean: list[float], std: list[float], unit: float) -> Tensor:
    shape = (1, -1, 1, 1)
    return (raw.float() / unit - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def raw_of(task: Task) -> Tensor:
    return pixels(task.examples(Split.VALIDATION))


@pytest.mark.parametrize("whole", [True, False], ids=["bytes", "floats"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_correction_is_exact(channels: int, whole: bool) -> None:
    task, unit = task_of(channels, whole), 255.0 if whole else 1.0
    mean, std = OWN["mean"][:channels], OWN["std"][:channels]
    raw = raw_of(task)
    own = tuple(m * unit for m in mean), tuple(s * unit for s in std)
    model = normalized_as(Echo(), inputs_of(task), own)
    assert normalization_of(model, inputs_of(task)) == own
    torch.testing.assert_close(
        model(as_input(task, raw)), plain(raw, mean, std, unit), rtol=1e-6, atol=1e-6
    )


def test_a_model_is_corrected_once_and_not_where_nothing_differs() -> None:
    task = task_of()
    raw = as_input(task, raw_of(task))
    model = normalized_as(Echo(), inputs_of(task), ((10.0,) * 3, (2.0,) * 3))
    again = normalized_as(model, inputs_of(task), ((1.0,) * 3, (2.0,) * 3))
    once = normalized_as(Echo(), inputs_of(task), ((1.0,) * 3, (2.0,) * 3))
    assert torch.equal(again(raw), once(raw))
    back = normalized_as(again, inputs_of(task), of_pictures(task).normalization)
    assert back(raw) is raw
    assert normalization_of(back, inputs_of(task)) == of_pictures(task).normalization


@pytest.mark.parametrize(
    ("channels", "given", "mean", "std"),
    [
        (3, "imagenet", list(IMAGENET[0]), list(IMAGENET[1])),
        (1, "imagenet", [sum(IMAGENET[0]) / 3], [sum(IMAGENET[1]) / 3]),
        (1, OWN, [0.4], [0.95 / 3]),
        (3, {"mean": 0.5, "std": [0.25]}, [0.5] * 3, [0.25] * 3),
        (3, OWN, OWN["mean"], OWN["std"]),
    ],
)
def test_what_an_experiment_may_give(
    channels: int, given: Any, mean: list[float], std: list[float]
) -> None:
    task = task_of(channels)
    model, bare = built(task, normalization=given).eval(), built(task).eval()
    assert model.state_dict().keys() == bare.state_dict().keys()
    raw = raw_of(task)
    with torch.inference_mode():
        expected = bare(plain(raw, mean, std, 255))
        torch.testing.assert_close(model(as_input(task, raw)), expected, rtol=1e-4, atol=1e-5)


def test_data_is_the_default_and_adds_nothing() -> None:
    task = task_of()
    for model in (built(task), built(task, normalization="data")):
        assert not any("own_normalization" in name for name, _ in model.named_buffers())
        assert normalization_of(model, inputs_of(task)) == of_pictures(task).normalization


def test_bad_numbers_name_their_place() -> None:
    with pytest.raises(InputError, match=r"student\.normalization: has 3 numbers") as caught:
        built(task_of(2), normalization=OWN)
    assert "one number each, or of 2" in str(caught.value)
    tree: dict[str, Any] = {
        "name": "x",
        "task": {"data": {"source": "digits"}},
        "teacher": {"arch": "small_resnet", "train": {}},
        "student": {"arch": "small_convnet"},
    }
    for given, said in (
        ({"mean": [0.5], "std": [0.0]}, "0 is not above 0"),
        ({"mean": [0.5, 0.5], "std": [1, 1, 1]}, "mean has 2 numbers and std 3"),
        ({"mean": [0.5]}, "std: Field required"),
        ("imagnet", "is data, imagenet, or"),
    ):
        for role in ("teacher", "student"):
            bad = {**tree, role: {**tree[role], "normalization": given}}
            with pytest.raises(InputError, match=rf"{role}\.normalization.*{said}"):
                parse_experiment(bad, file=Path("x.yaml"), base_dir=Path.cwd())


@pytest.fixture
def corrected() -> tuple[Task, nn.Module, Tensor]:
    """A task, a model with its own normalization, and prepared inputs."""
    task = task_of()
    return task, built(task, normalization=OWN).eval(), as_input(task, raw_of(task))


def test_a_copy_keeps_it(corrected: tuple[Task, nn.Module, Tensor]) -> None:
    task, model, inputs = corrected
    copied = copy.deepcopy(model)
    assert torch.equal(copied(inputs), model(inputs))
    assert normalization_of(copied, inputs_of(task)) == normalization_of(model, inputs_of(task))
    assert copied.get_buffer("own_normalization_scale") is not model.get_buffer(
        "own_normalization_scale"
    )


def test_a_stored_and_pruned_model_keeps_it(
    corrected: tuple[Task, nn.Module, Tensor], tmp_path: Path
) -> None:
    task, model, inputs = corrected
    prune_channels(model, torch.zeros(1, *of_pictures(task).input_shape), 0.3, 4, timeout_s=60)
    dropped = drop_blocks(model, inputs[:8], 1)
    config = ModelConfig(arch="small_resnet", width=8, normalization=OWN)
    save_model(tmp_path, model, ModelSpec.of(task, config, model, dropped))
    loaded, spec = load_for(task, tmp_path)
    assert isinstance(spec.inputs, PictureInputs)
    assert spec.inputs.mean == tuple(m * 255 for m in OWN["mean"])
    raw = raw_of(task)
    with torch.inference_mode():
        expected = model.eval()(inputs)
        assert torch.equal(loaded.eval()(inputs), expected)
        torch.testing.assert_close(load_inference(tmp_path)(raw), expected, rtol=1e-4, atol=1e-5)


def test_it_survives_data_parallel_wrapping_and_compilation(
    corrected: tuple[Task, nn.Module, Tensor], tmp_path: Path
) -> None:
    _, model, inputs = corrected
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        assert torch.equal(DistributedDataParallel(model)(inputs), model(inputs))
    finally:
        torch.distributed.destroy_process_group()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))


FACTORY = """
import torch
from torch import nn

class Timmish(nn.Sequential):
    default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

def timmish(num_outputs, input_shape):
    c, h, w = input_shape
    return Timmish(nn.Flatten(), nn.Linear(c * h * w, num_outputs))

class Undone(nn.Module):
    def __init__(self, num_outputs, input_shape, normalization):
        super().__init__()
        c, h, w = input_shape
        self.mean, self.std = (torch.tensor(x).view(1, -1, 1, 1) for x in normalization)
        self.linear = nn.Linear(c * h * w, num_outputs)

    def forward(self, x):
        return self.linear((x * self.std + self.mean).flatten(1))

def undone(num_outputs, input_shape, normalization):
    return Undone(num_outputs, input_shape, normalization)
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factories")
    (folder / "normalized_models.py").write_text(FACTORY)
    return folder


def test_a_timm_model_brings_its_own(factories: Path) -> None:
    task = task_of()

    def of(**more: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        config = ModelConfig(arch="normalized_models:timmish", **more)
        return normalization_of(
            build_for(task, config, seed=0, base_dir=factories), inputs_of(task)
        )

    assert of() == ((127.5,) * 3, (63.75,) * 3)
    assert of(normalization="data") == of_pictures(task).normalization
    # Most checkpoints of timm's models were trained further from timm's own.
    config = ModelConfig(arch="normalized_models:timmish")
    state = build_model(
        config, of_pictures(task).input_shape, 4, seed=0, base_dir=factories
    ).state_dict()
    torch.save(state, factories / "w.pt")
    assert of(weights="w.pt") == of()


@pytest.mark.parametrize("given", [None, OWN])
def test_a_factory_is_told_how_its_inputs_come(factories: Path, given: Any, tmp_path: Path) -> None:
    task = task_of()
    config = ModelConfig(arch="normalized_models:undone", normalization=given)
    model = build_for(task, config, seed=0, base_dir=factories).eval()
    raw = raw_of(task)
    expected = model.get_submodule("linear")((raw.float() / 255).flatten(1))
    torch.testing.assert_close(model(as_input(task, raw)), expected, rtol=1e-4, atol=1e-5)
    save_model(tmp_path / "stored", model, ModelSpec.of(task, config, model))
    loaded = load_inference(tmp_path / "stored", factories)
    torch.testing.assert_close(loaded(raw), expected, rtol=1e-4, atol=1e-5)


def test_named_weights_bring_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = MobileNet_V3_Small_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(mobilenet_v3_small().state_dict(), tmp_path / "hub/checkpoints" / file)
    task = task_of()
    said: list[str] = []
    config = ModelConfig(arch="mobilenet_v3_small", weights="IMAGENET1K_V1")
    model = build_for(task, config, seed=0, say=said.append)
    assert normalization_of(model, inputs_of(task)) == tuple(
        tuple(number * 255 for number in numbers) for numbers in IMAGENET
    )
    assert len(said) == 1
    assert "classifier.3" in said[0]


def test_timm_itself(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    (tmp_path / "timm_models_for_test.py").write_text(
        "import timm\n"
        "def lite0(num_outputs):\n"
        "    return timm.create_model('tf_efficientnet_lite0', num_classes=num_outputs)\n"
    )
    task, config = task_of(), ModelConfig(arch="timm_models_for_test:lite0")
    model = build_for(task, config, seed=0, base_dir=tmp_path).eval()
    assert normalization_of(model, inputs_of(task)) == ((127.5,) * 3, (127.5,) * 3)
    prune_channels(model, torch.zeros(1, *of_pictures(task).input_shape), 0.2, 8, timeout_s=60)
    inputs = as_input(task, raw_of(task))
    save_model(tmp_path / "stored", model, ModelSpec.of(task, config, model))
    loaded, _ = load_for(task, tmp_path / "stored", tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(inputs), model.eval()(inputs))
