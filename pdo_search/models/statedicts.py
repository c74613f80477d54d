"""Which tensors in a checkpoint are the model's, wherever they lie and however they are named.

Knows mappings and key names. Knows neither files nor what is done with the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.base.safetext import printable

__all__ = ["Found", "find_weights", "listed"]

SHOWN_KEYS = 6
DEEPEST = 5
MOST_ENTRIES = 64
"""Of a list in a checkpoint: more are numbers, not models."""
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of keys that DataParallel, torch.compile, FSDP and activation checkpoints put in."""
COUNTERS = frozenset({"total_ops", "total_params", "n_averaged", "num_batches_tracked"})
"""Last parts of keys of thop, AveragedModel and batch norms that carry no weights."""
USUAL = frozenset(
    {"state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params",
     "backbone"}
)  # fmt: skip
"""Names under which checkpoints keep the model itself."""
AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|avg)\d*(_|$)")
BESIDE = re.compile(r"loss|criterion|metric|accuracy|(^|_)(ema|teacher)(_|$)")
"""First parts of keys of what a training keeps beside its model."""


@dataclass(frozen=True)
class Found:
    """A model's tensors within a checkpoint.

    Attributes:
        place: where they lie, such as ``state_dict.model``; empty for the whole checkpoint.
        tensors: by the keys that the model has for them.
        fits: whether the model's keys are all there.
        shaped: whether also all shapes are the model's.
        others: places of other tensors that would fit as well.
        beside: keys in the same mapping that are of something else.
        counters: keys of tools' counters that were left out.
    """

    place: str
    tensors: dict[str, Tensor]
    fits: bool
    shaped: bool
    others: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    counters: tuple[str, ...] = field(default=())

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """What is better is higher: the right shapes, an average, a usual name."""
        parts = [p for p in self.place.split(".") if p]
        if any(AVERAGED.search(part.lower()) for part in parts):
            return self.fits, self.shaped, 2
        return self.fits, self.shaped, int(set(parts) <= USUAL | WRAPPERS)


def find_weights(content: object, model: nn.Module, place: str | None = None) -> Found:
    """A model's tensors within what a checkpoint file held.

    Of several that fit, those of the right shapes are taken, then averages (EMA, SWA): they are
    what trainings that keep them report, and what timm loads. Then those with a usual name.

    Args:
        content: mappings, lists and tensors, nested.
        model: whose they are to be.
        place: where they lie, as ``Found.place`` has it; None finds them.

    Raises:
        InputError: there are no tensors, none in that place, or several that cannot be told apart;
            names the keys.
    """
    own = model.state_dict()
    found: list[Found] = []
    for where, mapping in _mappings(content, "", DEEPEST, set()):
        found += _within(where, mapping, own)
    if not found:
        raise InputError(
            f"the checkpoint holds no state dict of tensors; {_described(content)}",
            remedy="save the weights: torch.save(model.state_dict(), 'weights.pt')",
        )
    if place is not None:
        return _in_place(found, place)
    fitting = [one for one in found if one.fits]
    if not fitting:
        return max(found, key=lambda one: len(one.tensors.keys() & own.keys()))
    best = max(one.rank for one in fitting)
    chosen = [one for one in fitting if one.rank == best]
    if len(chosen) > 1 and not _same(chosen):
        raise InputError(
            f"the checkpoint holds {len(chosen)} sets of weights that fit the model:"
            f" {_places(chosen)}",
            remedy=f"name one behind the file: `weights: FILE#{printable(chosen[-1].place)}`",
        )
    others = tuple(one.place or "the top level" for one in fitting if one not in chosen)
    return Found(**{**vars(chosen[0]), "others": others})


def _in_place(found: list[Found], place: str) -> Found:
    named = [one for one in found if one.place == place]
    if named:
        return named[0]
    raise InputError(
        f"the checkpoint holds no weights in {place!r}",
        remedy=f"name another place behind the file: {_places(found)}",
    )


def _places(found: list[Found]) -> str:
    return listed([one.place or "the top level" for one in found])


