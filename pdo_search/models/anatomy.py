"""Where the parts of transformers are: layers, attention, feed-forward networks, embedding.

Owns the table of architectures that can be simplified by these parts, and how a layer is taken out.
Knows nothing of what is worth removing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pdo_search.models.bodies import BodyAndHeads

__all__ = ["ANATOMIES", "Anatomy", "Transformer", "remove_part", "transformer_in"]


@dataclass(frozen=True)
class Anatomy:
    """Names of parts, those inside a layer from the layer on.

    Attributes:
        layers: the list of layers, from the model on.
        q: queries; the same as ``k`` and ``v`` where one layer makes all three, side by side.
        k: keys.
        v: values.
        o: what mixes the attention heads' outputs.
        up: layers whose outputs are the neurons of the feed-forward network.
        down: what reads the neurons.
        embedding: the table of ids, from the model on.
        head_dim: the attribute that holds the width of an attention head.
    """

    layers: str
    q: str
    k: str
    v: str
    o: str
    up: tuple[str, ...]
    down: str
    embedding: str
    head_dim: str

    @property
    def is_fused(self) -> bool:
        """Whether one layer makes queries, keys and values."""
        return self.q == self.k


_BERT = Anatomy(
    layers="encoder.layer",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    up=("intermediate.dense",),
    down="output.dense",
    embedding="embeddings.word_embeddings",
    head_dim="attention.self.attention_head_size",
)
_LLAMA = Anatomy(
    layers="layers",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    embedding="embed_tokens",
    head_dim="self_attn.head_dim",
)
ANATOMIES: Mapping[str, Anatomy] = {
    "small_transformer": Anatomy(
        layers="layers", q="q", k="k", v="v", o="o", up=("up",), down="down", embedding="embed",
        head_dim="head_dim",
    ),
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": Anatomy(
        layers="transformer.layer",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        up=("ffn.lin1",),
        down="ffn.lin2",
        embedding="embeddings.word_embeddings",
        head_dim="attention.attention_head_size",
    ),
    "gpt2": Anatomy(
        layers="h", q="attn.c_attn", k="attn.c_attn", v="attn.c_attn", o="attn.c_proj",
        up=("mlp.c_fc",), down="mlp.c_proj", embedding="wte", head_dim="attn.head_dim",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}  # fmt: skip
"""By ``config.model_type`` of the transformers library, or ``model_type`` of our own."""


@dataclass(frozen=True)
class Transformer:
    """A model's transformer, by name.

    Attributes:
        name: of the module that the anatomy's names begin at; empty for the model itself.
        anatomy: where its parts are.
    """

    name: str
    anatomy: Anatomy

    def full(self, name: str) -> str:
        """A name from the model on."""
        return f"{self.name}.{name}" if self.name else name

    @property
    def layers(self) -> str:
        """Name of the list of layers."""
        return self.full(self.anatomy.layers)

    def num_layers(self, model: nn.Module) -> int:
        """How many layers the model has now."""
        layers: Any = model.get_submodule(self.layers)
        return len(layers)

    def layer(self, index: int) -> str:
        """Name of a layer."""
        return f"{self.layers}.{index}"

    def head_dim(self, model: nn.Module, index: int) -> int:
        """Width of the attention heads of a layer."""
        owner, _, attribute = f"{self.layer(index)}.{self.anatomy.head_dim}".rpartition(".")
        width: Any = getattr(model.get_submodule(owner), attribute)
        return int(width)

    def embedding(self, model: nn.Module) -> nn.Embedding | None:
        """The table of ids that can be trimmed; None where there is none, or a head is tied to it.

        A trimmed table would leave such a head without some of its outputs.
        """
        if isinstance(model, BodyAndHeads) and any(head.tied for head in model.heads):
            return None
        try:
            table = model.get_submodule(self.full(self.anatomy.embedding))
        except AttributeError:
            return None
        return table if isinstance(table, nn.Embedding) else None


def transformer_in(model: nn.Module) -> Transformer | None:
    """The outermost transformer of a model whose anatomy is known; None where there is none."""
    for name, module in model.named_modules():
        config = getattr(module, "config", module)
        anatomy = ANATOMIES.get(str(getattr(config, "model_type", None)))
        if anatomy is not None and _has_list(module, anatomy.layers):
            return Transformer(name, anatomy)
    return None


def _has_list(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), nn.ModuleList)
    except AttributeError:
        return False


def remove_part(model: nn.Module, name: str) -> None:
    """Take a block or layer out of a model, in place.

    A transformer's layer leaves its list, and those behind it move up; any other block is replaced
    by the identity. Parts that are taken out one after the other have the names that they have
    then, so that the same names in the same order make the same model of the whole one.

    Raises:
        ValueError: it has no such part.
    """
    if not name or name not in dict(model.named_modules()):
        raise ValueError(f"it has no block {name!r}")
    parent, _, child = name.rpartition(".")
    found = transformer_in(model)
    if found is None or parent != found.layers:
        setattr(model.get_submodule(parent), child, nn.Identity())
        return
    layers: Any = model.get_submodule(parent)
    del layers[int(child)]
    # What a layer looks at is listed by its place in some architectures.
    config: Any = getattr(model.get_submodule(found.name), "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kind for i, kind in enumerate(kinds) if i != int(child)]
