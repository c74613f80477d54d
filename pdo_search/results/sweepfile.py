"""``sweep.json``: what a sweep was asked to do, with what, and where."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdo_search.errors import InputError
from pdo_search.results.files import Folder

__all__ = ["SWEEP_FILE", "SweepInfo", "read_sweep_file", "write_sweep_file"]

SWEEP_FILE = "sweep.json"
PACKAGES = ("pdo-search", "ray", "optuna", "torch", "torchvision", "torch-pruning", "pyarrow")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _revision(folder: str) -> str | None:
    """The git revision of the experiment's folder, if it has one."""
    try:
        result = subprocess.run(
            ["git", "-C", folder, "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


@dataclass(frozen=True)
class SweepInfo:
    """Content of ``sweep.json``.

    Attributes:
        name: of the sweep.
        given: the experiment as given, overrides applied.
        resolved: the experiment with every default filled in.
        file: the experiment file.
        base_dir: the folder that its relative paths refer to.
        metric: what is optimised.
        mode: ``max`` or ``min``.
        num_trials: trials in all; grows when the sweep is extended.
        store: root of the artifact store.
        versions: of Python and packages.
        revision: git revision of the experiment's folder.
        host: machine of the driver.
        created_at: UTC, ISO 8601.
    """

    name: str
    given: dict[str, Any]
    resolved: dict[str, Any]
    file: str
    base_dir: str
    metric: str
    mode: str
    num_trials: int
    store: str
    versions: dict[str, str] = field(default_factory=_versions)
    revision: str | None = None
    host: str = field(default_factory=socket.gethostname)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


def write_sweep_file(sweep: str, info: SweepInfo) -> None:
    """Write ``sweep.json``, replacing an earlier one."""
    content = asdict(info)
    content["revision"] = info.revision or _revision(info.base_dir)
    Folder(sweep).write(SWEEP_FILE, json.dumps(content, indent=1).encode())


def read_sweep_file(sweep: str | Path) -> SweepInfo:
    """Read ``sweep.json``.

    Raises:
        InputError: the directory holds no sweep, or a damaged one.
    """
    try:
        content = json.loads(Folder(sweep).read(SWEEP_FILE))
        return SweepInfo(**content)
    except OSError:
        raise InputError(
            "is no sweep directory: it has no sweep.json",
            file=sweep,
            remedy="give the directory that `pdo-search run` printed",
        ) from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"is damaged: {error}", file=f"{sweep}/{SWEEP_FILE}", remedy="restore it from a copy"
        ) from None
