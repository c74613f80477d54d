"""Hosts for `ray up` on this machine: network namespaces on one bridge, an sshd in each.

A host has processes, home, /tmp and /dev/shm of its own, no way out of its network, and sees this
Python environment read-only. Killing its first process is a machine's loss.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.13"
ADDRESSES = {"head": 1, "w1": 2, "w2": 3, "laptop": 9}
HOME = "/home/ubuntu"
SHARED = "/mnt/shared"
SITE = sysconfig.get_path("purelib")
PYTHON = f"""#!/bin/bash
# The image's Python. A virtual environment that it makes finds what an index would give it.
set -e
{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor} "$@"
[[ "$1 $2" != "-m venv" ]] || {{
    site=$(echo "$3"/lib/python3.*/site-packages)
    rm -rf "$site"/setuptools* && echo {SITE} > "$site/index.pth"
    printf '#!%s/bin/python\nfrom ray.scripts.scripts import main\nmain()\n' "$3" > "$3/bin/ray"
    chmod 755 "$3/bin/ray"
}}
"""
"""Python 3.11 brings setuptools that torch refuses; of what pip finds there it makes no command."""
SSHD = """HostKey /mnt/lab/host_key
AuthorizedKeysFile /mnt/lab/home/.ssh/lab.pub
PermitRootLogin no
PasswordAuthentication no
UsePAM no
PidFile none
MaxStartups 100
StrictModes no
SetEnv PYTHONDONTWRITEBYTECODE=1
"""
PIP = """[global]
no-index = true
no-build-isolation = false
disable-pip-version-check = true
"""
"""The second line switches the isolation off: so pip reads a negative option in a file."""


def address(host: str) -> str:
    """The address of a host."""
    return f"{NETWORK}.{ADDRESSES[host]}"


def why_not() -> str | None:
    """Why this machine can hold no lab; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    tools = ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "setpriv")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in tools if shutil.which(tool, path=path) is None]
    missing += [name for name in ("hatchling", "editables") if find_spec(name) is None]
    if missing:
        return f"missing here: {', '.join(missing)}"
    trial = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--mount", "--uts", "sh", "-c"]
    probe = "mount -t tmpfs none /mnt && ip link add one type veth peer name two"
    done = subprocess.run([*trial, probe], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces: {done.stderr.strip()}"


@dataclass
class Lab:
    """The hosts.

    Attributes:
        folder: seen by all hosts as /mnt/lab.
        name: what its namespaces' names begin with.
        outer: the process outside that holds a host, by host.
        inner: a host's first process, by host.
    """

    folder: Path
    name: str = field(default_factory=lambda: f"pdo-{secrets.token_hex(3)}")
    outer: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    inner: dict[str, int] = field(default_factory=dict)

    def up(self) -> None:
        """Start all hosts."""
        home = self.folder / "home"
        (self.folder / "shared").mkdir()
        (self.folder / "shared").chmod(0o777)
        for part in (".ssh", ".config/pip"):
            (home / part).mkdir(parents=True)
        for key in (home / ".ssh" / "lab", self.folder / "host_key"):
            call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        (home / ".config/pip/pip.conf").write_text(PIP)
        (self.folder / "python3").write_text(PYTHON)
        (self.folder / "python3").chmod(0o755)
        for file in (".bashrc", ".profile"):
            shutil.copy(f"/etc/skel/{file}", home)
        (self.folder / "sshd_config").write_text(SSHD)
        call(["ip", "netns", "add", f"{self.name}-switch"])
        self._in_switch("link", "add", "br0", "type", "bridge")
        self._in_switch("link", "set", "br0", "up")
        for host in ADDRESSES:
            self.start(host)

    def start(self, host: str) -> None:
        """Start a host, or start it again after its loss: its disk is as it was."""
        (self.folder / "disk" / host).mkdir(parents=True, exist_ok=True)
        space = f"{self.name}-{host}"
        call(["ip", "netns", "add", space])
        peer = ("type", "veth", "peer", "name", "eth0", "netns", space)
        self._in_switch("link", "add", f"v-{host}", *peer)
        self._in_switch("link", "set", f"v-{host}", "master", "br0", "up")
        inside = ["ip", "-n", space]
        call([*inside, "addr", "add", f"{address(host)}/24", "dev", "eth0"])
        call([*inside, "link", "set", "eth0", "up"])
        known = ",".join(f"{address(name)}={name}" for name in ADDRESSES)
        read_only = {sys.base_prefix, sys.prefix} - {"/usr"}
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--uts"]
        self.outer[host] = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "nice", "ip", "netns", "exec", space,
                *apart, "--kill-child=KILL",
                "bash", str(Path(__file__).with_name("host.sh")), host, str(self.folder),
                known, *sorted(read_only),
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / f"{host}.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.inner[host] = self._first_process(host)

    def _first_process(self, host: str) -> int:
        """The first process of a host, when its sshd listens."""
        outer, log = self.outer[host], self.folder / f"{host}.sshd.log"
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

        def listens() -> bool:
            assert outer.poll() is None, (self.folder / f"{host}.log").read_text()
            return log.exists() and "Server listening" in log.read_text()

        wait_until(listens, 60, f"sshd on {host}")
        return int(children.read_text().split()[0])

    def lose(self, host: str) -> None:
        """Kill everything on a host at once, and take its network away."""
        with suppress(ProcessLookupError):
            os.kill(self.inner.pop(host, 0) or self.outer[host].pid, signal.SIGKILL)
        self.outer.pop(host).wait(timeout=30)
        (self.folder / f"{host}.sshd.log").unlink(missing_ok=True)
        call(["ip", "netns", "del", f"{self.name}-{host}"])
        gone = ["ip", "-n", f"{self.name}-switch", "link", "del", f"v-{host}"]
        subprocess.run(gone, capture_output=True, check=False)

    def cable(self, host: str, *, plugged: bool) -> None:
        """Pull a host's cable, or plug it in again."""
        self._in_switch("link", "set", f"v-{host}", "up" if plugged else "down")

    def start_on(
        self, host: str, command: str, *, folder: str = HOME, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a shell's command on a host, as its user."""
        user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
        known = {
            "HOME": HOME,
            "USER": "ubuntu",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
            **(env or {}),
        }
        words = ["env", "-i", *(f"{name}={value}" for name, value in known.items())]
        enter = ["nsenter", "-t", str(self.inner[host]), "-a", "-w/"]
        return subprocess.Popen(
            [*enter, *user, *words, "bash", "-c", f"cd {folder} && {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def down(self) -> None:
        """End all hosts; nothing is left but the folder."""
        for host in list(self.outer):
            self.lose(host)
        subprocess.run(
            ["ip", "netns", "del", f"{self.name}-switch"], check=False, capture_output=True
        )
        shutil.rmtree(self.folder / "disk", ignore_errors=True)

    def _in_switch(self, *words: str) -> None:
        call(["ip", "-n", f"{self.name}-switch", *words])


def call(command: Sequence[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def wait_until(true: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Ask twice a second until something is so."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.5)
