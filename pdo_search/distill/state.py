"""The state of a trial: one named object, and that same object is the checkpoint.

Owns what is kept and how it is sealed. Where the bytes go is ``trial.checkpoints``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pdo_search.base.errors import StoreError
from pdo_search.distill.adapt import Hyperparameters
from pdo_search.distill.stage import Phase, Stage
from pdo_search.records import Seconds

__all__ = ["TrialState", "pack", "unpack"]

FORMAT = 5
_DIGEST = hashlib.sha256().digest_size


@dataclass
class TrialState:
    """Everything that the rest of a trial depends on, at the end of an epoch.

    Attributes:
        plan: the stages, with the lengths they have by now.
        tuning: what adaptation may change.
        epoch: finished epochs.
        position: index in the plan of the current stage.
        stage_began: epochs that were finished when the current stage began.
        values: the primary metric on validation after each evaluated epoch of the current stage.
        entered_at: the same when the current stage began; None before any evaluation.
        train_quality: of the answers in the last epoch, mean.
        val_quality: of the answers on validation at the last evaluation, mean.
        head_weights: of the loss, where they are learned.
        scores: difficulty of the pool's examples, where it depends on the student.
        model: state dict of the student.
        optimizer: state dict of the optimizer.
        maps: weights of what hints learn between widths, by name, in the optimizer's order.
        seconds: seconds by phase since the current stage began.
        wall_s: wall seconds since then.
        totals: seconds by phase over the trial.
        reports: everything reported so far, ``metrics`` and ``rows`` of each epoch: a trial that
            goes on reports it again, so that what the driver lost is filled in.
        done: whether the trial has ended.
    """

    plan: tuple[Stage, ...]
    tuning: Hyperparameters
    epoch: int = 0
    position: int = 0
    stage_began: int = 0
    values: list[float] = field(default_factory=list)
    entered_at: float | None = None
    train_quality: float = 0.0
    val_quality: float = 0.0
    scores: Tensor | None = None
    head_weights: dict[str, float] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=Seconds)
    wall_s: float = 0.0
    totals: Seconds = field(default_factory=Seconds)
    reports: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.plan[self.position]

    @property
    def stage_epoch(self) -> int:
        """Finished epochs of the current stage."""
        return self.epoch - self.stage_began


def pack(state: TrialState, config_key: str) -> bytes:
    """The state as bytes, sealed with a SHA-256 digest.

    Args:
        state: the state.
        config_key: digest of the configuration that the state belongs to.
    """
    payload = {
        **{name: getattr(state, name) for name in state.__dataclass_fields__},
        "plan": [{**asdict(stage), "phase": stage.phase.value} for stage in state.plan],
        "tuning": asdict(state.tuning),
        "seconds": asdict(state.seconds),
        "totals": asdict(state.totals),
        "format": FORMAT,
        "config_key": config_key,
    }
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    body = buffer.getvalue()
    return hashlib.sha256(body).digest() + body


def unpack(sealed: bytes, config_key: str) -> TrialState:
    """The state that was packed; no code in the bytes is ever run.

    Raises:
        StoreError: the bytes are damaged, of another format, or of another configuration.
    """
    digest, body = sealed[:_DIGEST], sealed[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise StoreError("the checkpoint is damaged: its digest does not match")
    try:
        payload = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        known = {name: payload[name] for name in ("format", "config_key")}
    except Exception as error:  # Whatever torch makes of arbitrary bytes with a good digest.
        raise StoreError(f"the checkpoint is damaged: {_first_line(error)}") from None
    if known != {"format": FORMAT, "config_key": config_key}:
        raise StoreError("the checkpoint belongs to another configuration or version")
    try:
        return _unpacked(payload)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the checkpoint is damaged: {_first_line(error)}") from None


def _unpacked(payload: Mapping[str, Any]) -> TrialState:
    values = {name: payload[name] for name in TrialState.__dataclass_fields__}
    values["plan"] = tuple(Stage(**{**s, "phase": Phase(s["phase"])}) for s in payload["plan"])
    values["tuning"] = Hyperparameters(**payload["tuning"])
    values["seconds"] = Seconds(**payload["seconds"])
    values["totals"] = Seconds(**payload["totals"])
    state = TrialState(**values)
    empty = TrialState(state.plan, state.tuning)
    for name in TrialState.__dataclass_fields__:
        kind = type(getattr(empty, name))
        if kind is not type(None) and not isinstance(getattr(state, name), kind):
            raise TypeError(f"{name} is not of type {kind.__name__}")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
