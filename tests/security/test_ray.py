"""The Ray of a local run: dashboard on localhost, nobody let in without the run's token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

LOCAL = """
import json, os, subprocess, sys, urllib.error, urllib.request

from pdo_search.search.cluster import connect, disconnect, import_ray

import_ray("local")
connect("local", dashboard=True)
import ray

node = ray._private.worker.global_worker.node
token = os.environ["RAY_AUTH_TOKEN"]


def asked(path, headers):
    request = urllib.request.Request(f"http://{node.webui_url}{path}", headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def joined(env):
    code = "import sys; from ray._raylet import GcsClient;"
    code += "GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    words = [sys.executable, "-c", code, node.gcs_address]
    return subprocess.run(words, env={**kept, **env}, capture_output=True).returncode == 0


headers = {"nobody": {}, "stranger": {"Authorization": "Bearer " + "0" * 64}}
headers["owner"] = {"Authorization": "Bearer " + token}
envs = {"nobody": {"RAY_AUTH_MODE": "disabled"}}
envs["stranger"] = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
envs["owner"] = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
print(json.dumps({
    "dashboard": node.webui_url,
    "jobs": {who: asked("/api/jobs/", with_) for who, with_ in headers.items()},
    "joined": {who: joined(env) for who, env in envs.items()},
    "home": os.path.exists(os.path.expanduser("~/.ray/auth_token")),
}))
disconnect()
"""


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_local_ray_lets_nobody_in_without_its_token(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LOCAL],
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["dashboard"].startswith("127.0.0.1:")
    assert found["jobs"] == {"nobody": 401, "stranger": 403, "owner": 200}
    assert found["joined"] == {"nobody": False, "stranger": False, "owner": True}
    assert not found["home"]


@pytest.mark.parametrize("dashboard", [False, True])
def test_a_local_ray_has_a_dashboard_only_where_one_is_needed(
    dashboard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pdo_search.search.cluster import connect

    passed: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **settings: passed.update(settings))
    monkeypatch.setattr(ray, "nodes", lambda: [])
    connect("local", dashboard=dashboard)
    assert passed["address"] == "local"
    assert passed["include_dashboard"] is dashboard
    assert passed["dashboard_host"] == "127.0.0.1"


def test_the_cluster_file_holds_no_secret_and_opens_nothing() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    config = yaml.safe_load(text)
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "0.0.0.0" not in command
        assert "RAY_AUTH_MODE=disabled" not in command
    assert "RAY_AUTH_TOKEN=" not in text
    assert "secret" not in text.lower().replace("secrets", "")
