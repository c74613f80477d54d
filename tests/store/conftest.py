"""What the store's tests share: an S3 bucket, machines, and artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdo_search.base import storage
from pdo_search.store import Artifact, Store, artifacts
from pdo_search.store.use import Uses

from ..s3 import s3_settings


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty folder on S3, as moto emulates it over HTTP."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer(port=0)
        running.start()
        host, port = running.get_host_and_port()
        for name, value in s3_settings(f"http://{host}:{port}").items():
            patch.setenv(name, value)
        storage._filesystem.cache_clear()
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket/sweeps"
        running.stop()


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Forget, as a new process would, what this one verified and uses."""

    def forget() -> None:
        for path in list(artifacts._USES._held):
            artifacts._USES.let_go(path)
        monkeypatch.setattr(artifacts, "_VERIFIED", set())
        monkeypatch.setattr(artifacts, "_USES", Uses())

    forget()
    yield forget
    forget()


def put(store: Store, text: str = "content", key: int = 1, kind: str = "thing") -> Artifact:
    def build(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "more").write_text(text)
        (folder / "data").write_text(text)

    return store.get_or_build(kind, {"key": key}, build)
