"""Models lose units: they get smaller, answer as if these were zero, and come back from disk."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pdo_search.base.errors import Infeasible
from pdo_search.config.keep import Amount
from pdo_search.config.model import ModelConfig
from pdo_search.models.anatomy import ANATOMIES, transformer_in
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.modelfile import ModelSpec, load_model_file, save_model
from pdo_search.models.sequences import built_with
from pdo_search.models.units import Removed, kept, layer_changes, shown, units_of
from pdo_search.tasks.base import Head, HeadKind
from pdo_search.tasks.inputs import Inputs
from pdo_search.tasks.kinds import KINDS as KL
from pdo_search.tasks.kinds import mask_of_head

from ..pictures import build_model as build_pictures
from .sequences import (
    CLASSES,
    IDS,
    SPAN,
    TOKEN,
    VOCAB,
    apart,
    made,
    num_params,
    outputs_of,
    surgery,
    texts,
)

HEADS = (CLASSES, SPAN)
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": VOCAB, "max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": {**BERT, "pad_token_id": 1},
    "distilbert": {
        "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "vocab_size": VOCAB,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "vocab_size": VOCAB},
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": {
        **LLAMA,
        "use_sliding_window": True,
        "sliding_window": 2,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
}  # fmt: skip
SMALL: dict[str, Any] = {
    "width": 32, "depth": 3, "args": {"vocab": VOCAB, "num_heads": 4, "ffn": 48}
}  # fmt: skip


def config_of(kind: str) -> ModelConfig:
    if kind == "small_transformer":
        return ModelConfig(arch=kind, **SMALL)
    pytest.importorskip("transformers")
    args = {"config": {"model_type": kind, **CONFIGS[kind]}}
    return ModelConfig(arch="transformers", args=args)


def model_of(kind: str, heads: tuple[Head, ...] = HEADS) -> nn.Module:
    """A model whose parts add about as much as what they add to."""
    config = config_of(kind)
    model = made(config.arch, heads, width=config.width, depth=config.depth, args=config.args)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                scale = 0.3 if min(parameter.shape) > 2 else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def silence(model: nn.Module, part: str, dim: int, chosen: list[list[int]], width: int) -> None:
    """Zero what layers read of groups of numbers, by layer."""
    found = transformer_in(model)
    assert found is not None
    name: str = getattr(found.anatomy, part)
    for index, groups in enumerate(chosen):
        layer = model.get_submodule(f"{found.layer(index)}.{name}")
        assert isinstance(layer.weight, torch.Tensor)
        for group in groups:
            at = torch.arange(group * width, (group + 1) * width)
            with torch.no_grad():
                layer.weight.index_fill_(dim, at, 0.0)


def back(tmp_path: Path, kind: str, model: nn.Module, names: tuple[str, ...] = ()) -> nn.Module:
    """A model after it was stored and loaded, in evaluation mode."""
    config = config_of(kind)
    arch = config.model_copy(update={"args": built_with(config, model)})
    save_model(tmp_path, model, ModelSpec(arch, HEADS, IDS, names))
    loaded, _ = load_model_file(tmp_path)
    return loaded.eval()


KINDS = sorted(ANATOMIES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_silent_heads_and_neurons_answers_alike(kind: str, tmp_path: Path) -> None:
    model, batch = model_of(kind), texts()
    # Four heads of eight numbers, or four pairs of heads of four that share their keys.
    silence(model, "o", 0 if kind == "gpt2" else 1, [[0, 2], [1, 3], [2, 3]], 8)
    dead = [[i for i in range(48) if i % 3 == layer] for layer in range(3)]
    silence(model, "down", 0 if kind == "gpt2" else 1, dead, 1)
    # A neuron that nobody reads is removed where it is idle, too.
    found = transformer_in(model)
    assert found is not None
    for layer, neurons in enumerate(dead):
        up = model.get_submodule(f"{found.layer(layer)}.{found.anatomy.up[-1]}")
        with torch.no_grad():
            for parameter in up.parameters():
                dim = 1 if kind == "gpt2" and parameter.dim() == 2 else 0
                parameter.index_fill_(dim, torch.tensor(neurons), 0.0)
    expected, before = outputs_of(model, batch), num_params(model)
    keep: dict[str, Amount] = {"heads": Fraction(1, 2), "ffn": 32}
    removed = kept(model, keep, surgery(HEADS, [texts(), texts((5, 3), 1)]))
    grouped = kind in ("llama", "mistral", "qwen2")
    assert shown(removed) == f"heads {4 if grouped else 2}, ffn 16"
    assert num_params(model) < before - 3 * (16 * 64 + 16 * 64)
    found_now = outputs_of(model, batch)
    largest = max(x.abs().max().item() for x in expected.values())
    assert apart(expected, found_now, batch["tokens.mask"]) < 2e-6 * max(1.0, largest)
    assert apart(outputs_of(back(tmp_path, kind, model), batch), found_now) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_change_least_go_first(kind: str, tmp_path: Path) -> None:
    model, batch = model_of(kind), texts()
    found = transformer_in(model)
    assert found is not None
    if kind not in ("bert", "roberta", "distilbert"):
        # Of those that norm before a layer's parts, one that adds nothing is the identity.
        silence(model, "o", 0 if kind == "gpt2" else 1, [[], [0, 1, 2, 3]], 8)
        silence(model, "down", 0 if kind == "gpt2" else 1, [[], [*range(48)]], 1)
        for name in (found.anatomy.o, found.anatomy.down):
            bias = getattr(model.get_submodule(f"{found.layer(1)}.{name}"), "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
    how = surgery(HEADS, [batch])
    changes = layer_changes(model, how)
    least = min(changes, key=lambda name: changes[name])
    expected, before = outputs_of(model, batch), num_params(model)
    (removed,) = kept(model, {"layers": 2}, how)
    assert removed == Removed("layers", 1, (least,))
    assert num_params(model) < before - 7000
    now = outputs_of(model, batch)
    apart_by_head = [
        KL[head.kind].divergence(
            now[head.name], expected[head.name], 1.0, mask_of_head(head, batch)
        )
        for head in HEADS
    ]
    assert changes[least] == pytest.approx(
        torch.stack(apart_by_head).sum(0).mean().item(), abs=1e-5
    )
    if kind not in ("bert", "roberta", "distilbert"):
        assert least == found.layer(1)
        assert changes[least] == pytest.approx(0, abs=1e-5)
        assert apart(expected, now, batch["tokens.mask"]) < 1e-5
    assert apart(outputs_of(back(tmp_path, kind, model, removed.names), batch), now) == 0


@pytest.mark.parametrize("kind", ["small_transformer", "bert", "gpt2", "qwen2"])
def test_layers_taken_out_one_after_the_other_come_back(kind: str, tmp_path: Path) -> None:
    model, batch, names = model_of(kind), texts(), list[str]()
    for _ in range(2):
        (removed,) = kept(model, {"layers": Fraction(2, 3)}, surgery(HEADS, [batch]))
        names += removed.names
        kept(model, {"heads": Fraction(1, 2)}, surgery(HEADS, [batch]))
    assert len(names) == 2
    assert kept(model, {"layers": 1, "heads": 1}, surgery(HEADS, [batch])) == (
        Removed("layers", 0),
        Removed("heads", 0),
    )
    loaded = back(tmp_path, kind, model, tuple(names))
    assert apart(outputs_of(loaded, batch), outputs_of(model, batch)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_vocabulary_reads_rare_ids_as_unknown(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    counts = torch.zeros(VOCAB)
    common = torch.arange(10, 30)
    counts[common] = torch.arange(20.0, 40.0)
    how = surgery(HEADS, [texts()], token_counts=counts, unknown=3)
    batch = texts()
    rare = ~torch.isin(batch["tokens"], common[5:])
    replaced = {**batch, "tokens": batch["tokens"].masked_fill(rare, 3)}
    expected, before = outputs_of(model, replaced), num_params(model)
    assert shown(kept(model, {"vocab": 16}, how)) == f"vocab {VOCAB - 16}"
    assert before - num_params(model) == (VOCAB - 16) * 32
    own = batch["tokens.mask"]
    assert apart(expected, outputs_of(model, batch), own) < 1e-6
    # Trimmed again, ids are still those of the whole vocabulary.
    kept(model, {"vocab": 6}, how)
    rare = ~torch.isin(batch["tokens"], common[15:])
    again = {**batch, "tokens": batch["tokens"].masked_fill(rare, 3)}
    assert apart(outputs_of(model, again), outputs_of(model, batch), own) < 1e-6
    loaded = back(tmp_path, kind, model)
    assert apart(outputs_of(loaded, batch), outputs_of(model, batch)) == 0


def test_no_vocabulary_is_trimmed_without_counts_nor_where_a_head_is_tied_to_it() -> None:
    with pytest.raises(Infeasible, match="nothing counts them"):
        kept(model_of("small_transformer"), {"vocab": 16}, surgery(HEADS, [texts()]))
    tied = made("small_transformer", (TOKEN,), width=32)
    assert units_of(tied) == ("layers", "heads", "ffn")
    with pytest.raises(Infeasible, match="no vocab that can be removed: it has layers, heads, ffn"):
        kept(tied, {"vocab": 16}, surgery((TOKEN,), [texts()]))


def test_a_tied_model_is_pruned_and_stays_tied(tmp_path: Path) -> None:
    config = ModelConfig(arch="small_transformer", width=64, depth=2, args={"causal": True})
    model = made(config.arch, (TOKEN,), width=64, depth=2, args=config.args)
    kept(model, {"all": Fraction(1, 2)}, surgery((TOKEN,), [texts()]))
    save_model(tmp_path, model, ModelSpec(config, (TOKEN,), IDS))
    loaded, _ = load_model_file(tmp_path)
    batch = texts()
    assert apart(outputs_of(loaded.eval(), batch), outputs_of(model, batch)) == 0
    assert num_params(loaded) == num_params(model)
    assert isinstance(loaded, BodyAndHeads)
    embedding = loaded.body.embedding
    assert embedding is not None
    nn.init.zeros_(embedding.weight)
    assert not outputs_of(loaded, batch)["token"].any()


def test_a_bare_share_is_of_heads_and_neurons_or_of_channels() -> None:
    model = model_of("small_transformer").train()
    removed = kept(model, {"all": Fraction(3, 10)}, surgery(HEADS, [texts()]))
    assert shown(removed) == "heads 3, ffn 34"
    assert model.training
    pictures = build_pictures(ModelConfig(arch="small_resnet", width=8), (1, 16, 16), 4, seed=0)
    assert units_of(pictures) == ("channels", "blocks")
    head = Head("class", HeadKind.CATEGORICAL, 4)
    batch = {"pixels": torch.rand(4, 1, 16, 16)}
    how = surgery((head,), [batch], round_to=4)
    removed = kept(pictures, {"all": Fraction(1, 2), "blocks": 4}, how)
    assert [part.unit for part in removed] == ["channels", "blocks"]
    assert removed[0].count > 0
    assert len(removed[1].names) == removed[1].count
    assert pictures(batch["pixels"]).shape == (4, 4)


def test_frames_have_no_vocabulary() -> None:
    model = made("small_transformer", (CLASSES,), Inputs({"frames": (6,)}), width=32)
    assert units_of(model) == ("layers", "heads", "ffn")


def test_at_least_one_stays() -> None:
    model = model_of("small_transformer")
    keep: dict[str, Amount] = dict.fromkeys(("layers", "heads", "ffn"), Fraction(1, 1000))
    removed = kept(model, keep, surgery(HEADS, [texts()]))
    assert shown(removed) == "layers 2, heads 3, ffn 47"
    assert outputs_of(model, texts())["class"].shape == (4, 5)
