"""Random input: whatever is read, only errors of this package come out, and nothing hangs.

``PDO_FUZZ_EXAMPLES=10000 pytest -m fuzz`` is the full run; a plain one is short and the same.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pdo_search import load_model, open_sweep
from pdo_search.analysis.summary import sweep_summary
from pdo_search.base.errors import PdoError
from pdo_search.base.screen import Screen
from pdo_search.cli.main import run_command
from pdo_search.cli.show import print_sweep
from pdo_search.config.load import load_experiment
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.loop import initial_state
from pdo_search.distill.state import pack, unpack
from pdo_search.results.schema import TABLES
from pdo_search.results.writer import TableWriter
from pdo_search.store import Store, artifacts

from ..conftest import TINY
from .sweeps import PICTURES, trial, write_model, write_sweep

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]

TOTAL = int(os.environ.get("PDO_FUZZ_EXAMPLES", "100"))
DEADLINE_MS = 10_000
SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))


def fuzzed(share: float) -> Callable[[Any], Any]:
    """Settings of a family of inputs: its share of all examples."""
    return settings(
        max_examples=max(5, round(share * TOTAL)),
        deadline=DEADLINE_MS,
        derandomize=TOTAL <= 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def holds(act: Callable[[], object]) -> None:
    """Only this package's errors come out, and their message is short."""
    told = "nothing"
    try:
        act()
    except PdoError as error:
        told = str(error)
    assert 0 < len(told) < 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder, in which no code of an input makes a canary."""
    path = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)
    assert not list(path.rglob("canary"))


# What values look like

NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 10**6, 10**18, 2**63, 10**30, -(10**30), 10**39])
FLOATS = st.floats() | st.sampled_from([1e-300, 1e300, 0.5, -0.0])
CALLS = ["os:system", "a:b", ":", "harmful:", "s3://key:secret@bucket/x", "../..", "/dev/zero"]
WORDS = st.sampled_from(
    [
        *CALLS,
        "1e400",
        "20m",
        "-3m",
        "9" * 60,
        "digits",
        "resnet18",
        "teacher",
        "auto",
        "touch canary",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | FLOATS | st.text(max_size=20) | WORDS
KEYS = st.sampled_from(["int", "float", "choice", "step", "log", "args", "x", "weights"]) | st.text(
    max_size=8
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
ENDS = st.lists(NUMBERS | FLOATS | SCALARS, min_size=1, max_size=3)
DIMENSIONS = st.builds(
    lambda kind, ends, options: {kind: ends, **options},
    st.sampled_from(["int", "float", "choice"]),
    ENDS,
    st.dictionaries(st.sampled_from(["step", "log", "int"]), SCALARS, max_size=2),
)
DEEP = st.integers(10, 400).map(lambda depth: json.loads("[" * depth + "]" * depth))
VALUES = TREES | DIMENSIONS | DEEP


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes below a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, node in items:
        found.append((*path, key))
        if isinstance(node, dict | list):
            found += places(node, (*path, key))
    return found


def mutated(draw: st.DrawFn, tree: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """A tree with a few nodes replaced, removed, renamed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        paths = places(tree)
        if not paths:
            return tree
        *parents, last = draw(st.sampled_from(paths))
        node = tree
        for key in parents:
            node = node[key]
        act = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]))
        if act == "replace" or isinstance(node, list):
            node[last] = draw(values)
        elif act == "remove":
            del node[last]
        elif act == "rename":
            node[draw(KEYS)] = node.pop(last)
        else:
            node[draw(KEYS)] = draw(values)
    return tree


TOKENS = [
    b"&a ", b"*a", b"<<: ", b"[", b"]", b"{", b"}", b"? ", b": ", b"- ", b"\x00", b"\xff", b"\n",
    b"!!python/object/apply:os.system ['touch canary']", b"!!int ", b"!!float ", b"!!binary ",
    b"!!timestamp ", b"!!set ", b"!!omap ", b"2001-99-99", b"0x", b"1:2:3", b"| ", b"%TAG ! x\n",
    b".nan", b".inf", b"'", b'"', b"---\n", b"\t", b"PAR1", b"null", b"999999999999",
]  # fmt: skip


