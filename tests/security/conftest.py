"""A canary: hostile files make it where code of theirs is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdo_search.cli.main import run_command


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path at which there is nothing, before the test and after it."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def pickled(canary: Path) -> bytes:
    """A pickle that makes the canary."""
    return pickle.dumps(Hostile(canary))


class Command:
    """The command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int) -> str:
        """Run a command; what it printed."""
        found = run_command(list(arguments))
        told = self._capsys.readouterr()
        assert found == code, told.out + told.err
        assert "Traceback" not in told.out + told.err
        return told.out + told.err


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs commands, expecting an exit code and no traceback."""
    return Command(capsys)
