"""What the store's tests share: an S3 bucket, machines, and artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdo_search.store import Artifact, Store, artifacts
from pdo_search.store.use import Uses

from ..s3 import emulated_s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty folder on S3."""
    with emulated_s3():
        yield "s3://bucket/sweeps"


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
