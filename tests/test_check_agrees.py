"""`check` refuses what `run` refuses, and nothing else: mutated experiments through both commands.

`run` goes its whole way up to where Ray would start trials: there the searcher suggests a first
trial, and the test ends it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdo_search.base.errors import PdoError
from pdo_search.cli.main import run_command
from pdo_search.search import sweep
from pdo_search.search.cluster import concurrency, this_machine, with_gpus
from pdo_search.search.session import Session
from pdo_search.search.tune import run
from pdo_search.search.tune.recorder import Work

BASE: dict[str, Any] = {
    "name": "agrees",
    "task": {"data": {"source": "digits", "limit": 400}},
    "teacher": {"arch": "small_resnet", "width": 4, "train": {"epochs": 1}},
    "student": {"arch": "small_convnet", "width": 4},
    "trial": {"epochs": 4, "num_stages": 2, "temperature": {"float": [1.0, 8.0]}},
    "search": {"num_trials": 3},
}
DIMENSIONS: list[Any] = [
    {"float": [1, 8]}, {"int": [1, 3]}, {"choice": [1, 2.0]}, {"choice": [1, 1.0]},
    {"choice": [True, 2]}, {"choice": ["1", 1]}, {"choice": []}, {"float": [8, 1]},
    {"float": [0, 1], "log": True}, {"float": [0.1, 1], "step": 1e-300}, {"int": [1, 10**30]},
    {"int": [1, 10**18]}, {"floats": [1, 8]}, [1, 8], [1, 2, 3], {"low": 1, "high": 8},
]  # fmt: skip
NUMBERS: list[Any] = [0, 1, -1, 2, True, "1", 0.5, 10**6, 2**32, 2**63 - 1, 2**63, 10**30, None]
PLACES: list[Any] = [
    "results", "/proc/nope", "e.yaml/x", "~/results", "~nobody-there/x", "/dev/null/x", "", ".",
    "s3:/x", "no-such-scheme://x/y", "x" * 300, "a\0b", 7,
]  # fmt: skip
MUTATIONS: dict[str, list[Any]] = {
    "name": ["a", "a/b", "..", "", "a b", 7, "x" * 64, "x" * 65],
    "search.seed": NUMBERS,
    "task.seed": NUMBERS,
    "search.num_trials": NUMBERS,
    "search.retries": NUMBERS,
    "search.startup_trials": NUMBERS,
    "search.sampler": ["tpe", "random", "grid", "bayes"],
    "search.points": [[], [{"temperature": 2.0}], [{"temperature": 99.0}], [{"lr": 1}]],
    "search.warm_start": [["nowhere"], ["e.yaml"], ["~/nowhere"], "nowhere"],
    "search.baselines": [["scratch"], ["one_shot", "assistant"], ["scratch", "scratch"], ["kd"]],
    "search.metric": ["val_accuracy", "val_loss", "test_accuracy"],
    "search.minimize": [["params"], ["flops", "flops"], ["money"]],
    "scheduler.kind": ["asha", "median", "none", "asha_promotion", "hyperband"],
    "scheduler.clock": ["epoch", "stage", "day"],
    "scheduler.grace": NUMBERS,
    "scheduler.brackets": NUMBERS,
    "resources.cpus": [0, 0.5, 1, 3, 64, 1e-9, 10**6, "two"],
    "resources.gpus": [0, "auto", 1, 0.5, 1.5, 8, -1, 1e-9, True, "all"],
    "resources.workers": [0, 1, 2, 10**9],
    "resources.max_concurrent": [0, 1, "auto", 10**9],
    "resources.backend": ["auto", "inprocess", "train", "mpi"],
    "resources.sync_batch_norm": [True, False, "maybe"],
    "output.root": PLACES,
    "output.store": PLACES,
    "task.data.source": ["digits", "image_folder", "nothing", "os:getcwd", "nope:f", "e.yaml"],
    "task.data.path": [*PLACES, "/etc"],
    "task.data.limit": NUMBERS,
    "task.data.size": [4, 16, 3, 10**6],
    "task.splits.transfer": [0, 0.2, 0.9, 1],
    "task.splits.labels": [20, 0.5, 1, 10**9],
    "task.augment.flip": [True, "yes", 1],
    "teacher.arch": ["small_resnet", "resnet18", "teacher", "vgg", "os:getcwd", ""],
    "teacher.width": [4, 0, 10**5, {"int": [4, 8]}],
    "teacher.weights": ["nowhere.pt", "e.yaml", "~/w.pt", "IMAGENET1K_V1"],
    "teacher.train": [None, {"epochs": 1}, {"epochs": 0}, {"epochs": 1, "lr": 99}],
    "teacher.normalization": ["data", "imagenet", {"mean": 0, "std": 0}, "none"],
    "student.arch": ["small_convnet", "teacher", "resnet18", "convnet"],
    "student.shrink": [0.5, 1, {"float": [0.1, 0.5]}],
    "student.width": [4, {"int": [4, 8]}, {"float": [4, 8]}, {"choice": [4, 8]}, "wide"],
    "student.args": [{"nope": 1}, {}, {"nope": {"int": [1, 2]}}],
    "trial.epochs": [*NUMBERS, {"int": [3, 5]}, {"float": [3, 5]}, {"int": [1, 5]}],
    "trial.num_stages": [1, 3, 9, {"int": [1, 3]}, {"int": [1, 9]}],
    "trial.temperature": DIMENSIONS,
    "trial.method": ["scratch", "one_shot", "best", {"choice": ["scratch"]}],
    "trial.loss": [{"kl": 0, "avg": 0, "init": 0}, {"kl": {"float": [0, 1]}}, {"float": [0, 1]}],
    "trial.optimizer.lr": DIMENSIONS,
    "trial.optimizer.schedule": ["cosine", "constant", "linear", {"choice": ["cosine", "linear"]}],
    "trial.composite": [None, {"modes": []}, {"modes": {"choice": ["student"]}}],
    "trial.lr": [0.1],
    "limits.wall": ["20m", "soon", 0, -1],
    "limits.params": [1, 0, 10**30],
    "execution.precision": ["bf16", "fp16"],
    "surprise": [1],
}


class ReachedTrialsError(PdoError):
    """`run` refuses nothing before the first trial."""

    exit_code = 77


def reach_trials(held: Session, search: Any, **_: Any) -> bool:
    """In the place of ``on_cluster``: Ray's part left out."""
    nodes = [this_machine()]
    loaded = held.loaded
    resources = with_gpus(loaded.experiment.resources, nodes)
    at_once = concurrency(resources, nodes, may_grow=False)
    experiment = loaded.experiment.model_copy(update={"resources": resources})
    counted = replace(loaded, experiment=experiment)
    return bool(search(replace(held, loaded=counted, at_once=at_once)))


