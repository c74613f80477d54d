"""Which tensors in a checkpoint are the model's, wherever they lie and however they are named.

Knows mappings and key names. Knows neither files nor what is done with the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pdo_search.errors import InputError
from pdo_search.safetext import printable

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


def find_weights(content: object, model: nn.Module) -> Found:
    """A model's tensors within what a checkpoint file held.

    Of several that fit, those of the right shapes are taken, then averages (EMA, SWA): they are
    what trainings that keep them report, and what timm loads. Then those with a usual name.

    Args:
        content: mappings, lists and tensors, nested.
        model: whose they are to be.

    Raises:
        InputError: there are no tensors, or several that cannot be told apart; names the keys.
    """
    own = model.state_dict()
    found: list[Found] = []
    for place, mapping in _mappings(content, "", DEEPEST):
        found += _within(place, mapping, own)
    if not found:
        raise InputError(
            f"the checkpoint holds no state dict of tensors; {_described(content)}",
            remedy="save the weights: torch.save(model.state_dict(), 'weights.pt')",
        )
    fitting = [one for one in found if one.fits]
    if not fitting:
        return max(found, key=lambda one: len(one.tensors.keys() & own.keys()))
    best = max(one.rank for one in fitting)
    chosen = [one for one in fitting if one.rank == best]
    if len(chosen) > 1 and not _same(chosen):
        places = ", ".join(printable(one.place or "the top level") for one in chosen)
        raise InputError(
            f"the checkpoint holds {len(chosen)} sets of weights that fit the model: {places}",
            remedy="save the one that is meant alone, such as torch.save("
            f"{_taken_out(chosen[0].place)}, 'weights.pt')",
        )
    others = tuple(one.place or "the top level" for one in fitting if one not in chosen)
    return Found(**{**vars(chosen[0]), "others": others})


def listed(keys: list[str] | tuple[str, ...]) -> str:
    """Keys in a sentence: the first ones, and how many there are beyond."""
    more = f" and {len(keys) - SHOWN_KEYS:,} more" if len(keys) > SHOWN_KEYS else ""
    return printable(", ".join(keys[:SHOWN_KEYS])) + more


def _mappings(content: object, place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings that have tensors by name, and where; not the states of optimizers."""
    if isinstance(content, Mapping):
        if "param_groups" in content:
            return
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield place, tensors
        inner = [(str(k), v) for k, v in content.items() if isinstance(v, Mapping | list | tuple)]
    elif isinstance(content, list | tuple) and len(content) <= MOST_ENTRIES:
        inner = [(str(i), v) for i, v in enumerate(content)]
    else:
        return
    for key, value in inner if depth else ():
        if not key.lower().startswith("optim"):
            yield from _mappings(value, f"{place}.{key}" if place else key, depth - 1)


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
    best = max(matches, key=lambda p: (matches[p], not p), default="")
    # A shorter tail of a key may be a key of the model as well, by chance.
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


def _taken_out(place: str) -> str:
    """Python that takes a place's mapping out of the file, as far as it is a mapping."""
    return f"torch.load(FILE)[{place.split('.')[0]!r}]" if place else "model.state_dict()"


def _described(content: object) -> str:
    """The keys that a checkpoint has, with the kinds of their values."""
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if not content:
        return "it is empty"
    return "its keys: " + listed([f"{k} ({type(v).__name__})" for k, v in content.items()])
