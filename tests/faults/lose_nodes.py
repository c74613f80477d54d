"""A sweep on a cluster of its own that loses nodes. A script, started by tests.

    python lose_nodes.py EXPERIMENT NAME LOSSES

The cluster has a head without CPUs and two nodes of one CPU each. LOSSES times, when every trial
that runs has a checkpoint, a node's raylet is killed with all that it started, and a new node
joins.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import pdo_search


def lose(cluster: Cluster, node: Any) -> None:
    raylet = node.all_processes["raylet"][0].process.pid
    children = subprocess.check_output(["pgrep", "-P", str(raylet)], text=True).split()
    for process in [raylet, *map(int, children)]:
        os.kill(process, signal.SIGKILL)
    cluster.add_node(num_cpus=1, wait=False)


def wait_for_checkpoints(sweep: Path) -> None:
    """Until two trials run that have ended a stage since they started."""
    while True:
        time.sleep(0.2)
        if (sweep / "trials").exists():
            trials = pdo_search.open_sweep(sweep).trials
            running = trials[trials["status"] == "running"]
            if len(running) == 2 and (running["stages_done"] >= 1).all():
                return


def main() -> None:
    experiment, name, losses = sys.argv[1], sys.argv[2], int(sys.argv[3])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    env = {**os.environ, "RAY_ADDRESS": cluster.address}
    command = ["-m", "pdo_search.cli", "run", experiment, "--name", name, "--address", "auto"]
    with subprocess.Popen([sys.executable, *command], env=env) as driver:
        for node in nodes[:losses]:
            wait_for_checkpoints(Path("results") / name)
            lose(cluster, node)
    assert driver.returncode == 0
    ray.init(address=cluster.address, log_to_driver=False)
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    print("free CPUs:", ray.available_resources().get("CPU"))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
