"""The units by which models are simplified, and what is worth keeping of each.

A literal table of functions of one signature: each makes a model really smaller, in place. What is
removed of models of pictures is ``prune``'s; recovery and back-off are elsewhere.

Legend: B examples, L positions (padded), H groups of attention heads, W neurons or head outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.base.errors import Infeasible
from pdo_search.config.keep import ALL, Amount
from pdo_search.models.anatomy import Transformer, remove_part, transformer_in
from pdo_search.models.bodies import BodyAndHeads, TrimmedEmbedding
from pdo_search.models.modelfile import fit_shapes
from pdo_search.models.prune import drop_blocks, droppable_blocks, pixels_of, prune_channels
from pdo_search.tasks.base import Batch, Head, Outputs, Vocabulary
from pdo_search.tasks.kinds import KINDS, mask_of_head

__all__ = ["UNITS", "Removed", "Surgery", "kept", "layer_changes", "shown", "units_of"]


@dataclass(frozen=True)
class Surgery:
    """What is asked about a model's parts.

    Attributes:
        heads: of the task.
        forward: a model's outputs of a prepared batch.
        batches: prepared calibration batches, on the model's device.
        round_to: channels and neurons become a multiple of it.
        timeout_s: longest time for tracing what depends on channels, seconds.
        vocabulary: how often each id of the inputs occurs; for the unit of that name alone.
    """

    heads: tuple[Head, ...]
    forward: Callable[[nn.Module, Batch], Outputs]
    batches: Sequence[Batch]
    round_to: int = 1
    timeout_s: float = 600.0
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class Removed:
    """What was taken out of a model.

    Attributes:
        unit: name in ``UNITS``.
        count: how many; of attention heads and neurons, of the layer that lost most.
        names: of blocks and layers, one after the other, as ``ModelSpec.dropped_blocks`` has them.
    """

    unit: str
    count: int
    names: tuple[str, ...] = ()


def shown(removed: Iterable[Removed]) -> str:
    """What was removed as text: ``heads 2, ffn 384, layers 1``."""
    return ", ".join(f"{part.unit} {part.count}" for part in removed if part.count)


def units_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the units that a model has: of a transformer its own, of all others channels and
    blocks."""
    found = transformer_in(model)
    if found is None:
        return ("channels", "blocks")
    return ("layers", "heads", "ffn", *(["vocab"] if found.embedding(model) else []))


def kept(model: nn.Module, keep: Mapping[str, Amount], surgery: Surgery) -> tuple[Removed, ...]:
    """Keep of a model what a configuration says, in place.

    Args:
        model: in any mode, which is left.
        keep: shares or counts by unit, as ``config.keep.keep_of`` gives them; those under ``ALL``
            are of channels, or of a transformer's attention heads and neurons.
        surgery: what is asked about its parts.

    Returns:
        What was removed, in the order of the table.

    Raises:
        Infeasible: the model has no such unit, or cannot lose it.
    """
    own = units_of(model)
    wanted = dict(keep)
    share = wanted.pop(ALL, None)
    if share is not None:
        wanted |= dict.fromkeys(("channels",) if "channels" in own else ("heads", "ffn"), share)
    for unit in wanted:
        if unit not in own:
            raise Infeasible(
                f"{type(model).__name__} has no {unit} that can be removed: it has {', '.join(own)}"
            )
    was_training = model.training
    model.eval()
    try:
        return tuple(UNITS[u](model, wanted[u], surgery) for u in UNITS if u in wanted)
    finally:
        model.train(was_training)


