"""`ray up` with `cluster.yaml` on AWS as moto emulates it: all that it asks for, but for ssh."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from .lab import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

REGION = "us-east-1"
PROFILE = "pdo-search"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An account with what a user prepares; the value of each placeholder in the file."""
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    from ray.autoscaler._private.aws import node_provider, utils

    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("token")
    caches = utils.resource_cache, utils.client_cache
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.chdir(ROOT)
        # The list of all types that AWS rents takes moto seconds.
        types = functools.cache(node_provider.list_ec2_instances)
        patch.setattr(node_provider, "list_ec2_instances", types)
        for cache in caches:
            cache.cache_clear()
        ec2 = boto3.client("ec2", REGION)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        group = ec2.create_security_group(GroupName="mine", Description="mine", VpcId=vpc)
        iam = boto3.client("iam", REGION)
        iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=PROFILE)
        iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        yield {"ami": image, "sg": group["GroupId"], "subnet": subnet}
        for cache in caches:
            cache.cache_clear()


def edited(account: dict[str, str], name: str, folder: Path) -> Path:
    """The file as a user has edited it, for a cluster of a name."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert "cluster_name: pdo-search\n" in text
    text = text.replace("cluster_name: pdo-search\n", f"cluster_name: {name}\n")
    file = folder / "cluster.yaml"
    file.write_text(re.sub(r"\b(ami|sg|subnet)-0\w+", lambda found: account[found[1]], text))
    return file


def up(file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`ray up`, but for what goes by ssh: what would be done to the head.

    The machines that it starts are asked for here as there, from the same files in the home folder.
    """
    from ray.autoscaler._private import commands

    asked: dict[str, Any] = {}

    def updater(**given: Any) -> Any:
        for target, source in given["file_mounts"].items():
            if target.startswith("~/ray_bootstrap_"):
                shutil.copy(source, Path(target).expanduser())
        asked.update(given)
        return SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=0)

    monkeypatch.setattr(commands, "NodeUpdaterThread", updater)
    commands.create_or_update_cluster(
        str(file), None, None, False, False, yes=True, no_config_cache=True
    )
    return asked


def scale_up(wanted: dict[str, int]) -> None:
    """Start workers as the head's autoscaler does, from the file that it got."""
    from ray.autoscaler._private.node_launcher import BaseNodeLauncher
    from ray.autoscaler._private.providers import _get_node_provider

    config = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text())
    nobody = SimpleNamespace(
        add=lambda *_, **__: None, dec=lambda *_: None, update_node_availability=lambda **_: None
    )
    launcher = BaseNodeLauncher(
        _get_node_provider(config["provider"], config["cluster_name"]),
        pending=nobody,
        event_summarizer=nobody,
        node_provider_availability_tracker=nobody,
        node_types=config["available_node_types"],
    )
    for node_type, count in wanted.items():
        launcher.launch_node(config, count, node_type)


def machines(name: str) -> list[dict[str, Any]]:
    """All that were asked for a cluster, with their disks."""
    import boto3

    ec2 = boto3.client("ec2", REGION)
    own = [{"Name": "tag:ray-cluster-name", "Values": [name]}]
    found = [
        machine
        for reservation in ec2.describe_instances(Filters=own)["Reservations"]
        for machine in reservation["Instances"]
    ]
    for machine in found:
        (disk,) = machine["BlockDeviceMappings"]
        (volume,) = ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
        machine["disk"] = disk["DeviceName"], volume["Size"], volume["VolumeType"]
        machine["tags"] = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
    return found


def test_the_machines_are_those_of_the_file(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    file = edited(account, "four", tmp_path)
    up(file, monkeypatch)
    scale_up({"gpu_on_demand": 1, "gpu_spot": 1})
    types = yaml.safe_load(file.read_text())["available_node_types"]
    found = machines("four")
    assert Counter(machine["tags"]["ray-user-node-type"] for machine in found) == {
        "head": 1, "gpu_on_demand": 1, "gpu_spot": 1
    }  # fmt: skip
    for machine in found:
        node_type = machine["tags"]["ray-user-node-type"]
        kind = "head" if node_type == "head" else "worker"
        node = types[node_type]["node_config"]
        assert machine["ImageId"] == node["ImageId"] == account["ami"]
        assert machine["InstanceType"] == node["InstanceType"]
        assert machine["SubnetId"] == account["subnet"]
        assert [group["GroupId"] for group in machine["SecurityGroups"]] == [account["sg"]]
        assert machine["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{PROFILE}")
        (disk,) = node["BlockDeviceMappings"]
        size, volume = disk["Ebs"]["VolumeSize"], disk["Ebs"]["VolumeType"]
        assert machine["disk"] == (disk["DeviceName"], size, volume)
        assert machine.get("InstanceLifecycle") == ("spot" if node_type == "gpu_spot" else None)
        assert machine["PublicIpAddress"]
        assert machine["KeyName"] == f"ray-autoscaler_{REGION}"
        assert machine["tags"]["ray-cluster-name"] == "four"
        assert machine["tags"]["ray-node-type"] == kind
        assert machine["tags"]["Name"] == f"ray-four-{kind}"
    ec2 = boto3.client("ec2", REGION)
    groups = {g["GroupName"]: g for g in ec2.describe_security_groups()["SecurityGroups"]}
    assert groups["mine"]["IpPermissions"] == [], "nothing was opened to anybody"
    assert not [name for name in groups if name.startswith("ray")]
    key = Path.home() / ".ssh" / f"ray-autoscaler_{REGION}.pem"
    assert key.read_text().startswith("-----BEGIN")
    assert os.stat(key).st_mode & 0o077 == 0


def test_the_head_is_set_up_with_the_files_commands_and_mounts(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = edited(account, "head", tmp_path)
    config = yaml.safe_load(file.read_text())
    asked = up(file, monkeypatch)
    assert asked["setup_commands"] == config["setup_commands"]
    assert asked["node_resources"] == {"CPU": 0, "GPU": 0}
    assert asked["auth_config"]["ssh_user"] == "ubuntu"
    assert set(config["file_mounts"]) <= set(asked["file_mounts"])
    (start,) = [command for command in asked["ray_start_commands"] if "ray start" in command]
    (written,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert start.endswith(written)


def test_ray_up_again_starts_no_second_head(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = edited(account, "again", tmp_path)
    first, again = up(file, monkeypatch), up(file, monkeypatch)
    assert first["node_id"] == again["node_id"]
    assert len(machines("again")) == 1


def test_a_group_of_another_network_than_the_subnet_is_refused(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    ec2 = boto3.client("ec2", REGION)
    elsewhere = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="else", Description="else", VpcId=elsewhere)
    file = edited({**account, "sg": group["GroupId"]}, "elsewhere", tmp_path)
    with pytest.raises(Exception, match="subnet"):
        up(file, monkeypatch)
    assert machines("elsewhere") == []
