"""Hints equal their formulas, whoever is padded; they are had from the store or run, and refused
where a model has no such place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.config import TrialConfig, parse_experiment, resolve
from pdo_search.config.model import ModelConfig
from pdo_search.config.recipe import HintKind
from pdo_search.config.training import OptimizerConfig
from pdo_search.distill.context import Context
from pdo_search.distill.execution import USUAL
from pdo_search.distill.hinting import Hinting, check_hints
from pdo_search.distill.hints import HINTS
from pdo_search.distill.protocol import LocalWorker
from pdo_search.distill.step import Updates
from pdo_search.distill.teaching import Teaching
from pdo_search.models.build import build_for
from pdo_search.models.taps import States, Taps, own_positions, places_in, states_of
from pdo_search.trial.worker import prepare, teaching_of

from ..models.sequences import CLASSES, SPAN, made, texts
from ..pictures import build_model
from ..toys.test_toys import TOYS

CPU = torch.device("cpu")
OWN = torch.tensor([[True, True, True], [True, False, False]])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def squared(s: Any, t: Any) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s))


def angle(s: Any, t: Any) -> float:
    dot = sum(a * b for a, b in zip(s, t, strict=True))
    return float(1 - dot / math.hypot(*s) / math.hypot(*t))


def by_position(apart: Any, s: Tensor, t: Tensor, own: Tensor) -> float:
    """A mean over examples of the mean over their own positions, in plain numbers."""
    found = []
    for i in range(len(s)):
        at = [apart(s[i, k].tolist(), t[i, k].tolist()) for k in range(s.shape[1]) if own[i, k]]
        found.append(sum(at) / len(at))
    return float(sum(found) / len(found))


def maps_apart(s: Tensor, t: Tensor, own: Tensor) -> float:
    total = 0.0
    for i in range(len(s)):
        maps = []
        for states in (s, t):
            means = [
                sum(x * x for x in states[i, k].tolist()) / states.shape[2]
                for k in range(s.shape[1])
                if own[i, k]
            ]
            maps.append([m / math.hypot(*means) for m in means])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    return float(total / len(s))


def relations_apart(s: Tensor, t: Tensor) -> float:
    pairs = [(i, j) for i in range(len(s)) for j in range(i)]
    found = []
    for states in (s.flatten(1), t.flatten(1)):
        apart = [math.dist(states[i].tolist(), states[j].tolist()) for i, j in pairs]
        found.append([d / (sum(apart) / len(apart)) for d in apart])
    gaps = [abs(a - b) for a, b in zip(*found, strict=True)]
    return float(sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / len(pairs))


@pytest.mark.parametrize("own", [None, OWN], ids=["whole", "padded"])
def test_every_kind_is_its_formula(own: Tensor | None) -> None:
    s, t, wide = drawn(2, 3, 4), drawn(2, 3, 4, seed=1), drawn(2, 3, 7, seed=2)
    mask = torch.ones(2, 3, dtype=torch.bool) if own is None else own
    student = States(s, own)

    def found(kind: HintKind, ours: States, theirs: Tensor) -> float:
        return HINTS[kind].apart(ours, States(theirs)).item()

    assert found("hidden", student, t) == pytest.approx(by_position(squared, s, t, mask), rel=1e-12)
    assert found("cosine", student, t) == pytest.approx(by_position(angle, s, t, mask), rel=1e-12)
    for other in (t, wide):
        expected = maps_apart(s, other, mask)
        assert found("attention", student, other) == pytest.approx(expected, rel=1e-12)
    pooled = torch.stack([s[i][mask[i]].mean(0) for i in range(2)])[:, None]
    theirs = t.mean(1, keepdim=True)
    alone = torch.ones(2, 1, dtype=torch.bool)
    expected = by_position(squared, pooled, theirs, alone)
    assert found("pooled", student.pooled(), theirs) == pytest.approx(expected, rel=1e-12)
    expected = by_position(angle, pooled, theirs, alone)
    assert found("cosine", student.pooled(), theirs) == pytest.approx(expected, rel=1e-12)


def test_relations_are_their_formula_in_any_width() -> None:
    s, t = drawn(6, 1, 4), 3 * drawn(6, 1, 9, seed=1)
    found = HINTS["relation"].apart(States(s), States(t)).item()
    assert found == pytest.approx(relations_apart(s, t), rel=1e-12)
    assert HINTS["relation"].apart(States(s), States(5 * s)).item() == pytest.approx(0, abs=1e-12)
    one = s[:1].requires_grad_()
    HINTS["relation"].apart(States(one), States(t[:1])).backward()  # type: ignore[no-untyped-call]
    assert one.grad is not None
    assert not one.grad.any()


@pytest.mark.parametrize("kind", HINTS)
def test_gradients_are_those_of_differences_and_nothing_is_undefined(kind: HintKind) -> None:
    s, t = drawn(3, 2, 4).requires_grad_(), drawn(3, 2, 4, seed=1)
    own = torch.tensor([[True, True], [True, False], [True, True]])
    apart = HINTS[kind].apart
    torch.autograd.gradcheck(lambda x: apart(States(x, own), States(t)), [s])
    same = torch.ones(3, 2, 4, dtype=torch.float64, requires_grad=True)
    for target in (same.detach(), torch.zeros_like(same)):
        (gradient,) = torch.autograd.grad(apart(States(same, own), States(target)), same)
        assert gradient.isfinite().all()


def names_of(model: nn.Module, example: Any) -> list[tuple[str, int, int]]:
    found = places_in(model, lambda: model(example))
    return [(place.name, place.positions, place.width) for place in found]


def test_places_are_a_transformers_layers_and_a_networks_stages() -> None:
    batch = texts((5,))
    model = made("small_transformer", [CLASSES], width=16, depth=3, args={"vocab": 60})
    assert names_of(model, batch) == [(f"body.layers.{k}", 5, 16) for k in range(3)]
    small, deep = torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 32, 32)
    resnet = build_model(
        ModelConfig(arch="small_resnet", width=4, depth=2), (1, 16, 16), 10, seed=0
    )
    assert names_of(resnet, small) == [
        ("blocks.1", 256, 4), ("blocks.3", 64, 8), ("blocks", 16, 16)
    ]  # fmt: skip
    resnet18 = build_model(ModelConfig(arch="resnet18"), (3, 32, 32), 10, seed=0)
    assert names_of(resnet18, deep) == [
        ("layer1", 1024, 64), ("layer2", 256, 128), ("layer3", 64, 256), ("layer4", 16, 512)
    ]  # fmt: skip
    mobile = build_model(ModelConfig(arch="mobilenet_v2"), (3, 32, 32), 10, seed=0)
    assert [n for n, _, _ in names_of(mobile, deep)][-1] == "features"
    assert names_of(nn.Linear(3, 2), torch.zeros(1, 3)) == []
    assert not any(m._forward_hooks for m in (*resnet.modules(), *model.modules()))


def test_states_are_means_over_an_examples_own_positions() -> None:
    model = made("small_transformer", [SPAN], width=16, depth=2, args={"vocab": 60})
    taps = Taps(model, ["body.layers.1", "body.layers.1"])
    batch, alone = texts((7, 4)), texts((7, 4))
    model(batch)
    states = states_of(taps.take()["body.layers.1"], own_positions(model, batch))
    short = {name: tensor[1:, :4] for name, tensor in alone.items()}
    model(short)
    beside = states_of(taps.take()["body.layers.1"], own_positions(model, short))
    torch.testing.assert_close(states.pooled().values[1:], beside.pooled().values)
    assert taps.take() == {}
    taps.close()
    grid = drawn(2, 3, 2, 2)
    torch.testing.assert_close(states_of(grid).values[1, 3], grid[1, :, 1, 1].to(torch.float32))
    pooled = states_of(grid).pooled().values[:, 0].double()
    torch.testing.assert_close(pooled, grid.mean((2, 3)), rtol=1e-6, atol=1e-6)


def config_with(hints: list[dict[str, Any]], **trial: Any) -> TrialConfig:
    tree = {
        "name": "tiny",
        "task": {"data": {"source": "digits", "limit": 600}, "augment": {"crop": 1}},
        "teacher": {"arch": "small_resnet", "width": 8, "train": {"epochs": 1}},
        "student": {"arch": "small_convnet", "width": 4},
        "trial": {"loss": {"hints": hints}, **trial},
    }
    return resolve(parse_experiment(tree, file=Path("x.yaml"), base_dir=Path.cwd()).experiment, {})


def series_with(hints: list[dict[str, Any]], **trial: Any) -> TrialConfig:
    arch = {"arch": "small_transformer", "width": 16, "depth": 3, "args": {"num_heads": 4}}
    tree = {
        "name": "series",
        "task": {"kind": "tests.toys.series:build", "metrics": TOYS["series"][0]},
        "teacher": {**arch, "train": {"kind": "adamw", "lr": 0.01, "epochs": 1, "batch_size": 32}},
        "student": {**arch, "width": 8, "depth": 2},
        "trial": {"loss": {"hints": hints}, "prune_ratio": 0.0, **trial},
    }
    return resolve(parse_experiment(tree, file=Path("x.yaml"), base_dir=Path.cwd()).experiment, {})


def opened(config: TrialConfig, store: Path) -> Teaching:
    on = Context(str(store), CPU)
    return teaching_of(config, prepare(config, on), on)


def hinted(config: TrialConfig, store: Path, level: int = 0) -> tuple[float, Hinting, Updates]:
    """The hints' loss of a batch, after the teacher and a student have run on it."""
    teaching = opened(config, store)
    task = teaching.task
    student = build_for(task, config.student, seed=0).eval()
    hinting = Hinting(config.recipe, teaching, student, LocalWorker(), seed=0)
    updates = Updates(task, student, OptimizerConfig(), USUAL)
    hinting.begin(level, 1 % teaching.num_views, updates)
    rows = torch.tensor([3, 50, 7, 401 % len(teaching.pool), 8, 9])
    (batch,) = teaching.pool.batches(1 % teaching.num_views, [rows])
    if config.recipe.teacher_outputs == "online":
        with torch.no_grad():
            task.forward(teaching.ladder.model(level), batch)
    task.forward(student, batch)
    found = hinting.loss(batch, rows).item()
    hinting.close()
    return found, hinting, updates