def spliced(draw: st.DrawFn, data: bytes, other: bytes = b"") -> bytes:
    """Bytes cut, repeated, flipped and mixed with others."""
    for _ in range(draw(st.integers(1, 4))):
        at, to = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        act = draw(st.integers(0, 6))
        if act == 0:
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
        elif act == 1:
            data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
        elif act == 2:
            data = data[:at] + data[min(to, at + 64) :]
        elif act == 3:
            data = data[:at]
        elif act == 4 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif act == 5:
            data = data[:to] + data[at : at + 256] + data[to:]
        else:
            data = data[:at] + other[at:]
    return data


# Experiments


@st.composite
def experiments(draw: st.DrawFn) -> str:
    tree = mutated(draw, yaml.safe_load(draw(st.sampled_from(SHIPPED)).read_bytes()))
    allow_unicode, limit = draw(st.booleans()), sys.getrecursionlimit()
    # What is nested too deeply is for the reader to refuse, not for this writer.
    sys.setrecursionlimit(20_000)
    try:
        return yaml.safe_dump(tree, allow_unicode=allow_unicode)
    finally:
        sys.setrecursionlimit(limit)


@st.composite
def experiment_bytes(draw: st.DrawFn) -> bytes:
    own, other = (draw(st.sampled_from(SHIPPED)).read_bytes() for _ in range(2))
    return spliced(draw, own, other)


def resolved(file: Path) -> None:
    loaded = load_experiment(file)
    resolve(loaded.experiment, {d.path: d.ends()[0] for d in loaded.space})


@fuzzed(0.30)
@given(text=experiments())
def test_experiments(folder: Path, text: str) -> None:
    file = folder / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    holds(lambda: resolved(file))


@fuzzed(0.20)
@given(data=experiment_bytes())
def test_experiments_as_bytes(folder: Path, data: bytes) -> None:
    file = folder / "experiment.yaml"
    file.write_bytes(data)
    holds(lambda: resolved(file))


@fuzzed(0.02)
@given(text=st.text(max_size=60), path=st.sampled_from(["trial.epochs", "name", "student", ""]))
def test_overrides(folder: Path, text: str, path: str) -> None:
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(TINY))
    holds(lambda: load_experiment(file, [f"{path}={text}"]))


CHECKED = {**TINY, "task": {"data": {"source": "digits", "limit": 300, "download": False}}}
WITHOUT_CALLS = VALUES.filter(lambda value: ":" not in json.dumps(value, default=str))


@st.composite
def checked_experiments(draw: st.DrawFn) -> str:
    return yaml.safe_dump(mutated(draw, CHECKED, WITHOUT_CALLS))


@fuzzed(0.02)
@given(text=checked_experiments())
def test_the_check_command(folder: Path, text: str) -> None:
    file = folder / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    assert run_command(["check", str(file)]) in (0, 1, 2)


# Sweeps


PARTS = [f"{name}/part-00000.parquet" for name in TABLES]


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Path:
    """A sweep with rows in all tables."""
    rows = [trial(n, status=s) for n, s in enumerate(["finished", "stopped", "failed", "finished"])]
    path = write_sweep(folder, *rows)
    writer = TableWriter(path)
    for n in range(4):
        one = {"number": n, "trial_id": f"t{n:04d}"}
        writer.upsert("composites", {**one, "mode": "cascade", "val_accuracy": 0.9, "flops": 1e5})
    writer.flush()
    for name in PARTS:  # Without the digest, behind which a change would get no further.
        parquet.write_table(parquet.read_table(path / name), path / name)
    return path


