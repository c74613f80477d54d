"""Folders for temporary files: gone at the end, and after a killed process with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pdo_search.base.scratch import scratch_folder

HOLDING = """
import sys, time
from pdo_search.base.scratch import scratch_folder
with scratch_folder("tune") as folder:
    (folder / "file").write_text("left")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_gone_at_the_end() -> None:
    with scratch_folder("model") as folder:
        assert folder.is_dir()
        (folder / "file").write_text("mine")
    assert not folder.exists()


def test_those_of_the_dead_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    others = [tmp_path / "pdo-tune-abc", tmp_path / "pdo-tune-00000000-4194304-abcdefgh"]
    for other in others:
        other.mkdir()
    holding = subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    theirs = Path(holding.stdout.readline().strip())
    with scratch_folder("tune"):
        assert theirs.is_dir()
    holding.send_signal(signal.SIGKILL)
    holding.communicate()
    assert theirs.is_dir()
    with scratch_folder("model"):
        assert not theirs.exists()
    assert all(other.is_dir() for other in others)
