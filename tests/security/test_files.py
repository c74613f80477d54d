"""Hostile files wherever one is read: no code runs, little memory is used, the file is named."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet

from pdo_search.base.errors import InputError, StoreError
from pdo_search.config.task import DataConfig
from pdo_search.distill.state import FORMAT, unpack
from pdo_search.store import Store, artifacts
from pdo_search.store.bank import Bank
from pdo_search.store.encoding import StoredHead
from pdo_search.tasks.images.data import load_pictures

from ..conftest import TINY
from .conftest import Command, Hostile
from .sweeps import write_sweep

MIB = 1 << 20


def megabytes(act: Callable[[], object]) -> float:
    """Most memory that Python's allocator had while something was done."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


# Experiment files

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)
YAMLS: dict[str, tuple[str, str]] = {
    "a call": ("x: !!python/object/apply:os.system ['touch CANARY']\n", "not valid YAML"),
    "a new object": ("x: !!python/object/new:os.system ['touch CANARY']\n", "not valid YAML"),
    "a module": ("x: !!python/module:os\n", "not valid YAML"),
    "a billion laughs": (LAUGHS, "aliases that make more than"),
    "a billion merges": (MERGES, "aliases that make more than"),
    "an endless list": ("a: &a [*a]\n", "aliases that make more than"),
    "an endless mapping": ("a: &a {b: *a}\n", "aliases that make more than"),
    "deep lists": ("a: " + "[" * 10_000, "nested too deeply"),
    "deep mappings": ("a: " + "{b: " * 10_000, "nested too deeply"),
    "a number of many digits": (f"a: {'9' * 5000}\n", "more than 40 digits"),
    "a hexadecimal number": (f"a: 0x{'f' * 50_000}\n", "more than 40 digits"),
    "no number": ("a: !!int x\n", "cannot be read"),
    "no float": ("a: !!float ''\n", "cannot be read"),
    "no truth value": ("a: !!bool x\n", "cannot be read"),
    "no date": ("a: 2001-99-99\n", "cannot be read"),
    "no time": ("a: !!timestamp x\n", "cannot be read"),
    "a large file": ("a: " + "x" * (1 << 20), "larger than"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_yaml_is_data_and_small(case: str, command: Command, canary: Path, tmp_path: Path) -> None:
    text, words = YAMLS[case]
    file = tmp_path / "experiment.yaml"
    file.write_text(text.replace("CANARY", str(canary)))
    told = command("check", str(file), code=2)
    assert words in told
    assert str(file) in told
    assert len(told) < 2000


def test_an_override_is_data_as_well(command: Command, canary: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(TINY))
    for value in (f"!!python/object/apply:os.system ['touch {canary}']", "[" * 5000, "9" * 5000):
        assert "--set" in command("check", str(file), "--set", f"trial.epochs={value}", code=2)


def test_anchors_are_still_allowed(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    text = yaml.safe_dump({k: v for k, v in TINY.items() if k not in ("teacher", "student")})
    text += "teacher: &model {arch: small_convnet, width: 4, weights: none.pt}\n"
    text += "student: {<<: *model, weights: null, width: 2}\n"
    file.write_text(text)
    assert "none.pt: teacher.weights: no such checkpoint" in command("check", str(file), code=2)


def test_a_pipe_in_the_place_of_an_experiment(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "experiment.yaml")
    assert "no regular file" in command("check", str(tmp_path / "experiment.yaml"), code=2)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "a/b", "a\x1b[2J", ""])
def test_a_name_stays_in_its_root(name: str, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(TINY))
    told = command("run", str(file), "--name", name, code=2)
    assert "it names a directory" in told
    assert "\x1b" not in told


# Sweeps


@pytest.mark.parametrize("command_name", ["show", "resume"])
def test_a_sweep_whose_experiment_names_factories_is_shown_without_them(
    command_name: str, command: Command, canary: Path, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path)
    (tmp_path / "harmful.py").write_text(f"import os\nos.system('touch {canary}')\n")
    content = json.loads((sweep / "sweep.json").read_text())
    for tree in (content["given"], content["resolved"]):
        tree["student"] = {"arch": "harmful:make"}
        tree["task"]["data"] = {"source": "harmful:data"}
    if command_name == "resume":  # Which runs an experiment's code, but not that of a broken one.
        content["given"]["search"] = {"num_trials": -1}
    (sweep / "sweep.json").write_text(json.dumps(content))
    command(command_name, str(sweep), code=0 if command_name == "show" else 2)


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/etc/passwd", "pipe", "deep", "laughs", "digits", "pickle"]
)
def test_a_sweep_file_that_is_none(
    target: str, command: Command, tmp_path: Path, pickled: bytes
) -> None:
    sweep = write_sweep(tmp_path)
    file = sweep / "sweep.json"
    file.unlink()
    contents = {
        "deep": b'{"given": ' * 50_000,
        "laughs": json.dumps({"name": LAUGHS}).encode(),
        "digits": b'{"num_trials": ' + b"9" * 5000 + b"}",
        "pickle": pickled,
    }
    if target in contents:
        file.write_bytes(contents[target])
    elif target == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(target)
    for name in ("show", "resume"):
        told = command(name, str(sweep), code=2)
        assert str(file) in told
        assert "root:" not in told


