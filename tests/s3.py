"""S3 as moto emulates it over HTTP: the settings by which a process finds it, and one of this
process's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pdo_search.base import storage

__all__ = ["Answer", "emulated_s3", "s3_settings"]

Answer = Callable[..., Any]


def s3_settings(address: str) -> dict[str, str]:
    """Environment of a process that uses the S3 at an address."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": address,
    }


@contextmanager
def emulated_s3(
    asked: Callable[[Answer, dict[str, Any], Answer], Any] | None = None,
) -> Iterator[list[str]]:
    """An S3 that this process uses meanwhile, with an empty ``s3://bucket``.

    Args:
        asked: answers a request, given moto's own answer; None leaves it to that.

    Yields:
        The requests so far, such as ``PUT /bucket/key``.
    """
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    requests: list[str] = []

    class Front(server.DomainDispatcherApplication):  # type: ignore[name-defined]
        def __call__(self, environ: dict[str, Any], start_response: Answer) -> Any:
            requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            if asked is None:
                return super().__call__(environ, start_response)
            return asked(super().__call__, environ, start_response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto.moto_server.threaded_moto_server.DomainDispatcherApplication", Front)
        running = server.ThreadedMotoServer(port=0)
        running.start()
        host, port = running.get_host_and_port()
        for name, value in s3_settings(f"http://{host}:{port}").items():
            patch.setenv(name, value)
        storage._filesystem.cache_clear()
        boto3.client("s3").create_bucket(Bucket="bucket")
        requests.clear()
        yield requests
        running.stop()
        storage._filesystem.cache_clear()
