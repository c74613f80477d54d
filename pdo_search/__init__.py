"""Search progressive knowledge distillation: turn a big model into a small one.

``open_sweep`` reads a sweep's tables, ``load_model`` what it saved. Both are imported when first
used, so that importing the package stays instant.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.models.load import load_model

__all__ = ["__version__", "load_model", "open_sweep"]

try:
    __version__ = version("pdo-search")
except PackageNotFoundError:
    __version__ = "0+unknown"

_LAZY = {"load_model": "pdo_search.models.load", "open_sweep": "pdo_search.analysis.sweep"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
