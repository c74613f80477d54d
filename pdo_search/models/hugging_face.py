"""Encoders and decoders of the transformers library as bodies, from a local directory.

Nothing is fetched from a hub and no code of a checkpoint is run. The library is imported only where
such a model is built.

Legend: B examples, L positions (padded), D width of the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.models.bodies import Body, BodyAndHeads, refuse_longer, the_input
from pdo_search.tasks.base import Batch, Head, mask_of
from pdo_search.tasks.inputs import SequenceInputs

__all__ = ["HuggingFaceBody", "hugging_face"]

ARCH = "transformers"
ABSENT = ("pooler.",)
"""Tensors that a body has no use for."""
LOCAL = ("transformers_version", "auto_map", "quantization_config", "dtype", "attn_implementation")
"""Of a configuration: what says nothing about the architecture, or asks for code; names that begin
with ``_`` do, too."""
FEW, TOLERANCE = 8, 1e-3
"""Ids by which outputs are compared, and how far they may be apart."""
MAX_LAYERS = 1 << 10
"""Of a configuration; more are a claim, not a model."""
POSITIONS = ("position_embeddings", "wpe")
"""Tables of learned positions, by the end of their names."""


class HuggingFaceBody(Body):
    """A model of the transformers library that gives its last hidden states.

    Args:
        model: without a head; a pooler is taken off.
        name: of the input that it reads.
        types: name of the input of token types; None where a text has one part.

    Attributes:
        config: what its architecture is built of, in plain values, as it was before any surgery.
    """

    def __init__(self, model: Any, name: str, types: str | None = None) -> None:
        super().__init__()
        # A pooler's parameters would count, and nothing would train them.
        if isinstance(getattr(model, "pooler", None), nn.Module):
            model.pooler = None
        model.config.use_cache = False
        self.model = model
        self.input, self.types = name, types
        self.width = int(model.config.hidden_size)
        self.config = _plain(model.config)
        self._longest = _longest(model)

    @property
    def embedding(self) -> nn.Embedding | None:
        """The table of its inputs' ids."""
        table = self.model.get_input_embeddings()
        return table if isinstance(table, nn.Embedding) else None

    def forward(self, batch: Batch) -> Tensor:
        """Ids (B, L) to states (B, L, D)."""
        ids, mask = batch[self.input], batch.get(mask_of(self.input))
        if self._longest is not None:
            refuse_longer(ids.shape[1], self._longest)
        given = {"input_ids": ids}
        if mask is not None:
            given["attention_mask"] = mask.long()
        if self.types is not None:
            given["token_type_ids"] = batch[self.types]
        states: Tensor = self.model(**given).last_hidden_state
        return states


def hugging_face(
    heads: Sequence[Head],
    inputs: SequenceInputs,
    *,
    weights: Path | None = None,
    config: Mapping[str, Any] | None = None,
    input: str | None = None,
    types: str | None = None,
) -> BodyAndHeads:
    """A model of the transformers library with a task's heads.

    They are new, but for one that is tied to the input, as of language models: that is the
    checkpoint's own, whether it has the embedding as its matrix or another one.

    Args:
        heads: of the task.
        inputs: of the task.
        weights: directory of ``config.json`` and the weights.
        config: the content of such a ``config.json``, for random weights; instead of a directory.
        input: name of the one it reads, where there are several.
        types: name of the input of token types, if there is one.

    Raises:
        InputError: the library is not installed, or the directory holds no model that can be used.
    """
    name = the_input(inputs, input)
    try:
        import transformers
    except ImportError:
        raise InputError(
            "needs the package transformers, which is not installed",
            path="arch",
            value=ARCH,
            remedy="pip install 'transformers>=5,<6'",
        ) from None
    own = any(head.tied == name for head in heads)
    with _quiet(transformers):
        if config is not None:
            return _with_heads(_made(transformers, config), heads, name, types)
        auto = transformers.AutoModelForCausalLM if own else transformers.AutoModel
        loaded = _loaded(auto, weights)
        model = _with_heads(loaded.base_model if own else loaded, heads, name, types)
        if own:
            _take_outputs(model, loaded, str(weights))
        return model


