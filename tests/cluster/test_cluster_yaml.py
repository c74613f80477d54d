"""cluster.yaml: Ray's own validator, and what that lets pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROVIDER_KEYS = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"}
NODE_KEYS = {
    "InstanceType", "ImageId", "SecurityGroupIds", "SubnetIds", "IamInstanceProfile",
    "BlockDeviceMappings", "InstanceMarketOptions", "KeyName",
}  # fmt: skip


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
        assert {"InstanceType", "ImageId", "SecurityGroupIds"} <= set(node_type["node_config"])
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


def test_the_project_is_shipped_and_installed(config: dict[str, Any]) -> None:
    mounts = config["file_mounts"]
    project = next(target for target, source in mounts.items() if source == ".")
    assert any(project in c and "pip install" in c for c in config["setup_commands"])
    sources = [Path(source).expanduser() for source in mounts.values() if "~" not in source]
    assert all((ROOT / source).exists() for source in sources)
