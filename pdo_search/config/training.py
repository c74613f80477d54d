"""How weights are updated: of the student, of a teacher that the experiment trains, on what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pdo_search.config.fields import Fraction, Frozen

__all__ = [
    "ExecutionConfig",
    "OptimizerConfig",
    "TrainConfig",
]


class OptimizerConfig(Frozen):
    """How weights are updated."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    lr: float = Field(default=0.05, gt=0, le=10)
    """Peak learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; first beta of AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    batch_size: int = Field(default=128, ge=2)
    """Examples per update, over all workers."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the whole budget: cosine to zero, or constant."""
    warmup: Fraction = 0.05
    """Share of the budget with a linear warm-up."""
    label_smoothing: Fraction = 0.0
    """Label smoothing of the hard-label losses."""
    clip_norm: float | None = Field(default=5.0, gt=0)
    """Largest gradient norm; None for no clipping."""


class TrainConfig(OptimizerConfig):
    """Training of the teacher by the experiment itself, on the train split with labels."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the train split."""
    freeze: Literal["body"] | None = None
    """``body`` leaves all but the heads as they are: every example is encoded once, and the heads
    are fitted to these states in seconds. For models of ``transformers`` and
    ``small_transformer``."""


class ExecutionConfig(Frozen):
    """How updates are computed. What a trial may use is in ``resources``."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Forward passes of training in this precision, by autocast; weights, losses and evaluation
    stay fp32. auto is bf16 on GPUs that compute in it, and for transformers on CPUs with AMX;
    elsewhere fp32: on a CPU with AVX-512 bf16 instructions bf16 took twice the time. Where only
    some machines of a cluster have AMX, each kind trains a teacher of its own: name a precision."""
    compile: bool = False
    """Train students through torch.compile: on a GPU with CUDA graphs. Pays where a trial lasts
    long and its kernels are many and small; compiling takes 20 to 40 s per trial, and on CPUs the
    compiled step was a tenth slower than the plain one."""
    deterministic: bool = True
    """On a GPU: only algorithms of cuDNN that repeat to the bit. False lets it try which ones are
    fastest, and take those."""
