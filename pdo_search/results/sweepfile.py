"""``sweep.json``: what a sweep was asked to do, with what, and where.

Owns the file's fields and the messages for a damaged one. What the experiment means is known to
``config``; reading runs no code from the file.
"""

from __future__ import annotations

import json
import platform
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage
from pdo_search.config.methods import PROGRESSIVE
from pdo_search.config.metrics import is_metric
from pdo_search.results.schema import IMAGE_METRICS, SCHEMA_VERSION

__all__ = ["SWEEP_FILE", "SweepInfo", "read_sweep_file", "write_sweep_file"]

SWEEP_FILE = "sweep.json"
PACKAGES = (
    "pdo-search",
    "ray",
    "optuna",
    "torch",
    "torchvision",
    "torch-pruning",
    "pyarrow",
    "numpy",
)
GIT_TIMEOUT_S = 2.0
MAX_DIGITS = 40
MAX_BYTES = 8 << 20
"""Of ``sweep.json``, which holds an experiment twice."""
MAX_VALUES = 250_000
"""Of ``sweep.json``: an experiment has a hundred thousand at most."""
MAX_DEPTH = 100
"""Of its nesting: an experiment has no ten levels."""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
        metrics: of the task, the primary one first.
        num_trials: trials of the method that the search is about; grows when it is extended.
        store: root of the artifact store.
        method: what the search is about.
        baselines: trials by baseline, on top of ``num_trials``.
        fingerprint: of the task, where the driver has built it; None where it has not.
        versions: of Python and packages, when the sweep was made.
        revision: git revision of this package, ``-dirty`` where files differ from it; None where it
            is not run from a checkout.
        base_revision: the same of the experiment's folder.
        host: machine of the driver.
        created_at: UTC, ISO 8601.
        schema_version: of the tables.
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
    metrics: tuple[str, ...] = IMAGE_METRICS
    method: str = PROGRESSIVE
    baselines: dict[str, int] = field(default_factory=dict)
    fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=_versions)
    revision: str | None = None
    base_revision: str | None = None
    host: str = field(default_factory=socket.gethostname)
    created_at: str = field(default_factory=_now)
    schema_version: int = SCHEMA_VERSION

    @property
    def primary(self) -> str:
        """The column of the primary metric on validation."""
        return f"val_{self.metrics[0]}"

    @property
    def trials_by_method(self) -> dict[str, int]:
        """Trials by method, those of the search itself first."""
        return {self.method: self.num_trials, **self.baselines}

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds by what they determine."""
        sections = {name: self.resolved.get(name) for name in ("search", "task")}
        return {
            name: section["seed"]
            for name, section in sections.items()
            if isinstance(section, dict) and "seed" in section
        }


def write_sweep_file(sweep: str | Path, info: SweepInfo) -> SweepInfo:
    """Write ``sweep.json``, replacing an earlier one; what was written.

    A new sweep's revisions are looked up; a later writing leaves them, so that git, which obeys a
    checkout's configuration, is not run where a stranger's ``sweep.json`` says.

    Raises:
        StoreError: it cannot be written.
    """
    content = asdict(info) | {"schema_version": SCHEMA_VERSION}
    if Storage(sweep).info(SWEEP_FILE) is None:
        content["revision"] = info.revision or _revision(Path(__file__))
        content["base_revision"] = info.base_revision or _revision(Path(info.file))
    text = json.dumps(content | {"seeds": info.seeds}, indent=1, default=str)
    Storage(sweep).write(SWEEP_FILE, text.encode())
    return SweepInfo(**{**content, "metrics": info.metrics})


def read_sweep_file(sweep: str | Path) -> SweepInfo:
    """Read ``sweep.json``.

    Raises:
        InputError: the directory holds no sweep, a damaged one, or one of a newer version.
    """
    folder = Storage(sweep)
    file = f"{folder.root}/{SWEEP_FILE}"
    try:
        data = folder.read(SWEEP_FILE, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            "is no sweep directory: it has no sweep.json",
            file=folder.root,
            remedy="give the directory that `pdo-search run` printed, such as results/digits",
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=file) from None
    try:
        return _checked(json.loads(data, parse_int=_whole))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"is damaged: {error}",
            file=file,
            remedy="restore it from a copy; the tables beside it can be read without it",
        ) from None
    except InputError as error:
        raise error.at(file=file) from None


def _checked(content: Any) -> SweepInfo:
    """The content of a file, every field of the type it should have; unknown fields are ignored.

    Raises:
        ValueError: a field is missing or of another type.
        InputError: the file is of a newer version.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    _refuse_boundless(content)
    if (
        isinstance(content.get("schema_version"), int)
        and content["schema_version"] > SCHEMA_VERSION
    ):
        raise InputError(
            "was written by a newer version of pdo-search",
            path="schema_version",
            value=content["schema_version"],
            remedy=f"this one reads up to version {SCHEMA_VERSION}: upgrade",
        )
    values = {}
    for expected in fields(SweepInfo):
        if expected.name in content:
            values[expected.name] = _typed(expected.name, content[expected.name])
        elif expected.default is MISSING and expected.default_factory is MISSING:
            raise ValueError(f"the field {expected.name!r} is missing")
    if any(type(count) is not int for count in values.get("baselines", {}).values()):
        raise ValueError("the field 'baselines' is no mapping from a method to a number")
    named = values.get("metrics", IMAGE_METRICS)
    if not named or any(type(n) is not str or not is_metric(n) for n in named):
        raise ValueError("the field 'metrics' is no list of metrics")
    values["metrics"] = tuple(named)
    if values["mode"] not in ("max", "min"):
        raise ValueError(f"the field 'mode' is max or min, not {values['mode']!r}")
    return SweepInfo(**values)


def _refuse_boundless(content: Any) -> None:
    """Raise ValueError where there are more values, or deeper ones, than an experiment can have."""
    level, count = [content], 0
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values")
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _whole(digits: str) -> int:
    """A whole number that fits a column; longer ones overflow wherever they are used."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
    return int(digits)


_KINDS: Mapping[str, type] = {
    "given": dict,
    "resolved": dict,
    "versions": dict,
    "baselines": dict,
    "metrics": list,
    "num_trials": int,
    "schema_version": int,
}
_OPTIONAL = ("revision", "base_revision", "fingerprint")


def _typed(name: str, value: Any) -> Any:
    kind = _KINDS.get(name, str)
    right = isinstance(value, kind) and not isinstance(value, bool)
    if not right and not (value is None and name in _OPTIONAL):
        raise ValueError(f"the field {name!r} is not of type {kind.__name__}")
    return value


def _revision(file: Path) -> str | None:
    """The git revision that a file belongs to, if it is tracked in a checkout."""

    def git(*words: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", "-C", str(file.parent), *words],
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", "--", file.name):
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
