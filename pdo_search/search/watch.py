"""Noticing that what a sweep relies on is gone: Ray's processes, or the right to the directory.

Ray 2.60 lets a driver wait for ever for a raylet that died, and kills it a minute after the GCS
did. Here the driver's main thread is interrupted within seconds, keeps what it has, and says in one
line what died.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pdo_search.base.errors import PdoError
from pdo_search.base.process import began_at, descendants

__all__ = ["Watch"]

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Between two looks. The raylet notes each in its log."""
SILENT_S = 30.0
"""How long a GCS on another machine may be silent: a cable may be out for a moment."""
GRACE_S = 10.0
"""How long the main thread has to end, before the process does."""
CONNECT_S = 3.0


class Watch:
    """Interrupts the main thread when the sweep cannot go on.

    Attributes:
        reason: why, in one line; None while it can.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._silent_s = 0.0
        self._ours: dict[int, str] = {}
        self._resting = threading.Event()
        self._ended = threading.Event()

    def fail(self, reason: str) -> None:
        """Interrupt the main thread as SIGTERM does, and end the process if it does not end.

        The first reason counts.
        """
        if self.reason is not None or self._resting.is_set():
            return
        self.reason = reason
        log.error("%s", reason)
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(GRACE_S):
            # A call into Ray that nothing ends. All but the last second is on the disk.
            print(f"error: {reason}", file=sys.stderr, flush=True)
            for process, began in self._ours.items():
                if began_at(process) == began:
                    os.kill(process, signal.SIGKILL)
            os._exit(PdoError.exit_code)

    @contextmanager
    def over(self, look: Callable[[], str | None]) -> Iterator[None]:
        """Look every few seconds, in a thread, until ``rest`` is called.

        The end of the block is the end of the main thread's work.

        Args:
            look: what is wrong, in one line; None where nothing is.
        """
        thread = threading.Thread(target=self._look, args=(look,), name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.rest()
            self._ended.set()

    def rest(self) -> None:
        """Look no more: what ends from now on is meant to."""
        self._resting.set()

    def _look(self, look: Callable[[], str | None]) -> None:
        while not self._resting.wait(EVERY_S):
            # A local Ray's processes; once their parents are dead, nobody knows whose they are.
            self._ours |= {process: began_at(process) for process in descendants(os.getpid())}
            if (wrong := look()) is not None:
                self.fail(wrong)
                return

    def ray_is_gone(self) -> str | None:
        """Which of the Ray processes that this one relies on is dead; None where none is."""
        from ray._private.worker import global_worker

        node = global_worker.node
        if node is None:  # The driver has left, or not joined yet.
            return None
        try:
            with socket.socket(socket.AF_UNIX) as there:
                there.settimeout(CONNECT_S)
                there.connect(node.raylet_socket_name)
        except (ConnectionRefusedError, FileNotFoundError):
            return _dead("its raylet on this machine died")
        except OSError:  # It is busy.
            pass
        host, _, port = node.gcs_address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
            self._silent_s = 0.0
        except ConnectionRefusedError:
            return _dead(f"its head process (GCS) at {node.gcs_address} died")
        except OSError:
            self._silent_s += EVERY_S + CONNECT_S
            if self._silent_s >= SILENT_S:
                return _dead(f"its head at {node.gcs_address} does not answer")
        return None


def _dead(what: str) -> str:
    return f"Ray cannot go on: {what}; results are kept, resume the sweep"
