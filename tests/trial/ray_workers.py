"""Exercises our workers where Ray runs them: one in a Tune trial's process, two by Ray Train.

``python -m tests.trial.ray_workers FOLDER`` needs RAY_ADDRESS; what was seen is left in FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from pdo_search.testing.worker import exercise
from pdo_search.trial.inprocess import InProcessWorker
from pdo_search.trial.ray_train import TrainWorker

ROOT = Path(__file__).parents[2]


def keep(folder: str, what: str, value: Any) -> None:
    (Path(folder) / f"{what}.json").write_text(json.dumps(value))


def in_process(settings: dict[str, Any]) -> None:
    seen = exercise(InProcessWorker())
    keep(settings["folder"], "in_process-0", seen)


def by_ray_train(settings: dict[str, Any]) -> None:
    worker = TrainWorker(sync_batch_norm=False)
    keep(settings["folder"], f"ray_train-{worker.rank}", exercise(worker))


class KeptOfTune(tune.Callback):
    """Keeps what a search would be told."""

    def __init__(self) -> None:
        self.payloads = list[str]()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.payloads.append(result["payload"])


class KeptOfTrain(UserCallback):
    """The same of Ray Train; it lives in the controller's process."""

    def __init__(self, folder: str) -> None:
        self.folder, self.payloads = folder, list[str]()

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        self.payloads.append(metrics[0]["payload"])
        keep(self.folder, "ray_train-reported", self.payloads)


def main(folder: str) -> None:
    env = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(address="auto", log_to_driver=False, runtime_env=env)
    where = f"{folder}/ray"
    told = KeptOfTune()
    (result,) = tune.Tuner(
        tune.with_resources(in_process, {"cpu": 1}),
        param_space={"folder": folder},
        run_config=tune.RunConfig(
            storage_path=where, name="in_process", verbose=0, callbacks=[told]
        ),
    ).fit()
    if result.error is not None:
        raise result.error
    keep(folder, "in_process-reported", told.payloads)
    TorchTrainer(
        by_ray_train,
        train_loop_config={"folder": folder},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="ray_train", storage_path=where, callbacks=[KeptOfTrain(folder)]),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1])
