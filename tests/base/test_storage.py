"""Storage on a disk and on S3: atomic, patient, sparing with requests, blind to links."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pdo_search.base import storage
from pdo_search.base.errors import StoreError
from pdo_search.base.process import host_and_process, identity, is_dead
from pdo_search.base.storage import Storage, Unreachable, is_unreachable, patience
from pdo_search.testing.storage import StorageContract

from ..faults.object_store import BUCKET, Hold, object_store
from ..s3 import emulated_s3, s3_settings

HIGH = 20 << 20


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, list[str]]]:
    """The URI of an empty bucket's folder, and the requests made so far."""
    with emulated_s3() as requests:
        yield "s3://bucket/a folder/sweep", requests


class TestDisk(StorageContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Storage:
        return Storage(tmp_path / "sweep")


class TestS3(StorageContract):
    @pytest.fixture
    def place(self, s3: tuple[str, list[str]]) -> Storage:
        return Storage(f"{s3[0]}-{time.time_ns()}")


def test_an_object_costs_as_few_requests_as_it_can(s3: tuple[str, list[str]]) -> None:
    uri, requests = s3
    place = Storage(f"{uri}/counted")
    place.write("warm", b"")
    requests.clear()
    place.write("trials/part-00000.parquet", b"x" * 100_000)
    assert [r.split()[0] for r in requests] == ["PUT"]
    requests.clear()
    Storage(f"{uri}/counted").read("trials/part-00000.parquet")
    assert [r.split()[0] for r in requests] == ["HEAD", "GET"]


def test_a_replacement_during_a_read_never_tears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    with object_store() as store:
        for name, value in s3_settings(store.address).items():
            monkeypatch.setenv(name, value)
        storage._filesystem.cache_clear()
        place = Storage(f"s3://{BUCKET}/read")
        directly = boto3.client("s3", endpoint_url=store.direct)
        for now in (b"longer than before", b"short"):
            place.write("lease", b"ten bytes.")
            hold = store.hold = Hold("GET", "/read/lease", forwarded=True)
            with ThreadPoolExecutor() as pool:
                reading = pool.submit(place.read, "lease")
                assert hold.met.wait(10)
                directly.put_object(Bucket=BUCKET, Key="read/lease", Body=now)
                hold.let_go.set()
                assert reading.result() == now
        store.hold = None
        large = os.urandom(HIGH)
        place.write("large", large)
        assert place.read("large") == large
    storage._filesystem.cache_clear()


def test_what_stands_in_the_way_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    place = Storage(tmp_path / "sweep")
    place.write("other", b"")
    (tmp_path / "sweep" / "checkpoints").symlink_to(outside)
    (tmp_path / "sweep" / "file").symlink_to(outside / "precious")
    mine = f".file{storage.TEMPORARY}{host_and_process()}"
    (tmp_path / "sweep" / mine).symlink_to(outside / "precious")
    for name in ("checkpoints/new", "checkpoints/precious", "file"):
        with pytest.raises(StoreError, match="links in it are not followed"):
            place.write(name, b"theirs")
    with pytest.raises(OSError, match="not followed"):
        place.delete("checkpoints/precious")
    with pytest.raises(OSError, match="not followed"):
        place.move("checkpoints/precious", "stolen")
    assert [p.name for p in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "part")
    (tmp_path / "folder").mkdir()
    assert Storage(tmp_path).files() == ["folder", "part"]
    for name in ("folder", "part"):
        with pytest.raises(OSError, match="no regular file"):
            Storage(tmp_path).read(name)
        with pytest.raises(StoreError, match="no regular file"):
            Storage(tmp_path).local_file(name)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket behind an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for name, value in s3_settings(f"http://127.0.0.1:{taken.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        storage._filesystem.cache_clear()
        yield "s3://bucket/gone"
    storage._filesystem.cache_clear()


@pytest.mark.slow
def test_without_patience_the_user_is_told_at_once(nobody: str) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        Storage(nobody).read("sweep.json")
    cannot = r"gone/sweep.json cannot be written.*; resume when it answers again"
    with pytest.raises(StoreError, match=cannot) as caught:
        Storage(nobody).write("sweep.json", b"")
    assert is_unreachable(caught.value)


def test_an_outage_is_waited_for(
    s3: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = s3
    place, met = Storage(f"{uri}/outage"), threading.Event()
    usual = storage.Storage._put

    def refused(self: Storage, name: str, data: bytes) -> None:
        if not met.is_set():
            threading.Timer(1.0, met.set).start()
            raise OSError("When uploading: AWS Error NETWORK_CONNECTION")
        usual(self, name, data)

    monkeypatch.setattr(storage.Storage, "_put", refused)
    with patience(30):
        place.write("a", b"kept")
    assert place.read("a") == b"kept"


def test_a_refusal_is_final(s3: tuple[str, list[str]]) -> None:
    with patience(600), pytest.raises(StoreError, match="NO_SUCH_BUCKET"):
        Storage("s3://no-such-bucket/x").write("a", b"")


def test_who_is_dead_is_known_only_here() -> None:
    mine = identity()
    assert not is_dead(mine)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert is_dead({**mine, "pid": child})
    assert not is_dead({**mine, "pid": child, "namespace": "another machine's"})
    assert not is_dead({"pid": child})
    assert not is_dead({**mine, "pid": "1"})
