"""Capacity and concurrency by numbers, and Ray's errors in words."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from pdo_search.base.errors import InputError
from pdo_search.config.run import ResourcesConfig
from pdo_search.search import cluster
from pdo_search.search.cluster import (
    Capacity,
    check_temporary,
    concurrency,
    explained,
    listening,
    placement,
    slots,
    with_gpus,
)
from pdo_search.search.tune.slots import SlotLimiter

NODES = [Capacity(0, 0), Capacity(8, 1), Capacity(4, 2)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"cpus": 1}, 12),
        ({"cpus": 3}, 3),
        ({"cpus": 1, "gpus": 1}, 3),
        ({"cpus": 1, "gpus": 0.5}, 6),
        ({"cpus": 1, "gpus": 0.4}, 6),
        ({"cpus": 1, "gpus": 2}, 1),
        ({"cpus": 4, "gpus": 0.5}, 3),
        ({"cpus": 2, "workers": 2}, 3),
        ({"cpus": 0.1}, 120),
    ],
)
def test_slots_are_counted_node_by_node(asked: dict[str, Any], expected: int) -> None:
    assert slots(ResourcesConfig(**asked), NODES) == expected


def test_what_cannot_be_had_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError) as caught:
        slots(ResourcesConfig(cpus=9), NODES)
    for part in ("9 CPUs", "3 node(s)", "12 CPUs", "8 CPUs on the largest", "max_concurrent"):
        assert part in str(caught.value)


def test_a_machine_runs_what_fits_and_a_growing_cluster_what_it_is_told() -> None:
    asked = ResourcesConfig(cpus=4, gpus=1, max_concurrent=16)
    assert concurrency(asked, NODES, may_grow=False) == 2
    assert concurrency(asked, NODES, may_grow=True) == 16
    assert concurrency(asked, NODES[:1], may_grow=True) == 16
    auto = ResourcesConfig(cpus=4, gpus=1)
    assert concurrency(auto, NODES, may_grow=True) == 2
    with pytest.raises(InputError):
        concurrency(auto, NODES[:1], may_grow=True)


@pytest.mark.parametrize(
    ("asked", "nodes", "gpus"),
    [
        ({}, [Capacity(8, 4)], 1),
        ({}, [Capacity(8, 0)], 0),
        ({}, [Capacity(8, 0), Capacity(4, 1)], 1),
        ({"cpus": 8}, [Capacity(8, 0), Capacity(4, 1)], 0),
        ({"workers": 2}, [Capacity(8, 1)], 0),
        ({"workers": 2}, [Capacity(8, 1), Capacity(8, 1)], 1),
        ({"gpus": 0}, [Capacity(8, 4)], 0),
        ({"gpus": 0.5}, [Capacity(8, 0)], 0.5),
    ],
)
def test_auto_is_one_gpu_where_a_trial_fits_so(
    asked: dict[str, Any], nodes: list[Capacity], gpus: float
) -> None:
    assert ResourcesConfig().gpus == "auto"
    assert with_gpus(ResourcesConfig(**asked), nodes).num_gpus == gpus


def test_norms_are_not_synchronised_without_gpus() -> None:
    asked = ResourcesConfig(workers=2, sync_batch_norm=True)
    with pytest.raises(InputError, match="no GPU for each"):
        with_gpus(asked, [Capacity(8, 1)])
    assert with_gpus(asked, [Capacity(8, 2)]).num_gpus == 1


@pytest.mark.parametrize(
    ("asked", "nodes", "at_once", "said"),
    [
        ({}, [Capacity(8, 0)], 8, "8 trials at once on 8 CPUs, no GPU"),
        ({}, [Capacity(8, 6)], 4, "4 trials at once on 8 CPUs, 1 GPU each; 4 CPUs and 2 GPUs idle"),
        ({"cpus": 8}, [Capacity(8, 1)], 1, "1 trial at once on 8 CPUs, 1 GPU each"),
        ({"gpus": 0.5}, [Capacity(3, 2)], 3, "3 trials at once on 3 CPUs, 0.5 GPU each"),
        ({"gpus": 0.4}, [Capacity(2, 2)], 2,
         "2 trials at once on 2 CPUs, 0.4 GPU each; 1 GPU idle"),
        ({"workers": 2, "gpus": 2}, [Capacity(2, 4)], 1,
         "1 trial at once on 2 CPUs, 2 workers each, 2 GPUs each"),
    ],
)  # fmt: skip
def test_what_is_used_and_what_lies_idle_is_said(
    asked: dict[str, Any], nodes: list[Capacity], at_once: int, said: str
) -> None:
    assert placement(with_gpus(ResourcesConfig(**asked), nodes), nodes, at_once) == said


GPUS = """
import ray
from pdo_search.config.run import ResourcesConfig
from pdo_search.search.cluster import alive_nodes, concurrency, with_gpus
ray.init(address="local", num_cpus=4, num_gpus=2, log_to_driver=False, include_dashboard=False)
resources = with_gpus(ResourcesConfig(), alive_nodes())
at_once = concurrency(resources, alive_nodes(), may_grow=False)

