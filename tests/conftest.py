"""What tests share: one real Ray cluster per session, and the command line as a process."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.register_assert_rewrite("pdo_search.testing")

# Ray reads its authentication mode when it is imported: tests in this process start none.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

TINY: dict[str, Any] = {
    "name": "tiny",
    "task": {"data": {"source": "digits", "limit": 1200}},
    "teacher": {"arch": "small_resnet", "width": 8, "train": {"epochs": 2, "batch_size": 32}},
    "student": {"arch": "small_convnet", "width": 4},
    "trial": {
        "epochs": 4,
        "num_stages": {"int": [1, 3]},
        "temperature": {"float": [1.0, 8.0]},
        "optimizer": {"lr": {"float": [0.02, 0.2], "log": True}, "batch_size": 32},
        "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
        "composite": {"finetune_epochs": 0},
    },
    "search": {"num_trials": 6, "startup_trials": 3},
    "scheduler": {"kind": "asha", "grace": 1, "reduction": 2},
}


@dataclass
class Cluster:
    """A running `ray start --head` with token authentication.

    Attributes:
        env: environment of a process that may use it.
        dashboard: address of its jobs API.
    """

    env: dict[str, str]
    dashboard: str


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """One local cluster of four logical CPUs, with the jobs API."""
    gcs, dashboard, agent = (_free_port() for _ in range(3))
    folder = Path(tempfile.mkdtemp(prefix="pdo-ray-"))
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
    }
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block",
        f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
        # The default is taken where another Ray runs, and jobs then find no agent.
        f"--dashboard-agent-listen-port={agent}",
        "--node-ip-address=127.0.0.1", "--num-cpus=4", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "start.log").open("wb")
    started = {k: v for k, v in env.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command, env=started, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        _await_port(dashboard, process, folder / "start.log")
        yield Cluster(env, f"http://127.0.0.1:{dashboard}")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        _kill_group(process.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"no dashboard after 60 s: {log.read_text()}")


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass
class Pdo:
    """The command line in a folder of its own.

    Attributes:
        folder: its working directory.
        env: its environment.
    """

    folder: Path
    env: dict[str, str]

    def experiment(self, **changes: Any) -> Path:
        """Write the tiny experiment, sections merged with the changes."""
        tree = dict(TINY)
        for key, value in changes.items():
            merged = isinstance(value, dict) and isinstance(tree.get(key), dict)
            tree[key] = {**tree[key], **value} if merged else value
        path = self.folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pdo_search.cli", *arguments],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, timeout: float = 120) -> str:
        """Run a command to its end; its output."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, output
        return output


@pytest.fixture
def pdo(ray_cluster: Cluster, tmp_path: Path) -> Pdo:
    """The command line, on the session's cluster with `--address auto`."""
    return Pdo(tmp_path, ray_cluster.env)
