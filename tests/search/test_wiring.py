"""Every field of `search`, `scheduler`, `resources`, `limits` reaches Tune, Optuna or the rungs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler, TPESampler
from rich.console import Console

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.search import SchedulerConfig, SearchConfig
from pdo_search.results.schema import param_types
from pdo_search.results.writer import TableWriter
from pdo_search.search import sweep
from pdo_search.search.session import Session

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
        console, scratch = Console(quiet=True), str(tmp_path / "scratch")
        held = Session(info, loaded, directory, console, writer, scratch, at_once=3)
        sweep._search(held, trainable=trainable)
        config = caught["tune_config"]
        caught["searchers"] = config.search_alg.searchers
        caught["schedulers"] = config.scheduler.schedulers
        return caught

    return build


def sampler(caught: dict[str, Any]) -> Any:
    searcher = caught["searchers"]["progressive"]
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
    searcher = caught["searchers"]["progressive"]
    assert caught["tune_config"].num_samples == 9
    assert caught["run_config"].failure_config.max_failures == 4
    assert (searcher.metric, searcher.mode) == ("val_loss", "min")
    assert searcher.study.direction.name == "MINIMIZE"
    assert caught["schedulers"]["progressive"].rule.mode == "min"
    assert searcher.suggest("a")["point"]["temperature"] == 2.5
    assert searcher.study.sampler._multivariate
    assert searcher.study.sampler._n_startup_trials == 5


def test_sampler_and_seed(built: Any) -> None:
    assert isinstance(sampler(built(search={"sampler": "random"})), RandomSampler)
    points = [built(search={"seed": s})["searchers"]["progressive"].suggest("a") for s in (1, 1, 2)]
    assert points[0] == points[1] != points[2]
    point = {"num_stages": 2, "temperature": 3.0, "optimizer.lr": 0.1}
    only = built(search={"sampler": "grid", "points": [point]})
    searcher = only["searchers"]["progressive"]
    assert searcher.suggest("a")["point"] == point
    assert searcher.suggest("b") == searcher.FINISHED


def test_scheduler(built: Any) -> None:
    given = {"kind": "asha", "clock": "stage", "grace": 2, "reduction": 4, "brackets": 3}
    own = built(scheduler=given)["schedulers"]["progressive"]
    assert own.rule.config == SchedulerConfig(**given)
    assert own._config.clock == "stage"
    assert built(scheduler={"kind": "none"})["schedulers"]["progressive"]._config.kind == "none"
    assert built(search={"seed": 7})["schedulers"]["progressive"].rule.seed == 7


def test_promotion(built: Any) -> None:
    caught = built(scheduler={"kind": "asha_promotion"})
    assert SchedulerConfig().pauses
    assert caught["tune_config"].num_samples == -1
    promoter = caught["searchers"]["progressive"]._promoter
    assert promoter.scheduler is caught["schedulers"]["progressive"]
    assert built()["searchers"]["progressive"]._promoter is None


@pytest.mark.parametrize(
    ("scheduler", "epochs"),
    [
        ({"kind": "asha_promotion", "grace": 1, "reduction": 2}, (1, 2)),
        ({"kind": "asha_promotion", "grace": 1, "reduction": 2, "clock": "stage"}, ()),
        ({"kind": "asha", "grace": 1, "reduction": 2}, ()),
    ],
)
def test_state_is_saved_where_a_trial_may_pause(
    tmp_path: Path, scheduler: dict[str, Any], epochs: tuple[int, ...]
) -> None:
    tree = {**TINY, "scheduler": scheduler}
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=tmp_path)
    point = {"num_stages": 1, "temperature": 2.0, "optimizer.lr": 0.1}
    assert resolve(loaded.experiment, point).save_after == epochs


def test_resources_and_limits(built: Any) -> None:
    caught = built(resources={"cpus": 2, "gpus": 0.5}, limits={"wall": "1h"})
    deadline = caught["searchers"]["progressive"]._deadline
    assert deadline == pytest.approx(time.monotonic() + 3600, abs=60)
    assert caught["trainable"]._resources.head_cpus == 2
    assert caught["trainable"]._resources.bundles[0]["GPU"] == 0.5
    nested = built(resources={"workers": 2})
    assert not nested["tune_config"].reuse_actors
    assert nested["trainable"]._resources.head_cpus < 0.01
    assert built()["searchers"]["progressive"]._deadline == math.inf


def test_what_tune_runs_as_a_trial_can_be_given(built: Any) -> None:
    def replay(suggestion: dict[str, Any]) -> None: ...

    assert built(trainable=replay)["trainable"] is replay


def test_baselines_have_searchers_and_schedulers_of_their_own(built: Any) -> None:
    caught = built(search={"num_trials": 20, "baselines": ["scratch", "assistant"]})
    assert caught["tune_config"].num_samples == 20 + 2 * 5
    assert list(caught["searchers"]) == list(caught["schedulers"])
    assert list(caught["searchers"]) == ["progressive", "scratch", "assistant"]
    few = built(search={"baselines": ["one_shot"], "baseline_trials": 2})
    assert few["tune_config"].num_samples == 6 + 2
    points = [built(search={"seed": s, "baselines": ["scratch"]})["searchers"]["scratch"]
              for s in (1, 1, 2)]  # fmt: skip
    first, again, other = (searcher.suggest("a")["point"] for searcher in points)
    assert list(first) == ["optimizer.lr"]
    assert first == again != other


def test_epochs_of_a_trial_that_was_not_written_any_more_are_no_hindrance(tmp_path: Path) -> None:
    tree = {**TINY, "output": {"root": str(tmp_path)}}
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=tmp_path)
    info, directory = sweep.new_sweep(loaded)
    writer = TableWriter(directory, param_types(loaded.space))
    writer.upsert("epochs", {"number": 0, "trial_id": "t0000", "epoch": 1, "val_accuracy": 0.5})
    held = Session(info, loaded, directory, Console(quiet=True), writer, str(tmp_path))
    plan = sweep._plans(held)["progressive"]
    assert (plan.num_new, plan.observations) == (6, ())