def test_git_is_not_run_where_a_strangers_sweep_says(
    command: Command, canary: Path, tmp_path: Path
) -> None:
    import subprocess

    from pdo_search.results.sweepfile import read_sweep_file, write_sweep_file

    sweep = write_sweep(tmp_path / "stranger")
    repository = tmp_path / "stranger"
    (repository / "tiny.yaml").write_text("x")
    for words in (["init", "-q"], ["add", "tiny.yaml"]):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    hook = repository / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {canary}\n")
    hook.chmod(0o755)
    subprocess.run(["git", "-C", str(repository), "config", "core.fsmonitor", hook], check=True)
    canary.unlink(missing_ok=True)
    write_sweep_file(sweep, read_sweep_file(sweep))


@pytest.mark.parametrize("change", ["no dimension", "another status", "no number"])
def test_tables_that_are_not_of_the_experiment(
    change: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdo_search.config.load import parse_experiment
    from pdo_search.config.search import SchedulerConfig
    from pdo_search.results.writer import TableWriter
    from pdo_search.search.resume import plan_resume

    sweep = write_sweep(tmp_path)
    part = sweep / "trials" / "part-00000.parquet"
    table = parquet.read_table(part)
    if change == "no dimension":
        table = table.drop_columns(["param.temperature"])
    elif change == "another status":
        at = table.schema.get_field_index("status")
        table = table.set_column(at, table.schema.field("status"), pa.array(["x", "y"]))
    else:
        table = table.drop_columns(["number"])
    parquet.write_table(table, part)
    command("show", str(sweep), code=2 if change == "no number" else 0)
    writer = TableWriter(sweep)
    if change == "no number":
        assert writer.damaged
        return
    loaded = parse_experiment(dict(TINY), file=tmp_path / "x", base_dir=tmp_path)
    with pytest.raises(InputError, match="trial 0 does not belong"):
        plan_resume(
            writer.rows("trials"),
            writer.rows("epochs"),
            loaded.space,
            metric="val_accuracy",
            num_trials=6,
            scheduler=SchedulerConfig(),
        )


# Parquet

POOLS: list[pa.MemoryPool] = []


@contextmanager
def counted() -> Iterator[pa.MemoryPool]:
    """A pool that counts what Arrow takes meanwhile; it lives on, as what was taken from it may."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(usual)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_a_small_part_that_would_fill_the_memory(
    compression: str, command: Command, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path)
    text = pa.array(["x" * 100_000])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), text)
    schema = parquet.read_schema(sweep / "trials" / "part-00000.parquet")
    count = len(repeated)
    first = parquet.read_table(sweep / "trials" / "part-00000.parquet")
    columns = [
        repeated if field.name == "cause" else pa.repeat(first[field.name][0], count)
        for field in schema
    ]
    bomb = pa.Table.from_arrays(columns, names=schema.names)
    part = sweep / "trials" / "part-00000.parquet"
    parquet.write_table(bomb, part, compression=compression, store_schema=False)
    assert part.stat().st_size < MIB
    with counted() as pool:
        told = command("show", str(sweep), code=2)
    assert "would need more than 1,073,741,824 bytes" in told
    assert "part-00000.parquet" in told
    assert 0 < pool.max_memory() < 64 * MIB


def test_a_column_of_long_lists_is_not_unpacked(command: Command, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    part = sweep / "trials" / "part-00000.parquet"
    table = parquet.read_table(part)
    zeros = pa.array(np.zeros(30_000_000, np.int64))
    lists = pa.ListArray.from_arrays(pa.array([0, 0, len(zeros)], pa.int32()), zeros)
    parquet.write_table(table.append_column("param.temperatures", lists), part)
    assert part.stat().st_size < MIB
    with counted() as pool:
        assert "it has a nested column" in command("show", str(sweep), code=2)
    assert pool.max_memory() < MIB


FOOTERS = """
import io, random, sys
from contextlib import suppress
from pathlib import Path
from pyarrow import parquet
from pdo_search.results.parts import parse_part
from pdo_search.results.schema import TRIALS
stream = io.BytesIO()
parquet.write_table(parquet.read_table(sys.argv[1]), stream)
whole, rng = stream.getvalue(), random.Random(0)
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for _ in range(1000):
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(footer, len(whole) - 8)] = rng.randrange(256)
    with suppress(Exception):
        parse_part(TRIALS, bytes(data))
