"""The ``limits``, ``resources`` and ``output`` sections: what a sweep may take, where it goes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pdo_search.config.fields import Bytes, Frozen, Given, Seconds

__all__ = [
    "LimitsConfig",
    "OutputConfig",
    "ResourcesConfig",
]

MOST_GPUS = 1024


def _gpus(value: object) -> object:
    """A number from 0, or auto; anything else is left to fail with words that name both."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_GPUS:
        raise ValueError(f"is auto, or a number of GPUs from 0 to {MOST_GPUS}")
    if 0 < value < 0.01 or (value > 1 and value != int(value)):
        raise ValueError("is a whole number of GPUs, or a share of one from 0.01 on")
    return value


class LimitsConfig(Frozen):
    """What a student may cost and a sweep may take. A trial over a limit is infeasible."""

    params: int | None = Field(default=None, ge=1)
    """Most parameters of the student."""
    flops: float | None = Field(default=None, gt=0)
    """Most FLOPs per example (two per multiply-accumulate)."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Most milliseconds for one example on the trial's device."""
    wall: Seconds | None = None
    """No new trial starts after this, and no paused one goes on; running ones end and are kept."""
    trial_timeout: Seconds | None = None
    """A trial that takes longer fails, also where it hangs; each start of it has as long."""
    storage_timeout: Seconds = 300.0
    """How long driver and trials wait for an object store that does not answer, before the sweep
    ends as interrupted."""


class ResourcesConfig(Frozen):
    """What a trial gets."""

    cpus: float = Field(default=1, ge=0.01)
    """CPUs per worker; whole numbers give as many threads."""
    teacher_cpus: int | None = Field(default=None, ge=1)
    """Threads with which the experiment trains its teacher, where it does so on a CPU; None is as
    many as a trial has. Part of the teacher's key: other numbers of threads round otherwise, and
    training makes another teacher of that."""
    gpus: Annotated[float | Literal["auto"], BeforeValidator(_gpus)] = "auto"
    """GPUs per worker; below 1 several trials share one. auto is one where there are GPUs for every
    worker of a trial, else none: the trial runs on CPUs. Other accelerators are not used."""
    workers: int = Field(default=1, ge=1)
    """Processes per trial that train together (DDP)."""
    sync_batch_norm: bool = False
    """Whether several workers on GPUs take batch norm's statistics over the whole batch (torch's
    SyncBatchNorm); else each takes them over its share, as if the batch were that small."""
    backend: Literal["auto", "inprocess", "train"] = "auto"
    """In the trial's own warm process, or by Ray Train; auto takes Ray Train for workers > 1."""
    max_concurrent: int | Literal["auto"] = "auto"
    """Trials at once; auto fills the machine or cluster."""

    @property
    def num_gpus(self) -> float:
        """GPUs per worker; none for an auto that ``search.cluster.with_gpus`` has not resolved."""
        return 0.0 if self.gpus == "auto" else self.gpus

    @property
    def uses_train(self) -> bool:
        """Whether a trial runs its workers by Ray Train."""
        return self.backend == "train" or self.workers > 1

    @property
    def threads(self) -> int:
        """Threads of a worker."""
        return max(1, int(self.cpus))

    @property
    def teacher_threads(self) -> int:
        """Threads with which the teacher is trained."""
        return self.teacher_cpus or self.threads

    @model_validator(mode="after")
    def _consistent(self) -> ResourcesConfig:
        if self.sync_batch_norm and not (self.workers > 1 and self.gpus):
            raise ValueError("sync_batch_norm is for several workers on GPUs: torch has it there")
        if self.backend == "inprocess" and self.workers > 1:
            raise ValueError("backend inprocess has one worker; leave backend out for more")
        if isinstance(self.max_concurrent, int) and self.max_concurrent < 1:
            raise ValueError("max_concurrent must be at least 1, or auto")
        return self


class OutputConfig(Frozen):
    """Where results go."""

    root: Given = "results"
    """Directory or object-store URI; the sweep is ``<root>/<name>``. Relative to where you run."""
    store: Given | None = None
    """Artifacts shared by sweeps (teachers, ladders, banks); None is ``<root>/.store``."""
    max_bank: Bytes | None = None
    """Most bytes, such as ``20GB``, of the teachers' outputs that one trial has the store keep: of
    all its teachers, on all its views. None is a quarter of what is free on the store's disk, or on
    that of its cache, where the outputs that are kept there already count as free."""

    @property
    def store_root(self) -> str:
        """Where artifacts lie."""
        return self.store or f"{self.root.rstrip('/')}/.store"
