"""Whether a driver runs a sweep, as far as it can be seen from this machine."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from pdo_search.results.files import Folder
from pdo_search.search.lock import HOLDER

__all__ = ["is_alive"]


def is_alive(sweep: str) -> bool | None:
    """Whether a driver runs a sweep; None where it is, or may be, another machine's.

    A driver that ends takes its name away; that of a killed one is of no process any more.

    Args:
        sweep: its directory, path or URI.
    """
    folder = Folder(sweep)
    if not folder.is_local:
        return None
    try:
        holder = json.loads((Path(folder.root) / HOLDER).read_text(encoding="utf-8"))
        host, pid = holder["host"], int(holder["pid"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return None  # Being written, or damaged.
    if host != socket.gethostname():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # Somebody else's process.
    return pid > 0