print("alive")
"""


def test_a_footer_that_contradicts_itself_ends_no_process(tmp_path: Path) -> None:
    part = write_sweep(tmp_path) / "trials" / "part-00000.parquet"
    command = [sys.executable, "-c", FOOTERS, str(part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n", done.stderr[-2000:]


def test_a_part_of_a_sparse_terabyte(command: Command, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    part = sweep / "trials" / "part-00001.parquet"
    with part.open("wb") as stream:
        stream.truncate(1 << 30)
    told = command("show", str(sweep), code=2)
    assert "larger than 268,435,456 bytes" in told
    assert str(part) in told


# Checkpoints


def sealed(payload: object) -> bytes:
    """A checkpoint with a good digest, as a stranger can make one."""
    import io

    buffer = io.BytesIO()
    torch.save(payload, buffer)
    body = buffer.getvalue()
    return hashlib.sha256(body).digest() + body


def test_a_checkpoint_with_a_good_digest_runs_no_code(canary: Path, pickled: bytes) -> None:
    for data in (
        sealed(Hostile(canary)),
        sealed({"format": FORMAT, "config_key": "k", "plan": Hostile(canary)}),
        hashlib.sha256(pickled).digest() + pickled,
    ):
        with pytest.raises(StoreError, match="damaged"):
            unpack(data, "k")


KNOWN = {"format": FORMAT, "config_key": "k"}


@pytest.mark.parametrize(
    "payload",
    [7, [], {}, {"format": 1}, KNOWN, {**KNOWN, "plan": 3}, {**KNOWN, "plan": [{}]}],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_damaged(payload: object) -> None:
    with pytest.raises(StoreError, match="damaged"):
        unpack(sealed(payload), "k")


# Stores


def test_a_manifest_does_not_lead_out_of_its_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def build(folder: Path) -> None:
        (folder / "data").write_text("whole")

    path = store.get_or_build("thing", {"a": 1}, build).path
    outside = tmp_path / "outside"
    outside.write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    manifest = json.loads((path / "manifest.json").read_text())
    hostile: list[Any] = [
        {"files": {"../../../../outside": digest}},
        {"files": {str(outside): digest}},
        {"files": {"/dev/zero": digest}},
        {"files": ["data"]},
        {"files": None},
        [],
        7,
    ]
    for content in hostile:
        full = {**manifest, **content} if isinstance(content, dict) else content
        (path / "manifest.json").write_text(json.dumps(full))
        artifacts._VERIFIED.clear()
        assert store.get_or_build("thing", {"a": 1}, build).built, content
    (path / "manifest.json").write_text("[" * 100_000)
    artifacts._VERIFIED.clear()
    assert store.get_or_build("thing", {"a": 1}, build).built


@pytest.mark.parametrize("what", ["data", "extra", "manifest.json", "pipe"])
def test_a_link_in_an_artifact_is_damage(what: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def build(folder: Path) -> None:
        (folder / "data").write_text("whole")

    path = store.get_or_build("thing", {"a": 1}, build).path
    kept = (tmp_path / "kept").resolve()
    if what == "pipe":
        os.mkfifo(path / what)
    else:
        kept.write_bytes((path / what).read_bytes() if (path / what).exists() else b"secret")
        (path / what).unlink(missing_ok=True)
        (path / what).symlink_to(kept)
    artifacts._VERIFIED.clear()
    assert store.get_or_build("thing", {"a": 1}, build).built
    assert not (path / what).is_symlink()


def test_a_bank_of_pickles_runs_no_code(canary: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "label.npy", np.array([Hostile(canary)], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Array can't be memory-mapped"):
        Bank(tmp_path, {"label": StoredHead(3)})


# Data


def pictures(folder: Path, source: str) -> str:
    """The message with which a folder of data is refused."""
    with pytest.raises(InputError) as caught:
        load_pictures(
            DataConfig(source=source, path=str(folder), download=False),
            path="task.data",
            base_dir=folder,
            seed=0,
        )
    return str(caught.value)


def cifar(folder: Path, batch: object, meta: object) -> None:
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


GOOD = {b"data": np.zeros((10, 3072), np.uint8), b"labels": list(range(10))}
NAMES = {b"label_names": [b"a"] * 10}


def nested(levels: int) -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


BATCHES: dict[str, tuple[object, object]] = {
    "a list": ([1], NAMES),
    "nothing": ({}, NAMES),
    "lists that multiply": ({**GOOD, b"data": nested(12)}, NAMES),
    "labels that multiply": ({**GOOD, b"labels": nested(12)}, NAMES),
    "pictures of another size": ({**GOOD, b"data": np.zeros((10, 7), np.uint8)}, NAMES),
    "pictures of objects": ({**GOOD, b"data": np.full((10, 3072), None)}, NAMES),
    "no pictures": ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, NAMES),
    "a number of pictures": ({**GOOD, b"data": np.array(3, np.uint8)}, NAMES),
    "too few labels": ({**GOOD, b"labels": [1]}, NAMES),
    "labels without a class": ({**GOOD, b"labels": [99] * 10}, NAMES),
    "no names": (GOOD, {}),
    "names that are numbers": (GOOD, {b"label_names": [1] * 10}),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches_of_something_else_are_refused(case: str, tmp_path: Path) -> None:
    cifar(tmp_path, *BATCHES[case])
    assert str(tmp_path) in pictures(tmp_path, "cifar10")


def test_a_batch_runs_no_code(canary: Path, tmp_path: Path) -> None:
    cifar(tmp_path, {**GOOD, b"data": Hostile(canary)}, NAMES)
    assert "it asks for posix.system" in pictures(tmp_path, "cifar10")
    cifar(tmp_path, GOOD, {b"label_names": Hostile(canary)})
    assert "it asks for posix.system" in pictures(tmp_path, "cifar10")


def idx(folder: Path, name: str, head: bytes, content: bytes) -> None:
    (folder / f"{name}.gz").write_bytes(gzip.compress(head + content, 9))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    head = bytes((0, 0, 8, 3)) + np.array([2, 28, 28], ">u4").tobytes()
    idx(tmp_path, "train-images-idx3-ubyte", head, bytes(200 * MIB))
    assert (tmp_path / "train-images-idx3-ubyte.gz").stat().st_size < MIB
    peak = megabytes(lambda: pictures(tmp_path, "fashion_mnist"))
    assert peak < 50
    assert "train-images-idx3-ubyte.gz: is not a whole idx file" in pictures(
        tmp_path, "fashion_mnist"
    )


@pytest.mark.parametrize(
    "head",
    [
        b"",
        bytes((0, 0, 8, 255)),
        bytes((0, 0, 8, 3)),
        bytes((0, 0, 8, 3)) + b"\xff" * 12,
        bytes((0, 0, 13, 3)) + bytes(12),
    ],
)
def test_sizes_that_cannot_be_are_refused(head: bytes, tmp_path: Path) -> None:
    idx(tmp_path, "train-images-idx3-ubyte", head, b"")
    assert "is not a whole idx file" in pictures(tmp_path, "fashion_mnist")


def png(width: int, height: int) -> bytes:
    """A PNG of zeros, a thousandth of its pixels in size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * min(height, 1000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


FILES: dict[str, bytes] = {
    "a bomb of two gigapixels": png(50_000, 50_000),
    "a bomb that is only warned of": png(10_000, 12_000),
    "half a picture": png(64, 64)[:50],
    "a broken chunk": png(64, 64).replace(b"IDAT", b"\xff\x00\xff\x00"),
    "text": b"not a picture",
    "nothing": b"",
}


@pytest.mark.parametrize("case", FILES)
def test_pictures_that_are_none_are_refused(case: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(FILES[case])
    peak = megabytes(lambda: pictures(tmp_path, "image_folder"))
    assert peak < 50
    said = pictures(tmp_path, "image_folder")
    assert "2 of 2 pictures cannot be read: a/1.png (" in said


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_ghostscript_is_not_started(
    canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    for name in ("pictures/a", "pictures/b", "bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name / "1.png").write_bytes(POSTSCRIPT)
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    said = pictures(tmp_path / "pictures", "image_folder")
    assert "a/1.png (no picture, or not of a kind that is read)" in said


def test_a_pipe_among_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    assert "in a (1 pipes or devices: left out" in pictures(tmp_path, "image_folder")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_run_no_code(
    suffix: str, command: Command, canary: Path, pickled: bytes, tmp_path: Path
) -> None:
    weights = tmp_path / f"teacher{suffix}"
    file = tmp_path / "experiment.yaml"
    tree = {**TINY, "teacher": {"arch": "small_resnet", "width": 8, "weights": weights.name}}
    file.write_text(yaml.safe_dump(tree))
    for write in (
        lambda: torch.save({"w": Hostile(canary)}, weights),
        lambda: torch.save({"w": Hostile(canary)}, weights, _use_new_zipfile_serialization=False),
        lambda: weights.write_bytes(pickled),
    ):
        write()
        told = command("check", str(file), code=2)
        assert f"{weights}: teacher.weights: the checkpoint cannot be read" in told