def _channels(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Of every layer those of the smallest norms, with what depends on them."""
    before = _num_channels(model)
    example = pixels_of(surgery.batches[0])[:1]
    ratio = float(1 - Fraction(amount))
    prune_channels(model, example, ratio, surgery.round_to, timeout_s=surgery.timeout_s)
    return Removed("channels", before - _num_channels(model))


def _num_channels(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _blocks(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Residual blocks without which the outputs change least."""
    batch = pixels_of(surgery.batches[0])
    number = len(droppable_blocks(model, batch[:1]))
    names = drop_blocks(model, batch, number - _count(amount, number, least=0))
    return Removed("blocks", len(names), names)


def _layers(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Layers without which the outputs change least, one after the other."""
    found = _transformer(model)
    number = found.num_layers(model)
    names = []
    for _ in range(number - _count(amount, number)):
        changes = layer_changes(model, surgery)
        least = min(changes, key=lambda name: changes[name])
        remove_part(model, least)
        names.append(least)
    return Removed("layers", len(names), tuple(names))


@torch.inference_mode()
def layer_changes(model: nn.Module, surgery: Surgery) -> dict[str, float]:
    """How far the outputs are from those without a layer, by its name: the heads' divergences at
    temperature 1, summed; a mean over the batches' examples."""
    found = _transformer(model)
    intact = [surgery.forward(model, batch) for batch in surgery.batches]
    number = sum(len(next(iter(outputs.values()))) for outputs in intact)
    changes = {}
    for name in map(found.layer, range(found.num_layers(model))):
        with _without(model.get_submodule(name)):
            apart = [
                KINDS[head.kind].divergence(
                    surgery.forward(model, batch)[head.name],
                    outputs[head.name],
                    1.0,
                    mask_of_head(head, batch),
                )
                for batch, outputs in zip(surgery.batches, intact, strict=True)
                for head in surgery.heads
            ]
        changes[name] = torch.cat(apart).sum().item() / number
    return changes


@contextmanager
def _without(layer: nn.Module) -> Iterator[None]:
    """Let a layer give what it gets."""

    def pass_on(_: nn.Module, inputs: Any, named: Any, __: Any) -> Tensor:
        given: Tensor = inputs[0] if inputs else named["hidden_states"]
        return given

    handle = layer.register_forward_hook(pass_on, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _heads(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Of every layer the attention heads of the smallest mean norm of what they add to the states.

    Heads that share keys and values go together.
    """
    found = _transformer(model)
    anatomy, most = found.anatomy, 0
    mixers = [f"{found.layer(i)}.{anatomy.o}" for i in range(found.num_layers(model))]
    widths = [found.head_dim(model, i) for i in range(len(mixers))]
    groups = [_num_groups(model, found, i) for i in range(len(mixers))]
    grams = [_grams(_matrix(model, o), n) for o, n in zip(mixers, groups, strict=True)]

    def norms(at: int, x: Tensor) -> Tensor:
        """(P, W) inputs of what mixes heads to (P, H) norms of each one's part of its outputs."""
        parts = x.view(len(x), groups[at], -1)
        squares = torch.einsum("phi,hij,phj->ph", parts, grams[at], parts)
        return squares.clamp(min=0).sqrt()

    scores = _mean_inputs(model, mixers, norms, surgery)
    smaller: dict[str, Tensor] = {}
    for index, score in enumerate(scores):
        stays = _best(score, _count(amount, groups[index]))
        removed = groups[index] - len(stays)
        queries = _matrix(model, mixers[index]).shape[1] // groups[index]
        most = max(most, removed * (queries // widths[index]))
        layer = found.layer(index)
        of_queries, of_keys = _spread(stays, queries), _spread(stays, widths[index])
        if anatomy.is_fused:
            width = groups[index] * widths[index]
            of_all = torch.cat([of_queries + i * width for i in range(3)])
            smaller |= _outputs(model, f"{layer}.{anatomy.q}", of_all)
        else:
            smaller |= _outputs(model, f"{layer}.{anatomy.q}", of_queries)
            smaller |= _outputs(model, f"{layer}.{anatomy.k}", of_keys)
            smaller |= _outputs(model, f"{layer}.{anatomy.v}", of_keys)
        smaller |= _inputs(model, mixers[index], of_queries)
    _resize(model, smaller)
    return Removed("heads", most)


def _num_groups(model: nn.Module, found: Transformer, index: int) -> int:
    """How many groups of attention heads a layer has: as many as there are keys."""
    outputs = _matrix(model, f"{found.layer(index)}.{found.anatomy.k}").shape[0]
    return outputs // found.head_dim(model, index) // (3 if found.anatomy.is_fused else 1)


def _grams(matrix: Tensor, groups: int) -> Tensor:
    """(H, W/H, W/H): products by which a head's outputs give the squared norm of their part."""
    parts = matrix.reshape(len(matrix), groups, -1).transpose(0, 1)
    return torch.einsum("hdi,hdj->hij", parts, parts)


def _neurons(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Of every layer the feed-forward neurons of the smallest mean absolute activation
    (Muralidharan et al. 2024, section 2.2)."""
    found = _transformer(model)
    layers = [found.layer(i) for i in range(found.num_layers(model))]
    readers = [f"{layer}.{found.anatomy.down}" for layer in layers]
    scores = _mean_inputs(model, readers, lambda _, x: x.abs(), surgery)
    smaller: dict[str, Tensor] = {}
    most = 0
    for layer, reader, score in zip(layers, readers, scores, strict=True):
        stays = _best(score, _rounded(_count(amount, len(score)), len(score), surgery.round_to))
        most = max(most, len(score) - len(stays))
        for up in found.anatomy.up:
            smaller |= _outputs(model, f"{layer}.{up}", stays)
        smaller |= _inputs(model, reader, stays)
    _resize(model, smaller)
    return Removed("ffn", most)


def _vocabulary(model: nn.Module, amount: Amount, surgery: Surgery) -> Removed:
    """Rows of the embedding whose ids are rarest; these ids then read the unknown one's row."""
    found = _transformer(model)
    table = found.embedding(model)
    assert table is not None
    name = found.full(found.anatomy.embedding)
    whole = torch.arange(table.num_embeddings, device=table.weight.device)
    row_of = table.row_of if isinstance(table, TrimmedEmbedding) else whole
    ids = surgery.vocabulary
    if ids is None or len(ids.counts) > len(row_of):
        raise Infeasible(
            f"the vocabulary of {len(row_of):,} ids is trimmed by how often each occurs, and"
            f" {'nothing counts them' if ids is None else f'{len(ids.counts):,} are counted'}"
        )
    number = table.num_embeddings
    # A table may have rows beyond the last id, to be of a round size.
    uses = torch.zeros(number, dtype=torch.float32, device=row_of.device).index_add_(
        0, row_of[: len(ids.counts)], ids.counts.to(row_of.device, torch.float32)
    )
    unknown = row_of[ids.unknown]
    uses[unknown] = torch.inf
    stays = _best(uses, _count(amount, number))
    moved = torch.full((number,), int(torch.searchsorted(stays, unknown)), device=row_of.device)
    moved[stays] = torch.arange(len(stays), device=row_of.device)
    weight = table.weight.detach().index_select(0, stays)
    _resize(model, {f"{name}.weight": weight, f"{name}.row_of": moved[row_of]})
    return Removed("vocab", number - len(stays))


Unit = Callable[[nn.Module, Amount, Surgery], Removed]
UNITS: Mapping[str, Unit] = {
    "channels": _channels,
    "blocks": _blocks,
    "layers": _layers,
    "heads": _heads,
    "ffn": _neurons,
    "vocab": _vocabulary,
}
"""By name, in the order in which they are removed. An amount is the share (a ``Fraction`` below 1)
or the number that stays: of attention heads and neurons, in every layer. At least one does."""


def _transformer(model: nn.Module) -> Transformer:
    found = transformer_in(model)
    assert found is not None
    return found


def _count(amount: Amount, number: int, least: int = 1) -> int:
    """How many of a number stay."""
    stays = round(amount * number) if isinstance(amount, Fraction) else amount
    return min(number, max(least, stays))


def _rounded(count: int, number: int, multiple: int) -> int:
    """A count as the nearest multiple, one at least, or all."""
    return min(number, max(1, round(count / multiple)) * multiple)


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores, in their own order; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _spread(index: Tensor, width: int) -> Tensor:
    """Indices of the numbers of groups of a width."""
    return (index[:, None] * width + torch.arange(width, device=index.device)).flatten()


@torch.inference_mode()
def _mean_inputs(
    model: nn.Module,
    names: Sequence[str],
    score: Callable[[int, Tensor], Tensor],
    surgery: Surgery,
) -> list[Tensor]:
    """Mean over the examples' own positions of scores (P, …) of inputs (P, W) of layers, by
    layer."""
    sums: dict[int, Tensor] = {}
    own: list[Tensor | None] = [None]

    def hook(at: int) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x, mask = inputs[0].to(torch.get_default_dtype()), own[0]
            # Some models flatten positions before these layers.
            flat = x.flatten(0, -2)
            rows = flat if mask is None else flat[mask.flatten()]
            sums[at] = sums.get(at, torch.zeros(())) + score(at, rows).sum(dim=0)

        return note

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(at))
        for at, name in enumerate(names)
    ]
    try:
        for batch in surgery.batches:
            own[0] = model.body.own_positions(batch) if isinstance(model, BodyAndHeads) else None
            surgery.forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    # The number of positions is the same for all, so that sums rank as means do.
    return [sums[at] for at in range(len(names))]


def _is_transposed(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"


def _matrix(model: nn.Module, name: str) -> Tensor:
    """A layer's matrix (outputs, inputs)."""
    layer: Any = model.get_submodule(name)
    weight: Tensor = layer.weight.detach()
    return weight.T if _is_transposed(layer) else weight


def _outputs(model: nn.Module, name: str, stays: Tensor) -> dict[str, Tensor]:
    """A layer's tensors with some of its outputs alone, by name."""
    layer: Any = model.get_submodule(name)
    dim = 1 if _is_transposed(layer) else 0
    found = {f"{name}.weight": layer.weight.detach().index_select(dim, stays)}
    if layer.bias is not None:
        found[f"{name}.bias"] = layer.bias.detach()[stays]
    return found


def _inputs(model: nn.Module, name: str, stays: Tensor) -> dict[str, Tensor]:
    """A layer's tensors with some of its inputs alone, by name."""
    layer: Any = model.get_submodule(name)
    dim = 0 if _is_transposed(layer) else 1
    return {f"{name}.weight": layer.weight.detach().index_select(dim, stays)}


def _resize(model: nn.Module, smaller: Mapping[str, Tensor]) -> None:
    """Give a model smaller tensors, exactly as it gets them when it is loaded."""
    state = model.state_dict()
    state.update(smaller)
    fit_shapes(model, state)
    model.load_state_dict(state)
