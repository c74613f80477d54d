"""Errors as Python users meet them: plain text, whatever strangers wrote into files and names."""

from __future__ import annotations

import json
import pickle
import traceback
from pathlib import Path

import pytest

import pdo_search
from pdo_search.base.errors import Infeasible, InputError, PdoError, StoreError

from ..security.sweeps import trial, write_model, write_sweep

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil"


def plain(error: BaseException) -> str:
    """The text of an error as it is printed; nothing in it steers a terminal."""
    shown = f"{error}\n" + "".join(traceback.format_exception_only(error))
    assert all(c.isprintable() or c == "\n" for c in shown), ascii(shown)
    return str(error)


@pytest.mark.parametrize("kind", [PdoError, StoreError, Infeasible, InputError])
def test_an_error_holds_no_control_characters(kind: type[PdoError]) -> None:
    error = kind(f"bad {HOSTILE}")
    assert plain(error) == r"bad \x1b]0;owned\x07\x1b[2J\u202eevil"
    assert plain(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_name_begins_no_line_of_its_own() -> None:
    error = InputError("bad", file="a\nerror: b", path="c\nd", remedy="one\n     two")
    assert plain(error) == "a\\nerror: b: c\\nd: bad\n  -> one\n     two"


def test_an_error_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "correct-horse-battery")
    assert str(PdoError("https://me:word@host correct-horse-battery")) == "https://***@host ***"


def test_opening_what_a_stranger_sent(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        pdo_search.open_sweep(tmp_path / HOSTILE)
    plain(caught.value)
    sweep = write_sweep(tmp_path / HOSTILE, trial(0, model=f"/{HOSTILE}"))
    opened = pdo_search.open_sweep(sweep)
    for act in (
        lambda: opened.best(HOSTILE),
        lambda: opened.pareto(HOSTILE),
        lambda: opened.model_path(HOSTILE),
        lambda: opened.model_path("t0000"),
    ):
        with pytest.raises(PdoError) as failed:
            act()
        plain(failed.value)
    content = json.loads((sweep / "sweep.json").read_text())
    for changes in ({"mode": HOSTILE}, {"schema_version": 99, "name": HOSTILE}):
        (sweep / "sweep.json").write_text(json.dumps({**content, **changes}))
        with pytest.raises(InputError) as caught:
            pdo_search.open_sweep(sweep)
        plain(caught.value)


def test_the_best_of_none(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / HOSTILE, trial(0, status="failed", objective=None))
    with pytest.raises(PdoError) as caught:
        pdo_search.open_sweep(sweep).best()
    assert "no trial has finished yet (1 failed)" in plain(caught.value)


def test_a_part_with_a_hostile_column(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sweep = write_sweep(tmp_path)
    part = sweep / "trials" / "part-00000.parquet"
    table = parquet.read_table(part)
    lists = pa.array([[1]] * len(table))
    for name, column in ((HOSTILE, pa.array([b"x"] * len(table))), (f"param.{HOSTILE}", lists)):
        parquet.write_table(table.append_column(name, column), part)
        with pytest.raises(InputError) as caught:
            _ = pdo_search.open_sweep(sweep).trials
        plain(caught.value)


def test_loading_a_hostile_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / HOSTILE)
    for content in (f'{{"format": "{HOSTILE}"', json.dumps({"format": 1, HOSTILE: HOSTILE})):
        (model / "model.json").write_text(content)
        with pytest.raises(PdoError) as caught:
            pdo_search.load_model(model)
        plain(caught.value)
    with pytest.raises(PdoError) as caught:
        pdo_search.load_model(tmp_path / "none" / HOSTILE)
    plain(caught.value)
