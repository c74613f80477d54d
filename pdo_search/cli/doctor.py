"""The `doctor` command: what this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdo_search.base.screen import screen

__all__ = ["Finding", "examine", "print_examination"]

PACKAGES = ("ray", "optuna", "torch", "torchvision", "torch-pruning", "pyarrow", "pandas")
EXTRAS = {
    "aws": "boto3",
    "gcp": "google-cloud-storage",
    "text": "transformers",
    "test": "pytest",
    "dev": "mypy",
}
LITTLE_DISK_GIB = 5.0
LITTLE_MEMORY_GIB = 4.0
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: what was looked at.
        state: ``ok``, ``warn`` or ``missing``.
        found: what was found, and what to do where it is not enough.
    """

    what: str
    state: str
    found: str


def examine() -> dict[str, Any]:
    """Look at the machine; ``{"findings": [...]}``."""
    findings = [
        Finding("python", "ok", platform.python_version()),
        *(_package(name) for name in PACKAGES),
        _cpus(),
        _temporary(),
        _memory(),
        _disk(),
        _gpus(),
        _fashion_mnist(),
        *(_extra(name, package) for name, package in EXTRAS.items()),
    ]
    return {"findings": [asdict(finding) for finding in findings]}


def print_examination(found: dict[str, Any]) -> None:
    """Print the findings, one a line."""
    console = screen()
    for finding in found["findings"]:
        console.print(
            f"{finding['state']:<8}{finding['what']:<22}{finding['found']}",
            soft_wrap=True,
            markup=False,
        )


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _extra(name: str, package: str) -> Finding:
    try:
        return Finding(f"extra {name}", "ok", f"{package} {version(package)}")
    except PackageNotFoundError:
        remedy = f'optional; in a clone: pip install -e ".[{name}]"'
        return Finding(f"extra {name}", "missing", remedy)


def _cpus() -> Finding:
    from joblib import cpu_count

    usable, there = cpu_count(), os.cpu_count() or 1
    limited = f" of {there}: the affinity or the container allows no more"
    return Finding("cpus", "ok", f"{usable}{limited if usable < there else ''}")


def _temporary() -> Finding:
    given = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        return Finding("temporary files", "missing", "set TMPDIR to a folder that can be written")
    if given and not os.path.samefile(found, given if os.path.exists(given) else os.sep):
        return Finding("temporary files", "warn", f"{found}: TMPDIR ({given}) cannot be used")
    return Finding("temporary files", "ok", found)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    state = "ok" if total >= LITTLE_MEMORY_GIB else "warn"
    return Finding("memory", state, f"{total:.1f} GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    state = "ok" if free >= LITTLE_DISK_GIB else "warn"
    return Finding("disk here", state, f"{free:.1f} GiB free")


def _gpus() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return Finding("gpus", "ok", ", ".join(names))
    if torch.backends.mps.is_available():
        return Finding("gpus", "warn", "Apple's (MPS) is not used: trials run on CPUs")
    return Finding("gpus", "warn", "none that torch can use: trials run on CPUs")


def _fashion_mnist() -> Finding:
    from pdo_search.tasks.images.archives import DEBIAN_FASHION_MNIST

    if DEBIAN_FASHION_MNIST.is_dir():
        return Finding("data fashion_mnist", "ok", str(DEBIAN_FASHION_MNIST))
    return Finding(
        "data fashion_mnist",
        "missing",
        "downloaded when first used; offline: apt install dataset-fashion-mnist, or give its path",
    )
