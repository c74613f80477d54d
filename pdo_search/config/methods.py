"""The methods that a trial may follow: the progressive one and its baselines at equal compute.

Owns what a method fixes of a recipe, and with it which search dimensions have an effect on it.
Knows nothing of how a stage is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pdo_search.config.space import Space

__all__ = ["BASELINES", "METHODS", "PROGRESSIVE", "Baseline", "Method", "fixed", "searched"]

Baseline = Literal["scratch", "one_shot", "assistant"]
Method = Literal["progressive", "scratch", "one_shot", "assistant"]

PROGRESSIVE: Method = "progressive"
BASELINES: tuple[Baseline, ...] = ("scratch", "one_shot", "assistant")
METHODS: tuple[Method, ...] = (PROGRESSIVE, *BASELINES)

_ONE_STAGE: Mapping[str, Any] = {
    "init_epochs": 0,
    "finetune_epochs": 0,
    "num_stages": 1,
    "temperature_end": None,
    "annealing": "linear",
    "teacher_order": "descending",
    "curriculum": {},
    "adapt": {"enabled": False},
    "composite": None,
}
_WITHOUT_LADDER: Mapping[str, Any] = {**_ONE_STAGE, "prune_ratio": 0.0, "simplify": {}}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "progressive": {},
    "scratch": {**_WITHOUT_LADDER, "temperature": 1.0, "loss": {}},
    "one_shot": _WITHOUT_LADDER,
    "assistant": _ONE_STAGE,
}


def fixed(method: str) -> Mapping[str, Any]:
    """What a method fixes of a recipe, by field: the rest is free, and the same for all methods."""
    return _FIXED[method]


def searched(space: Space, method: str) -> Space:
    """The dimensions that have an effect on a method: those outside of what it fixes."""
    return Space(tuple(d for d in space if d.path.partition(".")[0] not in fixed(method)))
