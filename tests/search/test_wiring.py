"""Every field of `search`, `scheduler`, `resources`, `limits` reaches Tune, Optuna or the rungs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler, TPESampler
from rich.console import Console

from pdo_search.config import parse_experiment
from pdo_search.config.schema import SchedulerConfig, SearchConfig
from pdo_search.results.schema import param_types
from pdo_search.results.writer import TableWriter
from pdo_search.search import sweep

from ..conftest import TINY


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a sweep would hand to Tune, for given changes of the experiment."""
    from ray import tune

    def build(*, trainable: Any = None, **changes: Any) -> dict[str, Any]:
        tree = {**TINY, "output": {"root": str(tmp_path)}}
        for section, values in changes.items():
            tree[section] = {**tree.get(section, {}), **values}
        loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=tmp_path)
        info, directory = sweep.new_sweep(loaded)
        caught: dict[str, Any] = {}

        class Caught:
            def __init__(self, trainable: Any, **settings: Any) -> None:
                caught.update(settings, trainable=trainable)

            def fit(self) -> None:
                return

        monkeypatch.setattr(tune, "Tuner", Caught)
        writer = TableWriter(directory, param_types(loaded.space))
        console = Console(quiet=True)
        sweep._tune(
            info, loaded, directory, writer, 3, str(tmp_path / "scratch"), console,
            trainable=trainable,
        )  # fmt: skip
        return caught

    return build


def sampler(caught: dict[str, Any]) -> Any:
    searcher = caught["tune_config"].search_alg
    assert searcher.suggest("a") is not None
    return searcher.study.sampler


def test_defaults(built: Any) -> None:
    caught = built()
    config = caught["tune_config"]
    assert config.num_samples == 6
    assert config.max_concurrent_trials == 3
    assert config.reuse_actors
    assert caught["run_config"].failure_config.max_failures == SearchConfig().retries
    found = sampler(caught)
    assert isinstance(found, TPESampler)
    assert found._n_startup_trials == 3
    assert not found._multivariate


def test_search(built: Any) -> None:
    points = [{"temperature": 2.5}]
    caught = built(
        search={
            "num_trials": 9, "metric": "val_loss", "mode": "min", "multivariate": True,
            "startup_trials": 5, "retries": 4, "points": points,
        }
    )  # fmt: skip
    searcher = caught["tune_config"].search_alg
    assert caught["tune_config"].num_samples == 9
    assert caught["run_config"].failure_config.max_failures == 4
    assert (searcher.metric, searcher.mode) == ("val_loss", "min")
    assert searcher.study.direction.name == "MINIMIZE"
    assert caught["tune_config"].scheduler.rungs.mode == "min"
    assert searcher.suggest("a")["point"]["temperature"] == 2.5
    assert searcher.study.sampler._multivariate
    assert searcher.study.sampler._n_startup_trials == 5


def test_sampler_and_seed(built: Any) -> None:
    assert isinstance(sampler(built(search={"sampler": "random"})), RandomSampler)
    points = [built(search={"seed": s})["tune_config"].search_alg.suggest("a") for s in (1, 1, 2)]
    assert points[0] == points[1] != points[2]
    point = {"num_stages": 2, "temperature": 3.0, "optimizer.lr": 0.1}
    only = built(search={"sampler": "grid", "points": [point]})
    searcher = only["tune_config"].search_alg
    assert searcher.suggest("a")["point"] == point
    assert searcher.suggest("b") == searcher.FINISHED


def test_scheduler(built: Any) -> None:
    given = {"clock": "stage", "grace": 2, "reduction": 4, "brackets": 3}
    rungs = built(scheduler=given)["tune_config"].scheduler
    assert rungs.rungs.config == SchedulerConfig(**given)
    assert rungs._config.clock == "stage"
    assert built(scheduler={"kind": "none"})["tune_config"].scheduler._config.kind == "none"
    assert built(search={"seed": 7})["tune_config"].scheduler.rungs.seed == 7


def test_resources_and_limits(built: Any) -> None:
    caught = built(resources={"cpus": 2, "gpus": 0.5}, limits={"wall": "1h"})
    deadline = caught["tune_config"].search_alg._deadline
    assert deadline == pytest.approx(time.monotonic() + 3600, abs=60)
    assert caught["trainable"]._resources.head_cpus == 2
    assert caught["trainable"]._resources.bundles[0]["GPU"] == 0.5
    nested = built(resources={"workers": 2})
    assert not nested["tune_config"].reuse_actors
    assert nested["trainable"]._resources.head_cpus < 0.01
    assert built()["tune_config"].search_alg._deadline == math.inf


def test_what_tune_runs_as_a_trial_can_be_given(built: Any) -> None:
    def replay(suggestion: dict[str, Any]) -> None: ...

    assert built(trainable=replay)["trainable"] is replay
