"""Starting or joining Ray, and whether a trial's resources can be had there."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdo_search.config.schema import ResourcesConfig
from pdo_search.errors import InputError
from pdo_search.log import LOG_FORMAT

__all__ = [
    "Capacity",
    "alive_nodes",
    "check_local",
    "concurrency",
    "connect",
    "disconnect",
    "fitting",
    "import_ray",
    "slots",
]

log = logging.getLogger(__name__)

CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` leaves its address."""

CONNECT_S = 3.0


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of one node."""

    cpus: float
    gpus: float


def check_local(resources: ResourcesConfig, file: Path) -> None:
    """Refuse what this machine cannot give, before Ray is started.

    Args:
        resources: of a trial.
        file: of the experiment, for the message.

    Raises:
        InputError: with the numbers asked and had.
    """
    gpus = 0
    if resources.gpus:
        import torch

        gpus = torch.cuda.device_count()
    try:
        slots(resources, [Capacity(float(os.cpu_count() or 1), float(gpus))])
    except InputError as error:
        raise error.at(file=file) from None


def fitting(resources: ResourcesConfig, nodes: Sequence[Capacity]) -> int:
    """How many trials fit at once; may be none."""
    per_node = []
    for node in nodes:
        by_cpu = math.floor(node.cpus / resources.cpus + 1e-9)
        by_gpu = _by_gpu(node.gpus, resources.gpus) if resources.gpus else by_cpu
        per_node.append(max(0, min(by_cpu, by_gpu)))
    return sum(per_node) // resources.workers


def _by_gpu(there: float, asked: float) -> int:
    """How many shares fit; Ray puts together no share from parts of several GPUs."""
    if asked >= 1:
        return math.floor(there / asked + 1e-9)
    return math.floor(there + 1e-9) * math.floor(1 / asked + 1e-9)


def slots(resources: ResourcesConfig, nodes: Sequence[Capacity]) -> int:
    """How many trials fit at once, one at least.

    Raises:
        InputError: not even one does.
    """
    trials = fitting(resources, nodes)
    if trials < 1:
        total = Capacity(sum(n.cpus for n in nodes), sum(n.gpus for n in nodes))
        largest = max(nodes, key=lambda n: (n.cpus, n.gpus), default=Capacity(0, 0))
        raise InputError(
            f"a trial needs {resources.workers} worker(s) with {resources.cpus:g} CPUs and"
            f" {resources.gpus:g} GPUs each; there are {len(nodes)} node(s) with"
            f" {total.cpus:g} CPUs and {total.gpus:g} GPUs in all,"
            f" {largest.cpus:g} CPUs on the largest",
            path="resources",
            value=resources.model_dump(include={"cpus", "gpus", "workers"}),
            remedy="lower resources.cpus, gpus or workers, or add nodes; for a cluster that grows,"
            " say with resources.max_concurrent how many trials it is to grow for",
        )
    return trials


def concurrency(resources: ResourcesConfig, nodes: Sequence[Capacity], *, may_grow: bool) -> int:
    """How many trials to run at once.

    Args:
        resources: of a trial.
        nodes: those that are there now.
        may_grow: whether more may come: then a given ``max_concurrent`` counts, whatever fits now,
            since only trials that wait make an autoscaler start nodes.

    Raises:
        InputError: not even one fits, and none is to be waited for.
    """
    given = resources.max_concurrent
    if may_grow and given != "auto":
        return given
    there = slots(resources, nodes)
    return there if given == "auto" else min(there, given)


def import_ray(address: str) -> None:
    """Import Ray with the settings that it reads then; it also takes over its own logging then."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        _secure()
    import ray  # noqa: F401


def connect(address: str, *, dashboard: bool) -> list[Capacity]:
    """Start a local Ray, or join the cluster that this machine belongs to; after ``import_ray``.

    Args:
        address: ``local`` starts one that ends with this process; ``auto`` joins.
        dashboard: whether a local one has its dashboard, on localhost: nested trials need the state
            API behind it, or a stopped trial's workers keep their resources.

    Returns:
        Capacity by node.

    Raises:
        InputError: there is no cluster, or it refuses this client.
    """
    import ray

    # configure_logging=False would take the log file from Ray's logger.
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.INFO,
        "logging_format": LOG_FORMAT,
    }
    if address == "local":
        ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            **settings,
        )
    else:
        known = os.environ.get("RAY_ADDRESS")
        if dashboard and known:
            # The helper that frees a stopped nested trial's resources looks for the address anew
            # (``PlacementGroupCleaner``, Ray 2.60) and finds /tmp/ray/ray_current_cluster, which a
            # killed Ray leaves behind: it dies of that, and the next trial waits for ever.
            settings["runtime_env"] = {"env_vars": {"RAY_ADDRESS": known}}
        try:
            ray.init(address="auto", **settings)
        except Exception as error:
            said = explained(error, listening())
            raise InputError(said, path="--address", value=address) from error
    return alive_nodes()


def alive_nodes() -> list[Capacity]:
    """Capacity of every node that is there now, of the Ray that this process is connected to."""
    import ray

    return [_capacity(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _secure() -> None:
    """Choose how a local Ray authenticates, where the user has not.

    With the mode unset, Ray 2.59 and later write a token file into the home directory. A token of
    this run's own leaves nothing behind and lets nobody else in. Ray reads the mode when it is
    imported, so in a process that has imported it already the mode stays what it was then: off.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if "ray" in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def listening() -> str | None:
    """The address of the cluster that this machine belongs to, if anything listens there."""
    address = os.environ.get("RAY_ADDRESS", "")
    with suppress(OSError):
        address = address or CURRENT_CLUSTER.read_text(encoding="utf-8").strip()
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            return address
    except (OSError, ValueError):
        return None


def explained(error: Exception, listens: str | None = None) -> str:
    """Ray's errors of connecting, in words that say what to do.

    Ray 2.60 says "Failed to connect" to a client without a token or with another one as well.

    Args:
        error: what Ray raised.
        listens: the address at which a cluster is there all the same, if one is.
    """
    text = str(error)
    unreachable = "Could not find any running Ray" in text or "Failed to connect" in text
    words = ("authentication token", "Unauthenticated", "AUTH_TOKEN")
    if any(word in text for word in words) or (unreachable and listens):
        return (
            f"the Ray cluster{f' at {listens}' if listens else ''} wants an authentication token,"
            " and this process has none or another one: `export RAY_AUTH_MODE=token`, with the head"
            " node's token in ~/.ray/auth_token or in RAY_AUTH_TOKEN"
        )
    if unreachable:
        return (
            "no Ray cluster can be reached from here: start one (`ray start --head`), run on its"
            " head node, or leave out --address auto"
        )
    return f"Ray cannot be reached: {text}"


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    import ray

    ray.shutdown()


def _capacity(resources: Mapping[str, float]) -> Capacity:
    return Capacity(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
