"""Which examples a stage may use: difficulty scores, pacing, admission. Pure functions.

Sources: pacing functions after Platanios et al. 2019 (competence, section 3.2) and Wu et al. 2021
(section 3), whose random ordering is the control that tells pacing from curriculum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdo_search.config.recipe import CurriculumConfig
from pdo_search.tasks.base import Batch, Outputs, Task
from pdo_search.tasks.kinds import with_answers

__all__ = ["admit", "difficulty", "losses_with_answers", "pace", "progress_at"]


def difficulty(task: Task, kind: str, outputs: Outputs, batch: Batch, teacher: Outputs) -> Tensor:
    """Difficulty of each example of a batch, higher is harder.

    Args:
        task: what outputs are worth.
        kind: ``teacher_confidence`` (1 - confidence), ``teacher_loss`` or ``student_loss`` (the
            label loss, in nats or the head's unit).
        outputs: of whom the kind names.
        batch: with labels; where there is none, the teacher's own answer stands in.
        teacher: the teacher's outputs.

    Returns:
        (B,) floating.
    """
    if kind == "teacher_confidence":
        return 1 - task.confidence(outputs, batch)
    return losses_with_answers(task, outputs, batch, teacher)


def losses_with_answers(task: Task, outputs: Outputs, batch: Batch, teacher: Outputs) -> Tensor:
    """Label loss (B,) of outputs, summed over the heads; where a head has no label, on the answer
    of a teacher's outputs."""
    known = with_answers(task.heads, batch, teacher)
    losses = [loss for loss, _ in task.label_loss(outputs, known).values()]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)


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