@pytest.fixture
def own_sweep(sweep: Path, folder: Path) -> Path:
    """A copy of the sweep whose files may be replaced, one at a time."""
    path = folder / "mutated"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sweep, path)
    return path


def read_all(sweep: Path) -> None:
    opened = open_sweep(sweep)
    frames = (opened.trials, opened.epochs, opened.stages, opened.teachers, opened.composites)
    assert all(frame is not None for frame in frames)
    summary = sweep_summary(opened)
    json.dumps(summary, default=str)
    shown = io.StringIO()
    print_sweep(summary, Screen(file=shown, width=100, highlight=False, markup=False, emoji=False))
    assert all(c.isprintable() or c == "\n" for c in shown.getvalue())
    with suppress(PdoError):
        opened.best()
    opened.leaderboard()
    opened.pareto()


def replaced(sweep: Path, name: str, data: bytes) -> None:
    """Read a sweep with other bytes in one file."""
    before = (sweep / name).read_bytes()
    (sweep / name).write_bytes(data)
    try:
        holds(lambda: read_all(sweep))
    finally:
        (sweep / name).write_bytes(before)


@fuzzed(0.16)
@given(data=st.data(), name=st.sampled_from(PARTS), other=st.sampled_from(PARTS))
def test_parts_as_bytes(own_sweep: Path, data: st.DataObject, name: str, other: str) -> None:
    own, mixed = ((own_sweep / n).read_bytes() for n in (name, other))
    replaced(own_sweep, name, data.draw(st.composite(spliced)(own, mixed)))


ARROW = st.sampled_from(
    [
        pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.binary(),
        pa.large_string(), pa.timestamp("us", tz="UTC"), pa.timestamp("ns"), pa.date32(),
        pa.list_(pa.int64()), pa.dictionary(pa.int32(), pa.string()), pa.decimal128(5, 2),
    ]
)  # fmt: skip
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": FLOATS | st.sampled_from([float("inf"), float("-inf"), float("nan"), 1e308]),
    "string": st.text(max_size=12) | WORDS,
    "bool": st.booleans(),
    "timestamp[us, tz=UTC]": st.integers(-(2**63), 2**63 - 1),
}


