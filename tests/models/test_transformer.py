"""The small transformer: its inputs, heads, padding and order of looking."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.build import build_for
from pdo_search.models.cost import measure_cost
from pdo_search.models.modelfile import ModelSpec, load_for, save_model
from pdo_search.models.transformer import SmallTransformer
from pdo_search.models.units import Surgery, kept, shown
from pdo_search.tasks.base import Head, HeadKind, Split
from pdo_search.tasks.inputs import Inputs

from ..toys import spans
from .sequences import CLASSES, IDS, SPAN, TOKEN, VOCAB, apart, made, outputs_of, texts

ARCH = "small_transformer"
CHAR = Head("char", HeadKind.CATEGORICAL, 29, positions="frames.out")


def of_tokens(**more: Any) -> BodyAndHeads:
    args = {"vocab": VOCAB, "num_heads": 4, **more}
    model = made(ARCH, (CLASSES, SPAN), width=32, depth=2, args=args)
    assert isinstance(model, BodyAndHeads)
    return model


def test_heads_have_their_shapes() -> None:
    found = outputs_of(of_tokens(), texts())
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "class": (4, 5),
        "span": (4, 9, 2),
    }


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_no_output(causal: bool) -> None:
    model, batch = of_tokens(causal=causal), texts()
    more = {k: F.pad(x, (0, 30), value=3 if k == "tokens" else 0) for k, x in batch.items()}
    longer = outputs_of(model, more)
    shorter = {name: x if x.dim() == 2 else x[:, :9] for name, x in longer.items()}
    assert apart(outputs_of(model, batch), shorter, batch["tokens.mask"]) < 1e-6


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_frames_with_padding_give_what_they_give_alone(stride: int) -> None:
    heads, inputs = (CLASSES, CHAR), Inputs({"frames": (6,)})
    model = made(ARCH, heads, inputs, width=32, depth=1, args={"stride": stride})
    lengths = torch.tensor([11, 21])
    frames = torch.randn(2, 21, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(21) < lengths[:, None]
    together = outputs_of(model, {"frames": frames, "frames.mask": mask})
    alone = outputs_of(model, {"frames": frames[:1, :11], "frames.mask": mask[:1, :11]})
    positions = -(-11 // stride)
    assert together["char"].shape == (2, -(-21 // stride), 29)
    assert alone["char"].shape[1] == positions
    assert (
        apart(alone, {"class": together["class"][:1], "char": together["char"][:1, :positions]})
        < 1e-6
    )


def test_a_causal_one_looks_back_alone() -> None:
    batch = texts((9, 9))
    changed = {**batch, "tokens": batch["tokens"].clone()}
    changed["tokens"][:, 5] = 1
    for causal in (False, True):
        model = of_tokens(causal=causal)
        before, after = (outputs_of(model, b)["span"] for b in (batch, changed))
        assert torch.equal(before[:, :5], after[:, :5]) == causal
        assert not torch.equal(before[:, 5:], after[:, 5:])


def test_inputs_of_one_length_need_no_mask() -> None:
    inputs = Inputs({"tokens": (8,)})
    model = made(ARCH, (TOKEN,), inputs, width=32, depth=1, args={"causal": True})
    assert outputs_of(model, {"tokens": texts((8, 8))["tokens"]})["token"].shape == (2, 8, VOCAB)
    assert isinstance(model, BodyAndHeads)
    assert isinstance(model.body, SmallTransformer)
    assert model.body.positions.num_embeddings == 8


def test_a_tied_head_has_the_embedding_as_its_matrix() -> None:
    model, batch = made(ARCH, (TOKEN,), width=32, depth=1), texts()
    assert not any(
        p.shape == (VOCAB, 32) and n != "body.embed.weight" for n, p in model.named_parameters()
    )
    assert isinstance(model, BodyAndHeads)
    states = model.body(batch)
    embedding = model.body.embedding
    assert embedding is not None
    assert torch.equal(model(batch)["token"], states @ embedding.weight.T)
    model(batch)["token"].sum().backward()
    assert embedding.weight.grad is not None


def test_heads_may_have_the_names_of_a_modules_methods() -> None:
    heads = [Head(name, HeadKind.CATEGORICAL, 2) for name in ("type", "items", "a.b")]
    found = outputs_of(made(ARCH, heads, args={"vocab": VOCAB}), texts())
    assert list(found) == ["type", "items", "a.b"]


@pytest.mark.parametrize(
    ("more", "heads", "inputs", "words"),
    [
        ({}, (CLASSES,), IDS, ["student.args.vocab", "how many ids"]),
        (
            {"width": 30, "args": {"vocab": 9, "num_heads": 4}}, (CLASSES,), IDS,
            ["student.width", "28"],
        ),
        ({"args": {"vocab": 9, "depht": 3}}, (CLASSES,), IDS, ["student.args.depht", "num_heads"]),
        ({"args": {"vocab": 9, "stride": 2}}, (CLASSES,), IDS, ["student.args.stride", "ids"]),
        ({"args": {"vocab": 9}}, (TOKEN,), IDS, ["60", "9 rows", "at least"]),
        ({"args": {"vocab": "many"}}, (CLASSES,), IDS, ["student.args", "many"]),
        (
            {"args": {"vocab": 9}}, (CLASSES,), Inputs({"a": (), "b": ()}),
            ["student.args.input", "a, b"],
        ),
    ],
)  # fmt: skip
def test_what_makes_no_transformer_is_refused(
    more: dict[str, Any], heads: tuple[Head, ...], inputs: Inputs, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        made(ARCH, heads, inputs, **more)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.remedy


def test_longer_examples_than_it_takes_are_refused() -> None:
    model = of_tokens(max_length=8)
    with pytest.raises(InputError, match="9 positions and the model takes 8"):
        outputs_of(model, texts())


@pytest.mark.slow
def test_it_learns_a_task_and_is_cut_by_its_most_active_parts(tmp_path: Path) -> None:
    task = spans.build()
    config = ModelConfig(
        arch=ARCH, width=32, depth=2, args={"vocab": spans.NUM_LETTERS, "num_heads": 4}
    )
    model = build_for(task, config, seed=0)
    examples = task.examples(Split.TRAIN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        batch = examples.batch(torch.randint(0, len(examples), (64,), generator=generator))
        losses = task.label_loss(task.forward(model, batch), batch)
        optimizer.zero_grad()
        torch.autograd.backward([loss.mean() for loss, _ in losses.values()])
        optimizer.step()
    validation = task.examples(Split.VALIDATION).batch()
    model.eval()

    def quality() -> float:
        with torch.inference_mode():
            return float(task.quality(task.forward(model, validation), validation).nanmean())

    whole, cost = quality(), measure_cost(task, model, torch.device("cpu"))
    assert whole > 0.8
    how = Surgery(task.heads, task.forward, [task.prepare(examples.batch(slice(64)))])
    removed = kept(model, {"ffn": Fraction(1, 2)}, how)
    assert shown(removed) == "ffn 64"
    assert quality() > whole - 0.2
    smaller = measure_cost(task, model, torch.device("cpu"))
    length = task.example()["letters"].shape[1]
    assert cost.flops - smaller.flops == 2 * 2 * 2 * 64 * 32 * length
    save_model(tmp_path, model, ModelSpec.of(task, config, model))
    loaded, _ = load_for(task, tmp_path)
    with torch.inference_mode():
        gap = apart(task.forward(model, validation), task.forward(loaded.eval(), validation))
    assert gap == 0
