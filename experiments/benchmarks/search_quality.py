"""What a search finds for its compute: ours, random search, Ray's OptunaSearch with its ASHA.

Replays learning curves of real sweeps (`curves/*.parquet`, made by running the experiment beside
each with `pdo-search run`) in virtual time through the real searcher and scheduler objects. What
counts is the expected accuracy at full budget of the configuration that a search would return, not
the lucky value that it has seen. Every method has the same seeds, workers and epochs, and takes the
random points that it starts with from one list per seed: the luckier draw is no merit.

    python experiments/benchmarks/search_quality.py            # a quarter of an hour on a core
    python experiments/benchmarks/search_quality.py --seeds 3 --space digits
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from simulate import Moment, compute_to_reach, simulate, value_at
from surrogate import SurrogateCurves

from pdo_search.config.load import load_experiment
from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.config.space import Space
from pdo_search.search.optuna_space import distributions
from pdo_search.search.tune.scheduler import EarlyStopping
from pdo_search.search.tune.searcher import OptunaSearcher

CURVES = Path(__file__).parent / "curves"
SPACES = ("digits", "digits_wide")
METRIC = "val_accuracy"
WORKERS = 4
FULL_TRIALS = 50
"""The budget: as many epochs as random search takes for this many trials."""
SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Checkpoints, as shares of the budget."""
BOOTSTRAP = 2000
TARGET_SEEDS = range(10_000, 10_100)
"""Random searches whose median end is to be reached: that of twenty would move the target by more
than the methods differ."""
RAYS_RANDOM = 10
"""Random trials with which Ray's OptunaSearch starts: Optuna's default."""
RANDOM, RAY, OURS = "random", "Ray OptunaSearch + ASHA", "ours: TPE + asha_promotion"

Pair = tuple[Any, Any]
Method = Callable[[Space, int, int], Pair]


@dataclass(frozen=True)
class Setup:
    """A space with its curves."""

    space: Space
    curves: SurrogateCurves
    epochs: int

    @classmethod
    def read(cls, name: str) -> Setup:
        space = load_experiment(CURVES / f"{name}.yaml").space
        table = pd.read_parquet(CURVES / f"{name}.parquet")
        curves = SurrogateCurves.from_table(table, space, METRIC)
        return cls(space, curves, int(table["epoch"].max()))


def random_points(space: Space, seed: int, number: int) -> tuple[dict[str, Any], ...]:
    """The first so many of a seed's random points, the same for every method."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return tuple(study.ask(distributions(space)).params for _ in range(number))


def ours(search: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Method:
    """Our searcher and scheduler, with the given fields of the experiment file."""

    def build(space: Space, seed: int, epochs: int) -> Pair:
        points = random_points(space, seed, SearchConfig(**search).startup_trials)
        config = SearchConfig(seed=seed, num_trials=100_000, points=points, **search)
        stopping = EarlyStopping(SchedulerConfig(**scheduler), metric=METRIC, mode="max", seed=seed)
        searcher = OptunaSearcher(space, config, num_new=config.num_trials, promoter=stopping)
        return searcher, stopping

    return build


def rays(**settings: Any) -> Method:
    """Ray's searcher and scheduler; settings are the scheduler's."""

    def build(space: Space, seed: int, epochs: int) -> Pair:
        np.random.seed(seed)  # Its brackets are drawn from the global generator.
        searcher = OptunaSearch(
            distributions(space), metric=METRIC, mode="max", seed=seed,
            points_to_evaluate=list(random_points(space, seed, RAYS_RANDOM)),
        )  # fmt: skip
        stopping = ASHAScheduler(
            time_attr="epoch", metric=METRIC, mode="max", max_t=epochs, **settings
        )
        return searcher, stopping

    return build


METHODS: dict[str, Method] = {
    RANDOM: ours({"sampler": "random"}, {"kind": "none"}),
    "random + asha_promotion": ours({"sampler": "random"}, {}),
    RAY: rays(),
    "Ray, our grace and reduction": rays(
        grace_period=SchedulerConfig().grace, reduction_factor=SchedulerConfig().reduction
    ),
    OURS: ours({}, {}),
    "ours, grace 3": ours({}, {"grace": 3}),
    "ours: TPE + asha, grace 3": ours({}, {"kind": "asha", "grace": 3}),
    "ours: TPE + median": ours({}, {"kind": "median"}),
}


def play(setup: Setup, method: Method, seed: int) -> list[Moment]:
    """One search."""
    searcher, scheduler = method(setup.space, seed, setup.epochs)
    return simulate(
        searcher,
        scheduler,
        setup.curves.with_seed(seed),
        metric=METRIC,
        workers=WORKERS,
        budget=FULL_TRIALS * setup.epochs,
        point_of=lambda config: config.get("point", config),
    )


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% bootstrap interval."""
    low, high = np.quantile(resampled(values).mean(axis=1), [0.025, 0.975])
    return float(np.mean(values)), float(high - low) / 2


