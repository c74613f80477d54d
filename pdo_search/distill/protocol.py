"""What the distillation loop asks of the process that runs it.

The loop knows a ``Worker`` and nothing else of where it runs: a notebook, a warm Tune trial or one
of several Ray Train workers. The adapters are in ``trial``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["LocalWorker", "Report", "Worker"]

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What is known after an epoch.

    Attributes:
        metrics: flat values for the search: ``epoch`` (finished epochs), ``stage``, ``phase``,
            ``stage_end``, ``stages_done``, every ``val_*``, and in the last report ``done=True``
            with ``decision`` (``completed`` or ``target_reached``). A scheduler may stop the trial
            on any report that is not ``done``.
        rows: new rows by table name, as plain values and without the trial's identity: what
            ``records.tables_of`` makes. Of ``trials`` and ``confirmations`` one at most: what is
            known of the trial by now.
    """

    metrics: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Worker(Protocol):
    """One process of a trial."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, report: Report) -> None:
        """Pass an epoch's results on. Called by every rank, after the same epochs; only rank 0's
        report counts. May not return, if the trial is stopped."""

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """The model to train through: the model itself, or its data-parallel wrapper."""

    def should_stop(self) -> bool:
        """Whether the process has been asked to end after this epoch."""

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of a tensor (any shape, floating)."""


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass
class LocalWorker:
    """A worker that is alone: for notebooks and tests. Keeps every report.

    Attributes:
        device: where to train.
        reports: all reports so far.
        stop_after: ask to stop once this many reports were made; None never asks.
    """

    device: torch.device = field(default_factory=_cpu)
    reports: list[Report] = field(default_factory=list)
    stop_after: int | None = None
    rank: int = 0
    world_size: int = 1

    def report(self, report: Report) -> None:
        """Append the report."""
        self.reports.append(report)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def should_stop(self) -> bool:
        """Whether ``stop_after`` reports were made."""
        return self.stop_after is not None and len(self.reports) >= self.stop_after

    def broadcast(self, value: T) -> T:
        """The value itself."""
        return value

    def mean(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values
