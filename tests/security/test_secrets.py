"""Secrets of the environment and of URIs reach no file that a sweep writes and nothing printed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

from pdo_search.base.log import log_to_file
from pdo_search.base.safetext import redact
from pdo_search.cli.main import run_command
from pdo_search.config import parse_experiment
from pdo_search.results.schema import TrialStatus
from pdo_search.results.writer import TableWriter
from pdo_search.search.progress import Progress
from pdo_search.search.tune.by_method import SchedulerByMethod
from pdo_search.search.tune.recorder import Recorder, Work
from pdo_search.trial.messages import failure_message

from ..conftest import TINY, Pdo
from .conftest import Command

SECRETS = {
    "RAY_AUTH_TOKEN": "3f9c1e77aa52d0b4",
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE12345",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
    "HF_TOKEN": "hf_notarealtoken",
    "MLFLOW_TRACKING_PASSWORD": "correcthorse",
    "WANDB_API_KEY": "0123456789abcdef",
}
URI = "s3://mykeyid:mysecretkey@bucket/sweeps"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return SECRETS


def assert_clean(text: str) -> None:
    for secret in (*SECRETS.values(), "mysecretkey", "mykeyid"):
        assert secret not in text


def assert_all_clean(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            assert_clean(file.read_bytes().decode("latin-1"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (URI, "s3://***@bucket/sweeps"),
        ("to http://token@host:80/a@b", "to http://***@host:80/a@b"),
        ("s3://key:se/cret+x=@bucket/a", "s3://***@bucket/a"),
        ("http://h/x?X-Amz-Signature=abc&y=1", "http://h/x?X-Amz-Signature=***&y=1"),
        ("s3://bucket/a?secret_key=abc", "s3://bucket/a?secret_key=***"),
        ("s3://bucket/a?region=eu&scheme=http", "s3://bucket/a?region=eu&scheme=http"),
        ("someone@example.org, a://b/c", "someone@example.org, a://b/c"),
    ],
)
def test_what_a_uri_gives_away(text: str, told: str) -> None:
    assert redact(text) == told
    assert redact(told) == told


def test_what_the_environment_gives_away(
    secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redact(f"no: {' '.join(secrets.values())}.") == f"no: {' '.join(['***'] * 6)}."
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/someone/.ray/token")
    monkeypatch.setenv("SHORT_TOKEN", "digits")
    assert redact("/home/someone/.ray/token digits") == "/home/someone/.ray/token digits"


@pytest.mark.parametrize("path", ["output.root", "output.store", "teacher.weights"])
@pytest.mark.parametrize("value", [URI, SECRETS["HF_TOKEN"]])
def test_an_experiment_with_a_secret_is_refused(
    path: str, value: str, secrets: dict[str, str], command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(TINY))
    for name in ("check", "run"):
        told = command(name, str(file), "--set", f"{path}={value}", code=2)
        assert f"{path}: holds a secret" in told
        assert "AWS_ACCESS_KEY_ID" in told
        assert_clean(told)
    assert os.listdir(tmp_path) == ["experiment.yaml"]


def failure() -> RuntimeError:
    try:
        raise RuntimeError(f"403 from {URI}: {' '.join(SECRETS.values())}")
    except RuntimeError as error:
        return error


def test_a_failed_trial_tells_no_secret(secrets: dict[str, str]) -> None:
    message = failure_message(failure())
    assert "403 from s3://***@bucket" in message["cause"]
    assert "Traceback" in message["traceback"]
    assert_clean(str(message))


class Tried:
    """A trial as Tune hands it to a callback, whose process died."""

    def __init__(self, folder: Path) -> None:
        self.config = {"number": 0, "trial_id": "t0000", "method": "progressive", "point": {}}
        self.pickled_error_file = str(folder / "error.pkl")
        Path(self.pickled_error_file).write_bytes(cloudpickle.dumps(failure()))


def test_what_the_driver_writes_holds_no_secret(
    secrets: dict[str, str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pdo_search.base.screen import screen

    writer = TableWriter(tmp_path)
    progress = Progress(screen(), num_trials=1, metric="val_accuracy", mode="max")
    work = Work("trials", None, SchedulerByMethod({}), num_samples=1, num_trials=1, counts={})
    experiment = parse_experiment(TINY, file=Path("tiny.yaml"), base_dir=tmp_path).experiment
    recorder = Recorder(writer, work, experiment, [progress])
    with log_to_file(str(tmp_path)):
        trial = Tried(tmp_path_factory.mktemp("tune"))
        recorder.on_trial_start(0, [], trial)
        recorder._keep_traceback("t0000", str(failure()))
        recorder.on_trial_error(0, [], trial)
        logging.getLogger("pdo_search.x").warning("at %s \x1b[2J", URI)
        logging.getLogger("ray").error("with %s", secrets, exc_info=failure())
    row = writer.get("trials", 0)
    assert row is not None
    assert row["status"] == TrialStatus.FAILED.value
    assert "403 from s3://***@bucket" in row["cause"]
    log = (tmp_path / "logs" / "driver.log").read_text()
    assert "at s3://***@bucket" in log
    assert "RuntimeError: 403" in log
    assert "\x1b" not in log
    assert (tmp_path / "errors" / "t0000.txt").exists()
    assert_all_clean(tmp_path)
    assert_clean(capsys.readouterr().out)


def test_an_error_on_the_command_line_tells_no_secret(
    secrets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["show", "x3://mykeyid:mysecretkey@bucket/sweep"]) == 2
    told = capsys.readouterr().err
    assert "x3://***@bucket" in told
    assert_clean(told)


LEAKY = f"""
import os

from torch import nn


class Leaky(nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.head = nn.Linear(64, num_outputs)
        self.calls = 0

    def forward(self, pictures):
        if self.training and len(pictures) > 2:
            raise RuntimeError("denied: {URI} " + os.environ["RAY_AUTH_TOKEN"])
        return self.head(pictures.flatten(1))


def make(num_outputs):
    return Leaky(num_outputs)
"""


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_sweep_whose_trials_fail_writes_no_secret(pdo: Pdo) -> None:
    (pdo.folder / "leaky.py").write_text(LEAKY)
    file = pdo.experiment(student={"arch": "leaky:make", "width": None}, search={"num_trials": 2})
    secrets = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"}
    pdo.env = {**pdo.env, **secrets}
    told = pdo.run("run", str(file), "--address", "auto", code=1, timeout=170)
    assert "denied: s3://***@bucket" in told
    token = pdo.env["RAY_AUTH_TOKEN"]
    # The user's own modules are kept as they are, whatever the user wrote into them.
    written = [
        p for p in (pdo.folder / "results").rglob("*") if p.is_file() and p.parent.name != "code"
    ]
    assert {"sweep.json", "driver.log", "t0000.txt"} <= {p.name for p in written}
    for text in (told, *(p.read_bytes().decode("latin-1") for p in written)):
        for secret in (token, "mysecretkey", *secrets.values()):
            assert secret not in text
