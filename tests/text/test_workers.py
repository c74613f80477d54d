"""Trials on texts by two workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.runs import TEXTS, differences, with_workers


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_workers_are_one(tmp_path: Path) -> None:
    """In every number of every table, whoever has the longer texts of a batch."""
    pytest.importorskip("tokenizers")
    one = with_workers(str(tmp_path), 1, TEXTS)[TEXTS]
    two = with_workers(str(tmp_path), 2, TEXTS)[TEXTS]
    assert len(one["epochs"]) == 4
    assert one["teachers"][1]["status"] == "pruned"
    assert differences(one, two) == []
