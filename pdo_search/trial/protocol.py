"""Names that the adapters share: the worker's protocol and a trial's places on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pdo_search.distill.context import Context
from pdo_search.distill.protocol import Report, Worker

__all__ = ["Places", "Report", "Worker"]


@dataclass(frozen=True)
class Places:
    """Where one trial reads and writes.

    Attributes:
        store: root of the artifact store, a path or URI.
        sweep: the sweep's directory, a path or URI.
        base_dir: folder that relative paths and ``module:function`` in the experiment refer to.
        trial_id: the trial's name, such as ``t0007``.
        number: the trial's number in its sweep, from 0.
        fingerprint: that the task must have; None for any.
    """

    store: str
    sweep: str
    base_dir: str | None
    trial_id: str
    number: int
    fingerprint: str | None = None

    def context(self, device: torch.device) -> Context:
        """What the trial shares with others, on a device of this machine."""
        return Context(self.store, device, Path(self.base_dir) if self.base_dir else None)

    @property
    def checkpoint(self) -> str:
        """Folder of this trial's checkpoint, in the sweep's."""
        return f"checkpoints/{self.trial_id}"

    @property
    def artifact(self) -> str:
        """Folder that receives the finished student and composite, in the sweep's."""
        return f"models/{self.trial_id}"