def resampled(values: Sequence[float]) -> NDArray[np.float64]:
    """Bootstrap samples of values: (BOOTSTRAP, their number)."""
    found = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(found), (BOOTSTRAP, len(found)))
    drawn: NDArray[np.float64] = found[draws]
    return drawn


def random_end(setup: Setup) -> float:
    """What random search has with all of its compute: the median of ``TARGET_SEEDS``."""
    ends = [play(setup, METHODS[RANDOM], seed)[-1].truth for seed in TARGET_SEEDS]
    return float(np.median(ends))


def report(
    name: str, setup: Setup, target: float, played: Mapping[str, list[list[Moment]]]
) -> None:
    """Print the tables of one space."""
    budget = FULL_TRIALS * setup.epochs
    at = {
        method: {s: [value_at(run, int(s * budget)) for run in runs] for s in SHARES}
        for method, runs in played.items()
    }
    print(
        f"\n{name}: {len(setup.space)} dimensions, {setup.epochs} epochs, {WORKERS} workers,"
        f" {budget} epochs of compute, {len(played[RANDOM])} seeds"
    )
    print(
        "expected accuracy of what would be returned (mean, ± half of the 95% bootstrap interval)"
    )
    print(f"{'after this share of the compute':<34}" + "".join(f"{s:>16.0%}" for s in SHARES))
    for method, by_share in at.items():
        cells = (mean_and_interval(by_share[s]) for s in SHARES)
        print(f"{method:<34}" + "".join(f"{m:>9.4f} ±{w:.4f}" for m, w in cells))
    for rival in (RAY, RANDOM):
        if rival in at and OURS in at:
            print(f"{'difference: ours - ' + rival.split(' +')[0]:<34}", end="")
            for s in SHARES:
                pairs = zip(at[OURS][s], at[rival][s], strict=True)
                m, w = mean_and_interval([a - b for a, b in pairs])
                print(f"{m:>+9.4f} ±{w:.4f}", end="")
            print()
    print(
        f"compute to reach {target:.4f}, what random search has with all of it (median of"
        f" {len(TARGET_SEEDS)} others): median of seeds (95% bootstrap interval), quartiles"
    )
    for method, runs in played.items():
        shares = [compute_to_reach(run, target) / budget for run in runs]
        low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75], method="nearest")
        medians = np.quantile(resampled(shares), 0.5, axis=1, method="nearest")
        least, most = np.quantile(medians, [0.025, 0.975], method="nearest")
        print(
            f"{method:<34}{middle:>9.1%} ({least:.1%} to {most:.1%}),"
            f" quartiles {low:.1%} and {high:.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--space", choices=SPACES, action="append")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    given = parser.parse_args()
    methods = {m: build for m, build in METHODS.items() if m == RANDOM or given.only in m}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", module="optuna")
    for name in given.space or SPACES:
        began = time.monotonic()
        setup = Setup.read(name)
        played = {
            method: [play(setup, build, given.first_seed + n) for n in range(given.seeds)]
            for method, build in methods.items()
        }
        report(name, setup, random_end(setup), played)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