@ray.remote(num_cpus=resources.cpus, num_gpus=resources.num_gpus)
class Trial:
    def device(self):
        import os
        return os.environ["CUDA_VISIBLE_DEVICES"]

trials = [Trial.remote() for _ in range(at_once)]
print(resources.num_gpus, *sorted(ray.get([t.device.remote() for t in trials])))
ray.shutdown()
"""


@pytest.mark.cluster
@pytest.mark.timeout(90)
def test_trials_get_a_gpu_each_where_ray_has_gpus() -> None:
    command = [sys.executable, "-c", GPUS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=80)
    assert done.stdout.split() == ["1.0", "0", "1"]


def test_ray_keeps_its_session_where_sockets_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 60)
    long.mkdir()
    usual = tmp_path / "u"
    usual.mkdir()
    monkeypatch.setattr(cluster, "BELOW_FOLDER", 107 - len(str(tmp_path)) - 10)
    monkeypatch.setattr(cluster, "USUAL_FOLDERS", (str(usual),))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for unfit in (long, tmp_path / "nowhere"):
        monkeypatch.setenv("TMPDIR", str(unfit))
        assert cluster._short_folder() == str(usual)
    short = tmp_path / "s"
    short.mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    assert cluster._short_folder() == str(short)
    check_temporary()
    monkeypatch.setattr(cluster, "USUAL_FOLDERS", ())
    monkeypatch.setenv("TMPDIR", str(long))
    with pytest.raises(InputError, match="TMPDIR") as caught:
        check_temporary()
    assert caught.value.path == "TMPDIR"


def test_nodes_that_come_and_go_are_counted_while_the_sweep_runs() -> None:
    room = [2]

    class Endless(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"number": trial_id}

        def on_trial_complete(self, trial_id: str, *args: Any, **more: Any) -> None:
            return

    def fill(limiter: SlotLimiter) -> int:
        """Suggest until it says no; how many were suggested."""
        count = 0
        while limiter.suggest(f"{len(limiter.live_trials)}-{room[0]}") is not None:
            count += 1
        return count

    limiter = SlotLimiter(Endless(), lambda: room[0], every_s=0.0)
    assert fill(limiter) == 2
    room[0] = 5
    assert fill(limiter) == 3
    room[0] = 0
    assert fill(limiter) == 0
    for trial_id in list(limiter.live_trials):
        limiter.on_trial_complete(trial_id)
    assert fill(limiter) == 1
    often = SlotLimiter(Endless(), lambda: room[0], every_s=3600.0)
    room[0] = 9
    assert fill(often) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Missing authentication token", "RAY_AUTH_MODE=token"),
        ("Could not find any running Ray instance", "ray start --head"),
        ("Failed to connect to GCS", "ray start --head"),
        ("RAY_AUTH_TOKEN_PATH is set but file cannot be opened", "~/.ray/auth_token"),
        ("something else", "something else"),
    ],
)
def test_ray_errors_say_what_to_do(said: str, told: str) -> None:
    assert told in explained(RuntimeError(said))


def test_a_cluster_that_is_there_and_cannot_be_joined_wants_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("Failed to connect to GCS")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert listening() == address
        assert f"{address} wants an authentication token" in explained(error, listening())
    assert listening() is None


def mode_after_import(**env: str) -> str:
    code = (
        "from pdo_search.search.cluster import import_ray; import_ray('local'); import os;"
        "print(os.environ['RAY_AUTH_MODE'], os.environ.get('RAY_AUTH_TOKEN', ''))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_local_ray_gets_a_token_of_its_own_unless_the_user_chose() -> None:
    one, two = mode_after_import(), mode_after_import()
    assert re.fullmatch("token [0-9a-f]{64}", one)
    assert one != two
    assert mode_after_import(RAY_AUTH_MODE="disabled") == "disabled"