def suggest_one(held: Session, work: Work, trainable: Any = None) -> bool:
    """In the place of ``run_trials``: what the first trial would be."""
    suggestion = work.searcher.suggest("first")
    assert suggestion["trial_id"] == "t0000"
    raise ReachedTrialsError("reached")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("agrees")
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setattr(sweep, "on_cluster", reach_trials)
        patch.setattr(run, "run_trials", suggest_one)
        yield folder
    os.chdir(before)


def mutated(changes: dict[str, Any]) -> dict[str, Any]:
    tree = copy.deepcopy(BASE)
    for path, value in changes.items():
        *sections, name = path.split(".")
        node = tree
        for section in sections:
            child = node.get(section)
            node[section] = child if isinstance(child, dict) and "float" not in child else {}
            node = node[section]
        node[name] = value
    return tree


CHANGE = st.sampled_from(sorted(MUTATIONS)).flatmap(
    lambda path: st.tuples(st.just(path), st.sampled_from(MUTATIONS[path]))
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(
    max_examples=int(os.environ.get("PDO_AGREE_EXAMPLES", "60")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@example({})
@example({"resources.cpus": 64, "resources.gpus": 1})
@example({"search.seed": 10**20})
@example({"search.seed": 2**63 - 1, "task.seed": 2**63 - 1})
@example({"output.root": "/proc/nope"})
@example({"output.store": "e.yaml/x"})
@example({"search.warm_start": ["nowhere"]})
@given(st.lists(CHANGE, min_size=1, max_size=2).map(dict))
def test_check_and_run_refuse_the_same(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "e.yaml"
    file.write_text(yaml.safe_dump(mutated(changes)))
    checked = run_command(["check", str(file)])
    begun = f"fresh-{len(list(folder.rglob('fresh-*')))}"
    given_name = "name" in changes
    ran = run_command(["run", str(file), *([] if given_name else ["--name", begun])])
    taken = given_name and checked == 0 and ran == 2 and sweep.is_taken(where(file))
    assert (checked, ran) in ((0, 77), (2, 2)) or taken


def where(file: Path) -> str:
    from pdo_search.config import load_experiment

    return sweep.planned_sweep(load_experiment(file))[1]
