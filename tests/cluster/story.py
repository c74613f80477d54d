"""README's cluster section, made to run on the lab's hosts: its commands, and `cluster.yaml`."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import yaml

from .lab import ADDRESSES, HOME, ROOT, SHARED, Lab, address, wait_until

SWEEPS = f"{SHARED}/sweeps"
SUBSTITUTES = {
    "pdo_search/experiments/cifar10_resnet50_mobilenet.yaml": "my_project/small.yaml",
    "s3://BUCKET/sweeps": SWEEPS,
    "/SHARED/": f"{SHARED}/",
    "max_concurrent=16": "max_concurrent=2",
}
MOUNT = "  # /home/ubuntu/my_project: ../my_project\n"
CLONE = "/mnt/lab/clone"
EXECUTED = (
    "(umask 077", "export RAY_AUTH_MODE=token", "ray up", "ray exec", "ray dashboard",
    "ray job submit", "ray job logs", "ray job stop", "ray rsync-down", "ray down",
)  # fmt: skip
"""What commands of README begin with that the tests run; not the installation of the laptop."""
LAPTOP = {
    "RAY_AUTH_MODE": "token",
    # Ray 2.60's newer autoscaler starts one machine too few where they are given by address.
    "RAY_UP_enable_autoscaler_v2": "0",
}

MODULE = """
import time
from torch import nn
from my_digits import pictures

class Slow(nn.Module):
    def forward(self, pictures):
        if self.training:
            time.sleep(0.06)
        return pictures

def student(num_outputs, input_shape, width):
    return nn.Sequential(
        Slow(), nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Linear(9 * width, num_outputs),
    )
"""
DIGITS = """
from sklearn.datasets import load_digits

def pictures():
    data = load_digits()
    return data.images[:900, None].astype("float32"), data.target[:900], list("0123456789")
"""
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "task": {"data": {"source": "my_project:pictures"}},
    "teacher": {"arch": "small_resnet", "width": 4, "train": {"epochs": 3, "lr": 0.1}},
    "student": {"arch": "my_project:student", "width": 4},
    "trial": {
        "epochs": 8,
        "num_stages": 1,
        "num_views": 1,
        "temperature": {"float": [1.0, 8.0]},
        "composite": None,
        "optimizer": {"lr": 0.1, "batch_size": 32},
    },
    "search": {"num_trials": 6, "sampler": "random"},
    "scheduler": {"kind": "none"},
    "resources": {"cpus": 1},
}


def readme_commands() -> list[str]:
    """The lines of the code blocks of README's cluster section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## On a cluster\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.S)
    return [line.partition("  #")[0] for block in blocks for line in block.splitlines()]


def for_the_lab(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """A cluster's description with the lab's machines in the place of rented ones."""
    rented = {"available_node_types", "head_node_type"}
    changed = {key: value for key, value in cluster.items() if key not in rented}
    changed["provider"] = {
        "type": "local",
        "head_ip": address("head"),
        "worker_ips": [address("w1"), address("w2")],
    }
    changed["auth"] = {**cluster["auth"], "ssh_private_key": "~/.ssh/lab"}
    changed["max_workers"] = len(ADDRESSES) - 2
    # What `resources` of a rented machine's type says.
    for commands, cpus in (("head_start_ray_commands", 0), ("worker_start_ray_commands", 1)):
        changed[commands] = [
            re.sub(r"ray start( --head)?", rf"\g<0> --num-cpus={cpus}", command)
            for command in cluster[commands]
        ]
    changed["setup_commands"] = [
        re.sub(r"ray==[\d.]+", f"ray=={ray.__version__}", command)
        for command in cluster["setup_commands"]
    ]
    return changed


@dataclass
class Story:
    """What a user does on the laptop, step by step.

    Attributes:
        lab: the hosts.
        seconds: what steps took, and which they were.
    """

    lab: Lab
    seconds: list[tuple[float, str]] = field(default_factory=list)

    def prepare(self) -> None:
        """Put the clone on the laptop, and a folder of the user's own beside it."""
        clone, own = self.lab.folder / "clone", self.lab.folder / "my_project"
        for source in ("pdo_search", "experiments"):
            kept = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, clone / source, ignore=kept)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, clone)
        # A virtual environment, whose links cannot all be followed from elsewhere.
        (clone / ".venv" / "bin").mkdir(parents=True)
        (clone / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
        own.mkdir()
        (own / "my_project.py").write_text(MODULE)
        (own / "my_digits.py").write_text(DIGITS)
        (own / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
        assert MOUNT in text
        cluster = yaml.safe_load(text.replace(MOUNT, MOUNT.replace("# ", "")))
        changed = for_the_lab(cluster)
        (clone / "cluster.yaml").write_text(yaml.safe_dump(changed))
        os.chown(clone, 1000, 1000)
        before, after = (yaml.safe_dump(c, width=999).splitlines() for c in (cluster, changed))
        print("Lines of cluster.yaml that are not executed (-), and what is instead (+):")
        for line in difflib.ndiff(before, after):
            if line[0] in "+-":
                print(f"  {line}")

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command in the clone."""
        return self.lab.start_on("laptop", command, folder=CLONE, env=LAPTOP)

    def ended(
        self,
        process: subprocess.Popen[str],
        command: str,
        *,
        code: int | None = 0,
        timeout_s: float = 600,
    ) -> str:
        """Wait for a command's end; its output."""
        began = time.monotonic()
        output, _ = process.communicate(timeout=timeout_s)
        self.seconds.append((time.monotonic() - began, command[:70]))
        assert code is None or process.returncode == code, f"{command}: {output[-4000:]}"
        return output

    def on_laptop(self, command: str, *, code: int | None = 0, timeout_s: float = 300) -> str:
        """Run a command in the clone; its output."""
        return self.ended(self.start(command), command, code=code, timeout_s=timeout_s)

    def dashboard(self) -> subprocess.Popen[str]:
        """`ray dashboard`, in a terminal of its own; it listens."""
        process = self.start(f"exec {self.says('ray dashboard')}")
        probe = "exec 3<>/dev/tcp/localhost/8265"

        def listens() -> bool:
            assert process.poll() is None, process.communicate()[0]
            return self.start(probe).wait(timeout=30) == 0

        wait_until(listens, 60, "the dashboard is there")
        return process

    def says(self, start: str, *, also: str = "", containing: str = "") -> str:
        """A command of README by its first words, for the lab.

        Args:
            start: its first words.
            also: further options for `pdo-search run`.
            containing: what it has in it besides.
        """
        found = [c for c in readme_commands() if c.startswith(start) and containing in c]
        assert len(found) == 1, f"{start}: {found}"
        command = found[0].strip()
        for old, new in SUBSTITUTES.items():
            command = command.replace(old, new)
        return command.replace("--address auto", f"--address auto {also}".strip())

    def in_home(self, host: str, command: str, *, code: int | None = 0) -> str:
        """Run a command on a host of the cluster."""
        process = self.lab.start_on(host, command, env={"RAY_AUTH_MODE": "token"})
        output, _ = process.communicate(timeout=120)
        assert code is None or process.returncode == code, f"{host}: {command}: {output}"
        return output

    def machines(self) -> int:
        """How many machines the head knows as alive."""
        told = self.in_home("head", f"{HOME}/venv/bin/ray status", code=None)
        active = told.partition("Active:")[2].partition("Pending:")[0]
        return sum(int(count) for count in re.findall(r"^ *(\d+) \S", active, re.M))
