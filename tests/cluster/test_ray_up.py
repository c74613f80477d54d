"""README's cluster section on three hosts: `ray up`, sweeps, a host that is lost, `ray down`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import pdo_search

from .lab import HOME, Lab, wait_until, why_not
from .story import SWEEPS, Story

REASON = why_not()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.timeout(1800),
]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """Hosts, and a laptop with the clone."""
    tmp_path.chmod(0o755)
    lab = Lab(tmp_path)
    told = Story(lab)
    try:
        lab.up()
        told.prepare()
        yield told
    finally:
        lab.down()
        for seconds, step in told.seconds:
            print(f"{seconds:6.1f} s  {step}")


def started(story: Story) -> None:
    """`ray up`, and all machines there."""
    story.on_laptop(story.says("(umask 077"))
    assert story.says("export") == "export RAY_AUTH_MODE=token"
    story.on_laptop(story.says("ray up"), timeout_s=600)
    wait_until(lambda: story.machines() == 3, 300, "all machines join")


def trials(story: Story, name: str) -> pd.DataFrame:
    """The trials table as it is now; empty before there is one."""
    sweep = story.lab.folder / "shared" / "sweeps" / name
    if not (sweep / "trials").is_dir() or not list((sweep / "trials").iterdir()):
        return pd.DataFrame({"status": [], "host": [], "epochs_done": []})
    return pdo_search.open_sweep(sweep).trials


def runs_on(story: Story, name: str, host: str) -> bool:
    """Whether a trial is half done on a host."""
    rows = trials(story, name)
    return bool(((rows["host"] == host) & (rows["status"] == "running")).any())


def finished(story: Story, name: str, count: int) -> pd.DataFrame:
    """The trials of a sweep, all of which have finished, once each."""
    rows = trials(story, name)
    assert sorted(rows["number"]) == list(range(count))
    assert set(rows["status"]) == {"finished"}, rows[["status", "cause"]]
    assert rows["model"].notna().all()
    return rows


def test_readme_from_the_token_to_the_tables_at_home(story: Story) -> None:
    started(story)
    asked = f"cd / && {HOME}/venv/bin/python -c 'import pdo_search; print(pdo_search.__file__)'"
    assert story.in_home("head", asked).strip() == f"{HOME}/pdo_search/pdo_search/__init__.py"

    run = story.says("ray exec", containing="pdo-search run")
    here = run.partition('"')[2].removesuffix('"')
    stranger = story.in_home("head", f"HOME=/tmp {HOME}/venv/bin/{here}; echo exit code $?")
    assert "`export RAY_AUTH_MODE=token`" in stranger
    assert "exit code 2" in stranger
    unshared = run.replace(SWEEPS, f"{HOME}/unshared").removesuffix('"')
    refused = story.on_laptop(f'{unshared}; echo exit code \\$?"')
    assert "exit code 2" in refused
    assert "is not shared by the machines of the cluster: not by w" in refused
    assert "s3://BUCKET/FOLDER" in refused
    assert "Traceback" not in refused
    assert not (story.lab.folder / "disk" / "w1" / "unshared").exists()
    story.in_home("w2", "mv my_project away")
    refused = story.on_laptop(run, code=None)
    assert "the experiment's folder is not on w2" in refused
    story.in_home("w2", "mv away my_project")

    # Refused, it has not begun: the same command will do.
    sweep = story.start(run)
    wait_until(lambda: runs_on(story, "small", "w1") or sweep.poll() is not None, 300, "a trial")
    story.lab.lose("w1")
    said = story.ended(sweep, run)
    assert "Teacher small_resnet: epoch 3 of " in said
    rows = finished(story, "small", 6)
    lost = rows[rows["attempt"] > 1]
    assert len(lost) == 1
    assert lost["cause"].str.contains("went away").all()

    dashboard = story.dashboard()
    story.on_laptop(story.says("ray job submit", also="--trials 2"))
    followed = story.on_laptop(story.says("ray job logs"))
    assert "2 of 2 trials: 2 finished" in followed
    rows = finished(story, "second", 2)
    dashboard.terminate()

    story.on_laptop(story.says("ray rsync-down"))
    home = pdo_search.open_sweep(story.lab.folder / "clone" / "results" / "second")
    assert list(home.trials["val_accuracy"]) == list(rows["val_accuracy"])
    assert home.best().val_accuracy > 0.8
    story.on_laptop(story.says("ray down"))
    assert "raylet" not in story.in_home("head", "ps -e -o comm", code=None)


@pytest.mark.nightly
def test_cables_a_stopped_job_and_a_lost_head(story: Story) -> None:
    started(story)
    dashboard = story.dashboard()
    first = story.says("ray job submit", also="--trials 30")
    story.on_laptop(first)
    wait_until(lambda: runs_on(story, "second", "w1"), 300, "a trial on w1")
    story.lab.cable("w1", plugged=False)
    time.sleep(75)
    story.lab.cable("w1", plugged=True)
    wait_until(lambda: len(ended(story, "second")) >= 4, 600, "trials go on beside a cut")
    story.on_laptop(story.says("ray job stop"))
    before = ended(story, "second")
    assert len(before) < 30

    resume = story.says("ray exec", containing="pdo-search resume")
    sweep = story.start(resume)
    wait_until(lambda: len(ended(story, "second")) > len(before), 300, "the resumed sweep goes on")
    story.lab.lose("head")
    story.ended(sweep, resume, code=None)
    dashboard.terminate()
    story.lab.start("head")
    story.on_laptop(story.says("ray up"), timeout_s=600)
    story.on_laptop(resume, timeout_s=900)
    rows = finished(story, "second", 30).set_index("number")
    assert (rows.loc[before["number"], "ended_at"].to_numpy() == before["ended_at"]).all()


@pytest.mark.nightly
def test_a_job_with_a_working_directory_is_resumed_with_the_modules_that_were_kept(
    story: Story,
) -> None:
    started(story)
    dashboard = story.dashboard()
    submit = story.says("ray job submit", also="--trials 2").replace("--no-wait", "")
    submit = submit.replace("first", "first --working-dir ../my_project")
    submit = submit.replace(f"{HOME}/my_project/small.yaml", "small.yaml")
    # The folder is the job's alone: it is on no machine.
    for host in ("head", "w1", "w2"):
        story.in_home(host, "mv my_project elsewhere")
    assert "2 of 2 trials: 2 finished" in story.on_laptop(submit, timeout_s=600)
    dashboard.terminate()
    story.in_home("head", "rm -rf /tmp/ray/session_latest/runtime_resources/working_dir_files")
    resume = story.says("ray exec", containing="pdo-search resume", also="--trials +1")
    refused = story.on_laptop(resume, code=None)
    assert f"--base-dir {SWEEPS}/second/code" in refused
    story.on_laptop(resume.replace("--trials", f"--base-dir {SWEEPS}/second/code --trials"))
    finished(story, "second", 3)


def ended(story: Story, name: str) -> pd.DataFrame:
    """The trials that have finished by now."""
    rows = trials(story, name)
    return rows[rows["status"] == "finished"]