def other_column(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    """The table with a column of another type, twice, gone, or with one that nobody knows."""
    at = draw(st.integers(0, table.num_columns - 1))
    field, act = table.schema.field(at), draw(st.integers(0, 3))
    if act == 0:
        kind = draw(ARROW)
        return table.set_column(at, pa.field(field.name, kind), pa.nulls(len(table), kind))
    if act == 1:
        return table.append_column(field, table.column(at))
    if act == 2:
        return table.remove_column(at)
    name = draw(st.sampled_from(["param.x", "param.", "number"]) | st.text(max_size=8))
    return table.append_column(name, pa.array([draw(SCALARS.map(str))] * len(table)))


def other_values(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    """The table with other values in some columns."""
    columns = st.integers(0, table.num_columns - 1)
    for at in draw(st.lists(columns, min_size=4, max_size=30, unique=True)):
        field = table.schema.field(at)
        cells = CELLS[str(field.type)] | (st.none() if field.nullable else st.nothing())
        values = draw(st.lists(cells, min_size=len(table), max_size=len(table)))
        table = table.set_column(at, field, pa.array(values, field.type))
    return table


@fuzzed(0.12)
@given(data=st.data(), name=st.sampled_from([PARTS[0]] * 4 + PARTS), values=st.booleans())
def test_parts_with_other_columns(
    own_sweep: Path, data: st.DataObject, name: str, values: bool
) -> None:
    table = parquet.read_table(own_sweep / name)
    table = data.draw(st.composite(other_values if values else other_column)(table))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    replaced(own_sweep, name, buffer.getvalue())


@fuzzed(0.06)
@given(data=st.data())
def test_sweep_files(own_sweep: Path, data: st.DataObject) -> None:
    content = json.loads((own_sweep / "sweep.json").read_text())
    changed = data.draw(st.composite(mutated)(content))
    replaced(own_sweep, "sweep.json", json.dumps(changed, default=str).encode())


@fuzzed(0.02)
@given(data=st.data())
def test_sweep_files_as_bytes(own_sweep: Path, data: st.DataObject) -> None:
    own = (own_sweep / "sweep.json").read_bytes()
    replaced(own_sweep, "sweep.json", data.draw(st.composite(spliced)(own, own)))


# Checkpoints, stores, models


def some_state() -> tuple[TrialConfig, bytes]:
    file = SHIPPED[0].with_name("digits.yaml")
    loaded = load_experiment(file)
    config = resolve(loaded.experiment, {d.path: d.ends()[0] for d in loaded.space})
    return config, pack(initial_state(config), "key")


@fuzzed(0.03)
@given(data=st.data(), signed=st.booleans())
def test_checkpoints_as_bytes(data: st.DataObject, signed: bool) -> None:
    _, sealed = some_state()
    body = data.draw(st.composite(spliced)(sealed[32:], sealed))
    head = hashlib.sha256(body).digest() if signed else sealed[:32]
    holds(lambda: unpack(head + body, "key"))


@fuzzed(0.03)
@given(data=st.data())
def test_checkpoints_with_other_values(data: st.DataObject) -> None:
    _, sealed = some_state()
    payload = torch.load(io.BytesIO(sealed[32:]), weights_only=True)
    buffer = io.BytesIO()
    torch.save(data.draw(st.composite(mutated)(payload)), buffer)
    body = buffer.getvalue()
    holds(lambda: unpack(hashlib.sha256(body).digest() + body, "key"))


@fuzzed(0.02)
@given(data=st.data(), as_bytes=st.booleans())
def test_manifests(folder: Path, data: st.DataObject, as_bytes: bool) -> None:
    store = Store(folder / "store-fuzz")

    def build(place: Path) -> None:
        (place / "data").write_text("whole")

    path = store.get_or_build("thing", {"a": 1}, build).path
    file = path / "manifest.json"
    times = {"built_at": 1.5, "build_s": 0.5}  # Whatever they were: the same in every example.
    good = json.dumps({**json.loads(file.read_text()), **times}).encode()
    if as_bytes:
        file.write_bytes(data.draw(st.composite(spliced)(good, good)))
    else:
        changed = data.draw(st.composite(mutated)(json.loads(good)))
        file.write_text(json.dumps(changed, default=str))
    artifacts._VERIFIED.clear()
    again = store.get_or_build("thing", {"a": 1}, build)
    assert (again.path / "data").read_text() == "whole"
    shutil.rmtree(again.path)


@fuzzed(0.02)
@given(
    data=st.data(),
    name=st.sampled_from(["composite.json", "student/model.json", "student/weights.safetensors"]),
    as_bytes=st.booleans(),
)
def test_models(folder: Path, data: st.DataObject, name: str, as_bytes: bool) -> None:
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    write_model(model / "student")
    write_model(model / "teacher")
    (model / "composite.json").write_text('{"mode": "cascade", "threshold": 0.5, "calibration": 1}')
    good = (model / name).read_bytes()
    if as_bytes or name.endswith("safetensors"):
        changed = data.draw(st.composite(spliced)(good, good))
    else:
        tree = data.draw(st.composite(mutated)(json.loads(good)))
        changed = json.dumps(tree, default=str).encode()
    (model / name).write_bytes(changed)
    holds(lambda: load_model(model))


def test_the_inputs_before_they_are_changed_are_good(sweep: Path, folder: Path) -> None:
    read_all(sweep)
    assert unpack(some_state()[1], "key").epoch == 0
    assert load_model(write_model(folder / "good"))(PICTURES).shape == (2, 3)
    for file in SHIPPED:
        resolved(file)
