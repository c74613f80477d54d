"""An object store that fails on demand: moto in a process of its own, behind a proxy."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "bucket"
START_S = 60.0


@dataclass
class Hold:
    """A request that is kept waiting.

    Attributes:
        method: of the request.
        part: of its path.
        met: set when the first such request has come.
        let_go: set when they may go on.
        forwarded: whether they reach the store then; else their connections are closed.
    """

    method: str
    part: str
    forwarded: bool
    met: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


@dataclass
class ObjectStore:
    """S3 as moto emulates it.

    Attributes:
        direct: its address without the proxy: what a test looks through.
        address: of the proxy: what a sweep uses.
        down: whether nobody is answered.
        hold: what is kept waiting; None for nothing.
        requests: method and path of all that were answered.
    """

    direct: str
    address: str = ""
    down: bool = False
    hold: Hold | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def env(self, address: str) -> dict[str, str]:
        """What a process needs to use the store at one of its addresses."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": address,
        }


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store with one bucket, for as long as the block runs."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    moto = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = ObjectStore(f"http://127.0.0.1:{port}")
    proxy = _Proxy(store, port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    try:
        _await(moto, port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        thread.start()
        store.address = f"http://127.0.0.1:{proxy.server_address[1]}"
        yield store
    finally:
        if thread.is_alive():
            proxy.shutdown()
        proxy.server_close()
        moto.kill()
        moto.wait()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, store: ObjectStore, upstream: int) -> None:
        self.store = store
        self.upstream = upstream
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def answer(self) -> None:
        """Pass a request on, or not."""
        store = self.server.store
        if store.down:
            self._hang_up()
            return
        body = self._body()
        hold = store.hold
        if hold is not None and self.command == hold.method and hold.part in self.path:
            hold.met.set()
            hold.let_go.wait()
            if not hold.forwarded:
                self._hang_up()
                return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        dropped = ("connection", "transfer-encoding", "expect", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        found = upstream.getresponse()
        data = found.read()
        store.requests.append((self.command, self.path))
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in (*dropped, "server", "date"):
                self.send_header(name, value)
        size = found.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "moto ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("moto did not start")
