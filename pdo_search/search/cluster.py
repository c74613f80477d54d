"""Starting or joining Ray, and whether a trial's resources can be had there."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError
from pdo_search.base.log import LOG_FORMAT
from pdo_search.config.run import ResourcesConfig
from pdo_search.search.places import unusable

__all__ = [
    "Capacity",
    "alive_nodes",
    "check_local",
    "check_temporary",
    "concurrency",
    "connect",
    "disconnect",
    "fitting",
    "import_ray",
    "placement",
    "slots",
    "with_gpus",
]

log = logging.getLogger(__name__)

CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` leaves its address."""

CONNECT_S = 3.0
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""
BELOW_FOLDER = len("/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
USUAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of one node."""

    cpus: float
    gpus: float


def this_machine() -> Capacity:
    """What this machine gives to a local Ray: the CPUs that this process may use, by affinity and
    by the limits of its container, and the GPUs that torch can use."""
    import torch
    from joblib import cpu_count

    return Capacity(float(cpu_count()), float(torch.cuda.device_count()))


def check_local(resources: ResourcesConfig, file: Path) -> str:
    """Refuse what this machine cannot give, before Ray is started.

    Args:
        resources: of a trial.
        file: of the experiment, for the message.

    Returns:
        How trials are placed here, in words.

    Raises:
        InputError: with the numbers asked and had.
    """
    nodes = [this_machine()]
    try:
        resources = with_gpus(resources, nodes)
        return placement(resources, nodes, concurrency(resources, nodes, may_grow=False))
    except InputError as error:
        raise error.at(file=file) from None


def with_gpus(resources: ResourcesConfig, nodes: Sequence[Capacity]) -> ResourcesConfig:
    """The resources with a number of GPUs in the place of ``auto``.

    One for each worker where a trial fits so, else none.

    Raises:
        InputError: there are none, and ``sync_batch_norm`` needs some.
    """
    if resources.gpus != "auto":
        return resources
    one = resources.model_copy(update={"gpus": 1.0})
    if fitting(one, nodes):
        return one
    if resources.sync_batch_norm:
        raise InputError(
            "is for several workers on GPUs, and there is no GPU for each",
            path="resources.sync_batch_norm",
            value=True,
            remedy="leave it out, or lower resources.workers",
        )
    return resources.model_copy(update={"gpus": 0.0})


def placement(resources: ResourcesConfig, nodes: Sequence[Capacity], at_once: int) -> str:
    """What trials use and what lies idle: ``4 trials at once on 8 CPUs, 1 GPU each; 2 GPUs idle``.

    Args:
        resources: of a trial, with a number of GPUs.
        nodes: those that are there.
        at_once: how many trials run at once.
    """
    shares = at_once * resources.workers
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    asked = resources.num_gpus
    used = shares * asked
    if 0 < asked < 1:
        used = math.ceil(shares / math.floor(1 / asked + 1e-9))
    each = f"{_counted(asked, 'GPU')} each" if asked else "no GPU"
    if resources.workers > 1:
        each = f"{resources.workers} workers each, {each}"
    idle = [
        _counted(left, name)
        for left, name in ((cpus - shares * resources.cpus, "CPU"), (gpus - used, "GPU"))
        if left >= 1
    ]
    text = f"{_counted(at_once, 'trial')} at once on {_counted(cpus, 'CPU')}, {each}"
    return text + (f"; {' and '.join(idle)} idle" if idle else "")


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number <= 1 else 's'}"


def fitting(resources: ResourcesConfig, nodes: Sequence[Capacity]) -> int:
    """How many trials fit at once; may be none."""
    per_node = []
    for node in nodes:
        by_cpu = math.floor(node.cpus / resources.cpus + 1e-9)
        by_gpu = _by_gpu(node.gpus, resources.num_gpus) if resources.num_gpus else by_cpu
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
            f" {resources.num_gpus:g} GPUs each; there are {len(nodes)} node(s) with"
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
        _shorten()
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
    from ray._private import worker

    # configure_logging=False would take the log file from Ray's logger.
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.INFO,
        "logging_format": LOG_FORMAT,
    }
    if address == "local":
        here = this_machine()
        with _deaf_to_hangup():
            ray.init(
                address="local",
                # Ray counts CPUs and GPUs by other rules, and takes those that torch cannot use.
                num_cpus=int(here.cpus),
                num_gpus=int(here.gpus),
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
    # Ray 2.60 prints errors of its cluster between our lines, with pages of its own log, whatever
    # `log_to_driver` says.
    worker.print_to_stdstream = _logged
    return alive_nodes()


def _logged(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    log.warning("(%s) %s", data.get("pid"), "\n".join(map(str, data.get("lines", ()))))


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


@contextmanager
def _deaf_to_hangup() -> Iterator[None]:
    """Let processes that start meanwhile outlive their terminal: this one ends them in order.

    They inherit the blocked signal. Here it is delivered at the end of the context.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def check_temporary() -> None:
    """Refuse a machine without a place for temporary files.

    Raises:
        InputError: neither TMPDIR nor the usual places can be written.
    """
    try:
        tempfile.gettempdir()
        found = _short_folder()
    except FileNotFoundError:
        found = None
    if found is None:
        raise InputError(
            "there is no folder for temporary files and Ray's sockets",
            path="TMPDIR",
            value=os.environ.get("TMPDIR"),
            remedy=f"set TMPDIR to a folder that can be written and is shorter than"
            f" {LONGEST_SOCKET - BELOW_FOLDER} bytes, such as /tmp",
        )


def _shorten() -> None:
    """Have Ray keep its session in a folder that exists and is short enough for its sockets."""
    given = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    found = _short_folder()
    if given and found and found != given:
        os.environ["RAY_TMPDIR"] = found


def _short_folder() -> str | None:
    """The folder below which Ray is to make its own; None where none will do."""
    given = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    for folder in filter(None, (given, *USUAL_FOLDERS)):
        length = len(os.fsencode(os.path.abspath(folder)))
        fits = length + BELOW_FOLDER <= LONGEST_SOCKET
        if fits and os.path.isdir(folder) and unusable(folder) is None:
            return folder
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
