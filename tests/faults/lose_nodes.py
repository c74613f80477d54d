"""A sweep on a cluster of its own that loses nodes. A script, started by tests.

    python lose_nodes.py EXPERIMENT NAME LOSSES

The cluster has a head without CPUs and two nodes of one CPU each. LOSSES times, when every trial
that runs has a checkpoint, a node's raylet is killed, and a new node joins.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from rich.console import Console

import pdo_search
from pdo_search.config import load_experiment
from pdo_search.search.sweep import new_sweep, run_sweep


def lose(cluster: Cluster, sweep: Path, losses: int) -> None:
    for node in sorted(cluster.worker_nodes, key=lambda n: n.node_id)[:losses]:
        wait_for_checkpoints(sweep)
        node.all_processes["raylet"][0].process.kill()
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
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    info, sweep = new_sweep(load_experiment(sys.argv[1]), name=sys.argv[2])
    arguments = (cluster, Path(sweep), int(sys.argv[3]))
    threading.Thread(target=lose, args=arguments, daemon=True).start()
    outcome = run_sweep(info, sweep, address="auto", console=Console())
    print(outcome.counts)
    ray.init(address=cluster.address, log_to_driver=False)
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    print("free CPUs:", ray.available_resources().get("CPU"))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
