"""The artifact store: what is expensive and shared is built once. Knows no task and no model."""

from pdo_search.store.artifacts import Artifact, Store

__all__ = ["Artifact", "Store"]