def listed(keys: list[str] | tuple[str, ...]) -> str:
    """Keys in a sentence: the first ones, and how many there are beyond."""
    more = f" and {len(keys) - SHOWN_KEYS:,} more" if len(keys) > SHOWN_KEYS else ""
    return printable(", ".join(keys[:SHOWN_KEYS])) + more


def _mappings(
    content: object, place: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings that have tensors by name, and where; not the states of optimizers."""
    inner: list[tuple[str, object]] = []
    if id(content) in seen:
        return
    if isinstance(content, Mapping) and "param_groups" not in content:
        seen.add(id(content))
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and _is_dense(v)}
        if tensors:
            yield place, tensors
        inner = [(str(k), v) for k, v in content.items()]
    elif isinstance(content, list | tuple) and len(content) <= MOST_ENTRIES:
        inner = [(str(i), v) for i, v in enumerate(content)]
    for key, value in inner if depth else ():
        if isinstance(value, Mapping | list | tuple) and not key.lower().startswith("optim"):
            yield from _mappings(value, f"{place}.{key}" if place else key, depth - 1, seen)


def _is_dense(value: object) -> bool:
    """Whether a value is a tensor with a shape: a nested one has none."""
    return isinstance(value, Tensor) and not value.is_nested


def _within(place: str, tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[Found]:
    """What in one mapping could be the model's: all of it, or what stands under a prefix."""
    tensors = _unwrapped(tensors, own)
    needed = {k for k in own if not k.endswith("num_batches_tracked")}
    matches: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in needed:
                matches[".".join([*parts[:i], ""])] += 1
    whole = [prefix for prefix, count in matches.items() if count == len(needed)]
    # Where none is whole, the closest one, to say what is missing.
    best = max(matches, key=lambda p: (matches[p], not p), default="")
    return [_under(prefix, place, tensors, own, needed) for prefix in whole or [best]]


def _under(
    prefix: str,
    place: str,
    tensors: dict[str, Tensor],
    own: Mapping[str, Tensor],
    needed: set[str],
) -> Found:
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    fits = needed <= inside.keys()
    children = {key.partition(".")[0] for key in own}
    counters, beside, kept = [], [], {}
    for key, value in inside.items():
        first, _, rest = key.partition(".")
        if key not in own and key.rpartition(".")[2] in COUNTERS:
            counters.append(key)
        elif fits and first not in children and rest and BESIDE.search(first.lower()):
            beside.append(prefix + key)
        else:
            kept[key] = value
    for key in tensors:
        if not key.startswith(prefix):
            (counters if key.rpartition(".")[2] in COUNTERS else beside).append(key)
    return Found(
        ".".join(part for part in (place, prefix.rstrip(".")) if part),
        kept,
        fits,
        fits and all(own[k].shape == kept[k].shape for k in needed),
        beside=tuple(beside),
        counters=tuple(counters),
    )


def _unwrapped(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their keys without the parts that wrappers put in, unless the model has them."""
    extra = WRAPPERS - {part for key in own for part in key.split(".")}
    clean = {".".join(p for p in k.split(".") if p not in extra): v for k, v in tensors.items()}
    return clean if len(clean) == len(tensors) else tensors


def _same(chosen: list[Found]) -> bool:
    """Whether what was found several times is the same tensors."""
    first = chosen[0].tensors
    return all(
        one.tensors.keys() == first.keys() and all(v is first[k] for k, v in one.tensors.items())
        for one in chosen[1:]
    )


def _described(content: object) -> str:
    """The keys that a checkpoint has, with the kinds of their values."""
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if not content:
        return "it is empty"
    return "its keys: " + listed([f"{k} ({_kind(v)})" for k, v in content.items()])


def _kind(value: object) -> str:
    """A value's class; of a mapping also how many of what it holds."""
    name = type(value).__name__
    if not isinstance(value, Mapping) or not value:
        return name
    return f"{name} of {len(value):,} {type(next(iter(value.values()))).__name__}"
