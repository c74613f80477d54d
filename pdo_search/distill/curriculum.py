"""Which examples a stage may use: difficulty scores, pacing, admission. Pure functions.

Sources: pacing functions after Platanios et al. 2019 (competence, section 3.2) and Wu et al. 2021
(section 3), whose random ordering is the control that tells pacing from curriculum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.schema import CurriculumConfig

__all__ = ["admit", "difficulty", "pace", "progress_at"]


def difficulty(
    kind: str, *, teacher_NC: Tensor, student_NC: Tensor | None, targets_N: Tensor
) -> Tensor:
    """Difficulty of each example, higher is harder.

    Args:
        kind: ``teacher_confidence`` (1 - p_max), ``teacher_loss`` or ``student_loss``
            (cross-entropy on the label, in nats).
        teacher_NC: teacher logits (N, C).
        student_NC: student logits (N, C); needed by ``student_loss`` alone.
        targets_N: labels (N,); where -1, the teacher's top class stands in.

    Returns:
        (N,) floating.
    """
    if kind == "teacher_confidence":
        return 1 - F.softmax(teacher_NC, dim=1).amax(dim=1)
    labels = torch.where(targets_N < 0, teacher_NC.argmax(dim=1), targets_N)
    logits = teacher_NC if kind == "teacher_loss" else student_NC
    assert logits is not None, "student_loss needs the student's logits"
    return F.cross_entropy(logits, labels, reduction="none")


def progress_at(stage_epoch: int, total: int) -> float:
    """Progress through the stages' epochs, 0 in the first and 1 in the last.

    Args:
        stage_epoch: epochs of stages finished before this one, from 0.
        total: epochs of all stages.
    """
    return 1.0 if total <= 1 else min(stage_epoch / (total - 1), 1.0)


def pace(pacing: str, start: float, progress: float) -> float:
    """Share of examples admitted, growing from ``start`` at progress 0 to 1 at progress 1.

    ``linear``; ``root`` (square root: new examples come ever slower, Platanios et al. 2019);
    ``step`` (three equal steps); ``exponential`` (most examples come late).
    """
    if pacing == "linear":
        share = start + (1 - start) * progress
    elif pacing == "root":
        share = math.sqrt(start**2 + (1 - start**2) * progress)
    elif pacing == "step":
        share = start + (1 - start) * (math.floor(progress * 3) / 3)
    elif pacing == "exponential":
        share = start ** (1 - progress)
    else:
        raise ValueError(f"unknown pacing {pacing!r}")
    return min(share, 1.0)


def admit(scores_N: Tensor, config: CurriculumConfig, progress: float, seed: int) -> Tensor:
    """Indices of the admitted examples.

    Args:
        scores_N: difficulty (N,).
        config: order, start and pacing.
        progress: 0 to 1, from ``progress_at``.
        seed: of the random control's order.

    Returns:
        (M,) int64, sorted; at least one, all N at progress 1.
    """
    count = max(1, math.ceil(pace(config.pacing, config.start, progress) * len(scores_N)))
    if config.order == "random":
        generator = torch.Generator().manual_seed(seed)
        ranked = torch.randperm(len(scores_N), generator=generator)
    else:
        ranked = torch.argsort(scores_N, descending=config.order == "hard_first", stable=True)
    return ranked[:count].sort().values
