"""cluster.yaml: Ray's own validator, and what that lets pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import hash_runtime_conf

from .story import EXECUTED, readme_commands

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE")
PROVIDER_KEYS = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"}
NODE_KEYS = {
    "InstanceType", "ImageId", "SecurityGroupIds", "SubnetIds", "IamInstanceProfile",
    "BlockDeviceMappings", "InstanceMarketOptions", "KeyName",
}  # fmt: skip
NEEDED = {"InstanceType", "ImageId", "SecurityGroupIds", "SubnetIds", "IamInstanceProfile"}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_rays_validator_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_rays_validator_would_notice_a_typo(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config({**config, "max_wrokers": 1}))


def test_names_that_the_validator_does_not_check(config: dict[str, Any]) -> None:
    assert set(config["provider"]) <= PROVIDER_KEYS
    for node_type in config["available_node_types"].values():
        assert set(node_type["node_config"]) <= NODE_KEYS
        assert set(node_type["node_config"]) >= NEEDED
        assert set(node_type["resources"]) <= {"CPU", "GPU"}
        assert node_type["min_workers"] <= node_type["max_workers"] <= config["max_workers"]


def test_the_head_runs_no_trials_and_workers_have_gpus(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    workers = [t for name, t in types.items() if name != config["head_node_type"]]
    assert all(t["resources"]["GPU"] >= 1 for t in workers)
    markets = ["InstanceMarketOptions" in t["node_config"] for t in workers]
    assert sorted(markets) == [False, True]


def test_ray_starts_with_a_token_and_the_dashboard_on_localhost(config: dict[str, Any]) -> None:
    head = config["head_start_ray_commands"]
    starts = [c for c in head + config["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--autoscaling-config" in starts[0]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any("chmod 600" in command for command in config["setup_commands"])


def test_all_that_is_tracked_arrives_and_nothing_of_a_virtual_environment(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """By rsync itself, with the patterns that Ray hands to it for each mount."""
    clone, host = tmp_path / "clone", tmp_path / "host"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "pdo_search", "experiments", *FILES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")[:-1]  # fmt: skip
    for name in tracked:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (clone / "pdo_search" / "__pycache__").mkdir()
    (clone / "pdo_search" / "__pycache__" / "cli.pyc").touch()
    (clone / ".venv").mkdir()
    (clone / ".venv" / "python").symlink_to("/nowhere/python")
    mounts = {
        target: clone / source
        for target, source in config["file_mounts"].items()
        if not source.startswith("~")
    }
    # Ray opens every file; the link would stop it.
    hash_runtime_conf({k: str(v) for k, v in mounts.items()}, None, {}, True)
    patterns = [f"--exclude={pattern}" for pattern in config["rsync_exclude"]]
    for target, source in mounts.items():
        there = host / Path(target).relative_to("/home/ubuntu/pdo_search")
        there.parent.mkdir(parents=True, exist_ok=True)
        folder = "/" if source.is_dir() else ""
        subprocess.run(
            ["rsync", "-a", *patterns, f"{source}{folder}", f"{there}{folder}"], check=True
        )
    arrived = {str(p.relative_to(host)) for p in host.rglob("*") if p.is_file()}
    assert arrived == set(tracked)
    assert "pdo_search/results/reader.py" in arrived


def test_an_image_with_an_older_python_is_refused_in_words(
    config: dict[str, Any], tmp_path: Path
) -> None:
    line = next(c for c in config["setup_commands"] if "version_info" in c)
    older = tmp_path / "python3"
    older.write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.10.12 || exit 1\n")
    older.chmod(0o755)
    run = partial(subprocess.run, ["bash", "-c", line], capture_output=True, text=True, check=False)
    refused = run(env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert refused.returncode == 1
    assert "needs Python 3.11 and this image has Python 3.10.12" in refused.stderr
    assert "Ubuntu 24.04" in refused.stderr
    own = run(env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"})
    assert own.returncode == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"


def test_both_sides_get_boto3_and_every_machine_the_same_ray(config: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any("boto3" in need for need in project["optional-dependencies"]["aws"])
    pip = next(c for c in config["setup_commands"] if "pip install" in c)
    assert '-e "/home/ubuntu/pdo_search[aws]"' in pip
    assert re.search(r'"ray==[\d.]+"', pip)
    assert any('pip install -e ".[aws]"' in command for command in readme_commands())


def test_every_command_of_readme_is_one_that_the_test_runs() -> None:
    left = [c for c in readme_commands() if not c.startswith(EXECUTED)]
    assert len(left) == 1
    assert left[0].startswith("python3 -m venv .venv")