def _with_heads(model: Any, heads: Sequence[Head], name: str, types: str | None) -> BodyAndHeads:
    """A model with heads. Where its configuration does not tie them to the embedding, a tied one
    becomes a matrix of its own."""
    untied = not getattr(model.config, "tie_word_embeddings", True)
    own = [replace(h, tied=None) if untied and h.tied == name else h for h in heads]
    made = BodyAndHeads(HuggingFaceBody(model, name, types), own)
    for place, (head, ours) in enumerate(zip(heads, own, strict=True)):
        if head.tied != ours.tied:
            made.out[place] = nn.Linear(made.body.width, head.size, bias=False)
    return made


@torch.no_grad()
def _take_outputs(model: BodyAndHeads, whole: Any, weights: str) -> None:
    """Give a model the output matrix of the language model that its body was loaded with.

    Rows beyond the task's ids, by which some are of a round size, are left out.

    Raises:
        InputError: it has too few rows, or does more with them than a matrix does.
    """
    for head, layer in zip(model.heads, model.out, strict=True):
        if isinstance(layer, nn.Linear) and layer.bias is None:
            matrix = whole.get_output_embeddings().weight
            if len(matrix) < head.size:
                raise InputError(
                    f"has outputs for {len(matrix):,} ids, and the task's tokenizer has"
                    f" {head.size:,}",
                    path="weights",
                    value=weights,
                    remedy="name the tokenizer that belongs to the weights in task.tokenizer.path",
                )
            layer.weight.copy_(matrix[: head.size])
        elif head.tied is None:
            continue
        ids = torch.arange(FEW)[None] % head.size
        whole.eval()
        theirs = whole(input_ids=ids).logits[..., : head.size]
        ours = model({model.body.input: ids})[head.name]
        if not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
            raise InputError(
                "makes more of its states than a matrix does, such as scaled or capped outputs",
                path="weights",
                value=weights,
                remedy="take a GPT-2, Llama, Mistral or Qwen2",
            )


def _loaded(auto: Any, weights: Path | None) -> Any:
    """A model from a directory, by one of the library's classes, in torch's default type."""
    if weights is None or not (weights / "config.json").is_file():
        raise InputError(
            "names no model of the transformers library",
            path="weights",
            value=None if weights is None else str(weights),
            remedy="give a local directory with config.json and model.safetensors",
        )
    try:
        model, info = auto.from_pretrained(
            weights,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            dtype=torch.get_default_dtype(),
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            f"cannot be loaded: {str(error).strip().splitlines()[0]}",
            path="weights",
            value=str(weights),
            remedy=f"give a directory that transformers' {auto.__name__} loads without remote code",
        ) from None
    missing = [key for key in sorted(info["missing_keys"]) if not key.startswith(ABSENT)]
    if missing:
        raise InputError(
            f"the checkpoint lacks {len(missing)} tensors, {missing[0]} among them",
            path="weights",
            value=str(weights),
            remedy="give a checkpoint of the architecture that its config.json names",
        )
    return model


def _made(transformers: Any, config: Mapping[str, Any]) -> Any:
    """A model of a configuration, its weights random.

    Only of those that read text: others may fetch parts of themselves. Anybody may have written the
    configuration of a stored model.
    """
    auto = transformers.models.auto.modeling_auto
    known = {**auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    try:
        kind = str(config["model_type"])
        rest = {k: v for k, v in _portable(config).items() if k != "model_type"}
        if kind not in known:
            raise ValueError(f"{kind!r} is no model of text")
        made = transformers.AutoConfig.for_model(kind, **rest)
        if made.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"{made.num_hidden_layers:,} layers are more than {MAX_LAYERS:,}")
        return transformers.AutoModel.from_config(
            made,
            trust_remote_code=False,
            attn_implementation="sdpa",
            dtype=torch.get_default_dtype(),
        )
    except (KeyError, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise InputError(
            f"describes no model of the transformers library: {error}",
            path="args.config",
            value=dict(config),
            remedy="copy a config.json that AutoModel knows",
        ) from None


def _plain(config: Any) -> dict[str, Any]:
    return _portable({**config.to_diff_dict(), "model_type": config.model_type})


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what belongs to a machine, or asks for code."""
    return {k: v for k, v in config.items() if k not in LOCAL and not k.startswith("_")}


def _longest(model: nn.Module) -> int | None:
    """How many positions a model has learned; None where it computes them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(POSITIONS):
            # RoBERTa begins to count behind the id of its padding.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and reports of unused tensors off a user's screen."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
