"""Which runs a confirmation has: configurations by fresh seeds, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.ranking import finished
from pdo_search.base.seeds import seed_for
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "candidates", "fresh_seeds", "open_runs"]

SEEDS = 1_000_000


@dataclass(frozen=True)
class Run:
    """One configuration with one fresh seed.

    Attributes:
        number: of the configuration's trial in the search.
        trial_id: of that trial.
        method: of that trial.
        point: value by dimension.
        seed: of initialisation and data order.
    """

    number: int
    trial_id: str
    method: str
    point: dict[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Of its checkpoint and its model: ``t0003-seed17``."""
        return f"{self.trial_id}-seed{self.seed}"

    @property
    def key(self) -> tuple[int, int]:
        """Of its row."""
        return self.number, self.seed


def fresh_seeds(search_seed: int, count: int) -> tuple[int, ...]:
    """Seeds that the search did not use: the same for every configuration, so that they compare in
    pairs; more of them begin with the fewer, so that a confirmation can be enlarged."""
    seeds: list[int] = []
    draw = 0
    while len(seeds) < count:
        seed = seed_for(search_seed, "confirm", draw) % SEEDS
        draw += 1
        if seed != search_seed and seed not in seeds:
            seeds.append(seed)
    return tuple(seeds)


def candidates(trials: pd.DataFrame, methods: Sequence[str], top: int, mode: str) -> list[int]:
    """Numbers of the trials to confirm: ``top`` of the first method, the best of each other.

    Args:
        trials: rows of ``trials``.
        methods: of the sweep, the search's own first.
        top: how many of that one.
        mode: ``max`` or ``min``.
    """
    numbers: list[int] = []
    for position, method in enumerate(methods):
        own = finished(trials[trials[Col.METHOD] == method], mode)
        numbers += own[Col.NUMBER].head(1 if position else top).tolist()
    return numbers


def open_runs(runs: Iterable[Run], rows: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The runs that have not finished, in order; one that failed is tried again."""
    done = {
        (row[Col.NUMBER], row[Col.SEED])
        for row in rows
        if row[Col.STATUS] == TrialStatus.FINISHED.value
    }
    return [run for run in runs if run.key not in done]