POOLED = ({"kind": "pooled"}, {"kind": "cosine", "teacher": 1}, {"kind": "relation", "student": 0})


@pytest.mark.parametrize("hint", POOLED, ids=str)
@pytest.mark.parametrize("with_hints", [config_with, series_with])
def test_stored_states_say_what_a_teacher_says_that_is_run(
    with_hints: Any, hint: dict[str, Any], tmp_path: Path
) -> None:
    stored, hinting, _ = hinted(with_hints([hint]), tmp_path)
    run, _, _ = hinted(with_hints([hint], teacher_outputs="online"), tmp_path)
    assert stored == pytest.approx(run, rel=2e-3)
    half, _, _ = hinted(with_hints([{**hint, "weight": 0.5}, {**hint, "weight": 2.0}]), tmp_path)
    if not hinting.maps:
        assert half == pytest.approx(2.5 * stored, rel=1e-5)
    # The network's stages of hint `cosine` have one width.
    learns = hint["kind"] == "pooled" or (hint["kind"] == "cosine" and with_hints is series_with)
    assert len(hinting.maps) == learns


@pytest.mark.parametrize(
    "hint", [{"kind": "hidden"}, {"kind": "attention"}, {"kind": "cosine", "positions": True}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("with_hints", [config_with, series_with])
def test_at_positions_a_teacher_is_run(
    with_hints: Any, hint: dict[str, Any], tmp_path: Path
) -> None:
    found, hinting, updates = hinted(with_hints([hint], teacher_outputs="online"), tmp_path)
    assert math.isfinite(found)
    assert found > 0
    assert len(updates.optimizer.param_groups) == 2 + len(hinting.maps)
    with pytest.raises(InputError, match="states at every position") as refused:
        with_hints([hint])
    assert "set trial.teacher_outputs: online" in str(refused.value)


def test_without_hints_nothing_is_listened_to(tmp_path: Path) -> None:
    config = config_with([])
    teaching = opened(config, tmp_path)
    student = build_for(teaching.task, config.student, seed=0)
    hinting = Hinting(config.recipe, teaching, student, LocalWorker(), seed=0)
    updates = Updates(teaching.task, student, OptimizerConfig(), USUAL)
    hinting.begin(0, 0, updates)
    assert not any(module._forward_hooks for module in student.modules())
    assert len(updates.optimizer.param_groups) == 2
    assert hinting.maps == {}
    assert not list(tmp_path.glob("bank/??/*/manifest.json"))


def test_a_place_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    config = config_with([{"kind": "pooled", "teacher": 3}])
    teaching = opened(config, tmp_path)
    teacher, student = teaching.ladder.model(0), build_for(teaching.task, config.student, seed=0)

    def refused(hint: dict[str, Any], student: nn.Module | None = student) -> InputError:
        recipe = config_with([{"kind": "pooled"}, hint], teacher_outputs="online").recipe
        with pytest.raises(InputError) as error:
            check_hints(teaching.task, recipe, teacher, student)
        return error.value

    found = refused({"kind": "pooled", "teacher": 3}, None)
    assert found.path == "trial.loss.hints.1.teacher"
    assert "0: blocks.1 (64 x 8), 1: blocks.3 (16 x 16), 2: blocks (4 x 32)" in str(found)
    assert found.remedy == "take 0 to 2, or -1 to -3 from the end"
    assert refused({"kind": "relation", "student": -4}).path == "trial.loss.hints.1.student"
    found = refused({"kind": "hidden", "teacher": 0, "student": 1})
    assert "has 64 of an example where the student's features.11 has 16" in str(found)
    with pytest.raises(Infeasible, match="level 0 has 3 layers or stages"):
        hinted(config, tmp_path)
