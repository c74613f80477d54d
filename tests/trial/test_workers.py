"""All workers keep the contract: one alone, one in a Tune trial's process, two by Ray Train."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdo_search.distill.protocol import LocalWorker, Report
from pdo_search.testing.worker import WorkerContract, exercise

from ..conftest import Cluster


class TestLocalWorker(WorkerContract):
    @pytest.fixture
    def worker(self) -> LocalWorker:
        return LocalWorker()

    @pytest.fixture
    def seen(self, worker: LocalWorker) -> list[dict[str, Any]]:
        return [exercise(worker)]

    @pytest.fixture
    def reported(self, worker: LocalWorker, seen: list[dict[str, Any]]) -> list[Report]:
        return worker.reports


def test_a_local_worker_stops_after_the_reports_that_were_asked_for() -> None:
    worker = LocalWorker(stop_after=2)
    exercise(worker)
    assert worker.should_stop()


@pytest.fixture(scope="session")
def ray_workers(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which workers that Ray started left what they saw."""
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, "-m", "tests.trial.ray_workers", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=ray_cluster.env, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.cluster
@pytest.mark.timeout(360)
class TestInProcessWorker(WorkerContract):
    which = "in_process"

    @pytest.fixture
    def seen(self, ray_workers: Path) -> list[dict[str, Any]]:
        files = sorted(ray_workers.glob(f"{self.which}-[0-9].json"))
        return [json.loads(file.read_text()) for file in files]

    @pytest.fixture
    def reported(self, ray_workers: Path) -> list[Report]:
        payloads = json.loads((ray_workers / f"{self.which}-reported.json").read_text())
        return [Report(**json.loads(payload)) for payload in payloads]


class TestTwoTrainWorkers(TestInProcessWorker):
    which = "ray_train"

    def test_they_are_two(self, seen: list[dict[str, Any]]) -> None:
        assert len(seen) == 2
