"""A transformer for token ids, items or frames that reads its sizes off its own tensors.

So a pruned one is loaded by fitting the shapes of its stored tensors, without any code of its own.

Legend: B examples, L positions (padded), D width, H attention heads, F features of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.models.bodies import Body, BodyAndHeads, refuse_longer, the_input
from pdo_search.tasks.base import Batch, Head, mask_of
from pdo_search.tasks.inputs import SequenceInputs

__all__ = ["SmallTransformer", "small_transformer"]

HEAD_DIM = 32
MAX_LENGTH = 512
KERNEL = 5
STRIDES = (1, 2, 4)


class Layer(nn.Module):
    """Attention and a feed-forward network, each after its norm (Xiong et al. 2020, figure 1b)."""

    def __init__(self, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.head_dim = width // num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.o = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, allowed: Tensor | None, causal: bool) -> Tensor:
        """(B, L, D) to (B, L, D); ``allowed`` (B, 1, 1, L) are the positions to look at."""
        normed = self.norm1(x)
        q, k, v = (self._by_head(layer(normed)) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)
        x = x + self.dropout(self.o(mixed.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return x + added

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, L, H·head_dim) to (B, H, L, head_dim)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class Stem(nn.Module):
    """Frames (B, L, F) to (B, L / stride, D), by one or two convolutions over time.

    Padding is zeroed before each, so that an example's outputs do not depend on it.
    """

    def __init__(self, features: int, width: int, stride: int) -> None:
        super().__init__()
        strides = (2, 2) if stride == 4 else (stride,)
        sizes = [features, *[width] * len(strides)]
        self.convs = nn.ModuleList(
            nn.Conv1d(i, o, KERNEL, s, KERNEL // 2)
            for i, o, s in zip(sizes, sizes[1:], strides, strict=False)
        )

    def forward(self, x: Tensor, own: Tensor | None) -> Tensor:
        """``own`` (B, L) are the positions that are no padding."""
        x = x.transpose(1, 2)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            if own is not None:
                x = x * own[:, None]
                own = own[:, :: conv.stride[0]]
            x = F.gelu(conv(x))
        return x.transpose(1, 2)


class SmallTransformer(Body):
    """A pre-norm transformer with learned positions.

    Args:
        name: of the input.
        width: D, a multiple of ``num_heads``.
        depth: number of layers.
        num_heads: attention heads of a layer.
        ffn: neurons of a feed-forward network.
        vocab: number of ids; None for frames.
        features: F of frames; None for ids.
        max_length: most positions of the states.
        causal: whether a position sees those before it alone.
        stride: frames that make one position: 1, 2 or 4.
    """

    model_type = "small_transformer"

    def __init__(
        self,
        name: str,
        width: int,
        depth: int,
        *,
        num_heads: int,
        ffn: int,
        vocab: int | None = None,
        features: int | None = None,
        max_length: int = MAX_LENGTH,
        causal: bool = False,
        stride: int = 1,
    ) -> None:
        super().__init__()
        assert (vocab is None) != (features is None)
        self.input, self.width, self.stride, self.causal = name, width, stride, causal
        self.embed = None if vocab is None else nn.Embedding(vocab, width)
        self.stem = None if features is None else Stem(features, width, stride)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Layer(width, num_heads, ffn) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        std = 0.05 if vocab is None else 0.02
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def embedding(self) -> nn.Embedding | None:
        """The table of its inputs' ids; None where it takes frames."""
        return self.embed

    def forward(self, batch: Batch) -> Tensor:
        """Ids (B, L) or frames (B, L, F) to states (B, L / stride, D)."""
        given = batch[self.input]
        own = self.own_positions(batch)
        if self.embed is not None:
            x = self.embed(given)
        else:
            assert self.stem is not None
            x = self.stem(given, None if own is None else batch[mask_of(self.input)])
        refuse_longer(x.shape[1], self.positions.num_embeddings)
        x = self.dropout(x + self.positions.weight[: x.shape[1]])
        # Padding comes last: who looks back alone never sees it.
        allowed = None if self.causal or own is None else own[:, None, None]
        for layer in self.layers:
            x = layer(x, allowed, self.causal)
        states: Tensor = self.norm(x)
        return states


def small_transformer(
    heads: Sequence[Head],
    inputs: SequenceInputs,
    width: int = 128,
    depth: int = 2,
    *,
    input: str | None = None,
    num_heads: int | None = None,
    ffn: int | None = None,
    vocab: int | None = None,
    max_length: int | None = None,
    causal: bool = False,
    stride: int = 1,
) -> BodyAndHeads:
    """A small transformer with a task's heads.

    It takes ids where ``vocab`` or the task says how many there are, or a head is tied to its
    input; frames otherwise.

    Args:
        heads: of the task.
        inputs: of the task.
        width: of the states.
        depth: number of layers.
        input: name of the one it reads, where there are several.
        num_heads: attention heads; by default of 32 each.
        ffn: neurons of a feed-forward network; by default 4 ``width``.
        vocab: number of ids; by default the task's, or the size of the head that is tied to the
            input.
        max_length: most positions; by default the task's, those of inputs of one length, or 512.
        causal: whether a position sees those before it alone.
        stride: frames that make one position.

    Raises:
        InputError: the sizes make no transformer.
    """
    name = the_input(inputs, input)
    shape = inputs.shapes[name]
    tied = max((head.size for head in heads if head.tied == name), default=None)
    vocab = vocab or inputs.num_ids or tied
    num_heads = num_heads or max(1, width // HEAD_DIM)
    _check(width, num_heads, stride, vocab, shape)
    of_one_length = len(shape) > (0 if vocab else 1)
    body = SmallTransformer(
        name,
        width,
        depth,
        num_heads=num_heads,
        ffn=ffn or 4 * width,
        vocab=vocab,
        features=None if vocab else shape[-1],
        max_length=max_length or inputs.max_length or (shape[0] if of_one_length else MAX_LENGTH),
        causal=causal,
        stride=stride,
    )
    return BodyAndHeads(body, heads)


def _check(
    width: int, num_heads: int, stride: int, vocab: int | None, shape: tuple[int, ...]
) -> None:
    if width % num_heads:
        raise InputError(
            f"{width} is no multiple of {num_heads} attention heads", path="width", value=width,
            remedy=f"take {width - width % num_heads or num_heads}, or another args.num_heads",
        )  # fmt: skip
    if stride not in STRIDES or (stride > 1 and vocab):
        raise InputError(
            "is no stride" if stride not in STRIDES else "is of frames, and these are ids",
            path="args.stride", value=stride, remedy="take 1; of frames 2 or 4, too",
        )  # fmt: skip
    if vocab is None and not shape:
        raise InputError(
            "must say how many ids there are: the input has one number per position",
            path="args.vocab", remedy="give args.vocab, the size of the task's vocabulary",
        )  # fmt: skip
