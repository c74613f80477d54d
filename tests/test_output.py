"""Nobody reads, the terminal goes away, letters are missing: commands end as they should."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pdo_search.results.sweepfile import SweepInfo, write_sweep_file

from .conftest import TINY, Pdo
from .sweeps import assert_whole, tables, wait_for

COMMAND = f"{sys.executable} -m pdo_search.cli"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep that has no trial yet, with letters in its name that ASCII lacks."""
    info = SweepInfo(
        name="Übung ±1", given={}, resolved={}, file="e.yaml", base_dir=".", metric="val_accuracy",
        mode="max", num_trials=3, store="s",
    )  # fmt: skip
    write_sweep_file(tmp_path, info)
    return tmp_path


def in_shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_reader_that_has_enough_is_no_failure(sweep: Path) -> None:
    done = in_shell(f"{COMMAND} show {sweep} | head -1; {COMMAND} schema | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["Übung ±1", "{"]


def test_output_that_is_closed_goes_nowhere(sweep: Path) -> None:
    done = in_shell(f"{COMMAND} show {sweep} <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_disk_that_is_full_is_a_failure(sweep: Path) -> None:
    done = in_shell(f"{COMMAND} show {sweep} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_letters_that_a_terminal_lacks_are_question_marks(sweep: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = in_shell(f"{COMMAND} show {sweep}", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "?bung ?1"


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = in_shell(f"cd {here} && rmdir {here} && {COMMAND} doctor")
    assert done.returncode == 2
    assert done.stderr == "error: the current directory is gone: cd to one that exists\n"


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_sweep_goes_on_when_nobody_reads(pdo: Pdo) -> None:
    file = pdo.experiment()
    process = pdo.start("run", str(file), "--address", "auto")
    wait_for(process, "Teacher")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=150) == 0
    sweep = pdo.folder / "results" / "tiny"
    assert_whole(sweep, 6)
    log = (sweep / "logs" / "driver.log").read_text()
    assert all(f"] t000{number}  " in log for number in range(6))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
def test_the_end_of_the_terminal_ends_a_sweep_in_order(tmp_path: Path, ignored: bool) -> None:
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({**TINY, "scheduler": {"kind": "none"}}))
    words = [*(["nohup"] if ignored else []), *COMMAND.split(), "run", "e.yaml"]
    process, terminal = pty.fork()
    if not process:
        os.chdir(tmp_path)
        os.environ["COLUMNS"] = "80"
        os.execvp(words[0], words)
    log = tmp_path / "results" / "tiny" / "logs" / "driver.log"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (log.exists() and "] t0" in log.read_text()):
        time.sleep(0.2)
        with suppress(OSError):  # nohup has left the terminal.
            while select.select([terminal], [], [], 0)[0]:
                os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if ignored else 130)
    trials = tables(tmp_path / "results" / "tiny")["trials"]
    found = set(trials["status"])
    assert found == {"finished"} if ignored else found <= {"finished", "interrupted"}
    assert json.loads((tmp_path / "results" / "tiny" / "sweep.json").read_text())["num_trials"] == 6
