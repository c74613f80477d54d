"""What hints are: how far a student's states are from a teacher's. Pure functions of states.

Which states of which models they are of is ``hinting``'s business.

Legend: B examples, L positions (padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.config.recipe import HintKind
from pdo_search.models.taps import States

__all__ = ["HINTS", "Hint"]


@dataclass(frozen=True)
class Hint:
    """A kind of hint.

    Attributes:
        apart: how far a student's states (B, L, D) are from a teacher's, a mean over the batch.
        same_width: whether both need the same D.
        over_batch: whether examples of a batch are compared with each other.
    """

    apart: Callable[[States, States], Tensor]
    same_width: bool
    over_batch: bool = False


def squared(student: States, teacher: States) -> Tensor:
    """Mean squared difference (Romero et al. 2015, equation 3; Jiao et al. 2020, equation 8)."""
    return _mean((student.values - teacher.values).square().mean(dim=2), student.own)


def cosine(student: States, teacher: States) -> Tensor:
    """1 minus the cosine of the angle between states (Sanh et al. 2019, section 3)."""
    return _mean(1 - F.cosine_similarity(student.values, teacher.values, dim=2), student.own)


def attention(student: States, teacher: States) -> Tensor:
    """Squared distance of the maps of where states are large (Zagoruyko and Komodakis 2017,
    equation 2, p = 2).

    A map is the mean square of a position's state, over the norm of the example's map: D may
    differ, and the distance is from 0 to 2.
    """
    maps = [_map(states, student.own) for states in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(dim=1).mean()


def relation(student: States, teacher: States) -> Tensor:
    """Huber loss of the distances between the examples of a batch, each over their mean (Park et
    al. 2019, section 3.2.1): D may differ. 0 of a batch of one."""
    count = len(student.values)
    if count < 2:
        return student.values.sum() * 0
    ours, theirs = (_distances(states.values.flatten(1)) for states in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def _distances(points: Tensor) -> Tensor:
    """(B (B - 1) / 2,) distances of points (B, D) from each other, over their mean."""
    distances = F.pdist(points)
    return distances / distances.mean().clamp(min=torch.finfo(points.dtype).tiny)


def _map(states: States, own: Tensor | None) -> Tensor:
    """(B, L) mean squares, over their norm; 0 where a position is not the example's own."""
    squares = states.values.square().mean(dim=2)
    return F.normalize(squares if own is None else squares * own, dim=1)


def _mean(values: Tensor, own: Tensor | None) -> Tensor:
    """Mean of values (B, L) over the batch, of each example's mean over its own positions."""
    if own is None:
        return values.mean()
    count = own.sum(dim=1).clamp(min=1)
    return ((values * own).sum(dim=1) / count).mean()


HINTS: Mapping[HintKind, Hint] = {
    "hidden": Hint(squared, same_width=True),
    "cosine": Hint(cosine, same_width=True),
    "attention": Hint(attention, same_width=False),
    "relation": Hint(relation, same_width=False, over_batch=True),
    "pooled": Hint(squared, same_width=True),
}
