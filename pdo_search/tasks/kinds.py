"""Heads by kind: losses on labels, divergences, answers and what they are worth, mixtures.

Pure functions of outputs, one signature per family, in a literal table. Each returns one value per
example, so that the caller can mask and weigh before reducing; of a head with positions that is the
mean over the example's own positions, so that long examples do not outweigh short ones. Knows no
stage, no weight and no optimizer.

Legend: B examples, L positions (padded), K size of the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.tasks.base import LABELLED, Batch, Head, HeadKind, Outputs, target_of

__all__ = [
    "KINDS",
    "Kind",
    "answers_of",
    "bernoulli_kl",
    "categorical_kl",
    "confidence_of",
    "jensen_shannon",
    "mask_of_head",
    "mean_of_positions",
    "shown_target",
    "standardized",
    "with_answers",
]

TINY = 1e-8
FAR = -1e4
"""Logit of a position that is none, finite so that no gradient is NaN."""
SMOOTH = 0.1
"""Where the loss of a regression goes from squares to absolute values."""

Mask = Tensor | None


def mean_of_positions(values: Tensor, mask: Mask) -> Tensor:
    """(B,) of values (B,) or (B, L): the mean over the positions under the mask, 0 without any."""
    if values.dim() == 1:
        return values
    own = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return (values * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)


def standardized(logits: Tensor) -> Tensor:
    """Logits with zero mean and unit variance over the classes (Sun et al. 2024, equation 8)."""
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / (centred.std(dim=-1, keepdim=True, unbiased=False) + 1e-7)


def categorical_kl(
    student: Tensor, teacher: Tensor, temperature: float, mask: Mask = None
) -> Tensor:
    """KL(softmax(teacher/τ) ‖ softmax(student/τ)) · τ² (Hinton et al. 2015, section 2).

    Args:
        student: logits (B, K) or (B, L, K).
        teacher: logits of the same shape; no gradient is taken through them.
        temperature: τ > 0, dividing both logits.
        mask: (B, L) bool of positions.

    Returns:
        (B,), nats times τ².
    """
    log_s = F.log_softmax(student / temperature, dim=-1)
    log_t = F.log_softmax(teacher / temperature, dim=-1)
    return mean_of_positions((log_t.exp() * (log_t - log_s)).sum(dim=-1) * temperature**2, mask)


def jensen_shannon(
    student: Tensor, teacher: Tensor, temperature: float, beta: float, mask: Mask = None
) -> Tensor:
    """β KL(t ‖ m) + (1-β) KL(s ‖ m) with m = β t + (1-β) s, of softmaxes at τ, times τ²; at β = 0
    KL(t ‖ s) and at β = 1 KL(s ‖ t), its limits over β and 1-β (Agarwal et al. 2024, section 2).

    Args:
        student: logits (B, K) or (B, L, K).
        teacher: logits of the same shape; no gradient is taken through them.
        temperature: τ > 0, dividing both logits.
        beta: β, 0 to 1.
        mask: (B, L) bool of positions.

    Returns:
        (B,), nats times τ².
    """
    log_s = F.log_softmax(student / temperature, dim=-1)
    log_t = F.log_softmax(teacher / temperature, dim=-1)
    if beta in (0, 1):
        first, second = (log_t, log_s) if beta == 0 else (log_s, log_t)
        apart = (first.exp() * (first - second)).sum(dim=-1)
    else:
        log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log(1 - beta))
        of_t, of_s = ((x.exp() * (x - log_m)).sum(dim=-1) for x in (log_t, log_s))
        apart = beta * of_t + (1 - beta) * of_s
    return mean_of_positions(apart * temperature**2, mask)


def bernoulli_kl(student: Tensor, teacher: Tensor, temperature: float, mask: Mask = None) -> Tensor:
    """Sum over classes of the KL between Bernoulli variables, times τ².

    Each class's softmax probability at τ is read as the probability of a yes/no question:
    ``Σ_j T_j log(T_j/S_j) + (1-T_j) log((1-T_j)/(1-S_j))``. Against the categorical form it also
    rewards agreement on which classes are absent.

    Args:
        student: logits (B, K) or (B, L, K).
        teacher: logits of the same shape; no gradient is taken through them.
        temperature: τ > 0, dividing both logits.
        mask: (B, L) bool of positions.

    Returns:
        (B,), nats times τ².
    """
    tiny = torch.finfo(torch.float32).eps
    s = F.softmax(student / temperature, dim=-1).clamp(tiny, 1 - tiny)
    t = F.softmax(teacher / temperature, dim=-1).clamp(tiny, 1 - tiny)
    terms = t * (t.log() - s.log()) + (1 - t) * (torch.log1p(-t) - torch.log1p(-s))
    return mean_of_positions(terms.sum(dim=-1) * temperature**2, mask)


def _labels_kl(student: Tensor, teacher: Tensor, temperature: float, mask: Mask = None) -> Tensor:
    """Sum over labels of KL(sigmoid(teacher/τ) ‖ sigmoid(student/τ)) · τ²."""
    wanted = torch.sigmoid(teacher / temperature)
    cross = F.binary_cross_entropy_with_logits(student / temperature, wanted, reduction="none")
    own = F.binary_cross_entropy_with_logits(teacher / temperature, wanted, reduction="none")
    return mean_of_positions((cross - own).sum(dim=-1) * temperature**2, mask)


def _distance(student: Tensor, teacher: Tensor, temperature: float, mask: Mask = None) -> Tensor:
    """Smooth L1 distance of numbers; a temperature means nothing to them."""
    apart = F.smooth_l1_loss(student, teacher, reduction="none", beta=SMOOTH)
    return mean_of_positions(apart.sum(dim=-1), mask)


def _pointers_kl(student: Tensor, teacher: Tensor, temperature: float, mask: Mask = None) -> Tensor:
    """``categorical_kl`` over the positions under the mask, summed over the pointers."""
    log_s, log_t = (_over_positions(x / temperature, mask) for x in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).sum(dim=(1, 2)) * temperature**2


def _over_positions(outputs: Tensor, mask: Mask) -> Tensor:
    """Log-probabilities (B, L, K) of positions, for each pointer."""
    if mask is not None:
        outputs = outputs.masked_fill(~mask[..., None], FAR)
    return F.log_softmax(outputs, dim=1)


def _class_loss(
    outputs: Tensor, target: Tensor, mask: Mask, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, nats; smoothing spreads a share over all classes (Szegedy et al. 2016)."""
    known = target >= 0
    if outputs.dim() == 2:
        loss = F.cross_entropy(
            outputs, target, reduction="none", ignore_index=-1, label_smoothing=smoothing
        )
        return loss, known
    known = known if mask is None else known & mask
    hidden = target.masked_fill(~known, -1)
    loss = F.cross_entropy(
        outputs.flatten(0, 1), hidden.flatten(), reduction="none", ignore_index=-1,
        label_smoothing=smoothing,
    )  # fmt: skip
    return mean_of_positions(loss.view(known.shape), known), known.any(dim=1)


def _labels_loss(
    outputs: Tensor, target: Tensor, mask: Mask, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the labels that are known, summed; nats."""
    known = _known_cells(target >= 0, mask)
    wanted = target.clamp(min=0).to(outputs.dtype) * (1 - smoothing) + smoothing / 2
    loss = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
    return _of_cells(loss, known)


def _numbers_loss(
    outputs: Tensor, target: Tensor, mask: Mask, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Smooth L1 distance of the numbers that are known, summed; smoothing means nothing to them."""
    known = _known_cells(~target.isnan(), mask)
    wanted = torch.where(known, target, 0).to(outputs.dtype)
    loss = F.smooth_l1_loss(outputs, wanted, reduction="none", beta=SMOOTH)
    return _of_cells(loss, known)


def _known_cells(known: Tensor, mask: Mask) -> Tensor:
    """Which cells (B, K) or (B, L, K) have a target."""
    return known if mask is None or known.dim() == 2 else known & mask[..., None]


def _of_cells(loss: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) sums over known cells, the mean over the positions that have one; and whether any."""
    summed = torch.where(known, loss, 0).sum(dim=-1)
    has = known.any(dim=-1)
    return (summed, has) if has.dim() == 1 else (mean_of_positions(summed, has), has.any(dim=1))


def _pointer_loss(
    outputs: Tensor, target: Tensor, mask: Mask, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over positions, summed over the pointers; nats."""
    losses = F.cross_entropy(
        _over_positions(outputs, mask), target, reduction="none", ignore_index=-1,
        label_smoothing=smoothing,
    )  # fmt: skip
    return losses.sum(dim=1), (target >= 0).all(dim=1)


def _class_answer(outputs: Tensor, mask: Mask) -> Tensor:
    return outputs.argmax(dim=-1)


def _labels_answer(outputs: Tensor, mask: Mask) -> Tensor:
    return (outputs > 0).long()


def _unchanged(outputs: Tensor, mask: Mask) -> Tensor:
    return outputs


def _pointer_answer(outputs: Tensor, mask: Mask) -> Tensor:
    return _over_positions(outputs, mask).argmax(dim=1)


def _class_quality(outputs: Tensor, target: Tensor, mask: Mask) -> Tensor:
    """1 where the class is right; of positions their share."""
    known = target >= 0 if mask is None or target.dim() == 1 else (target >= 0) & mask
    return _share((outputs.argmax(dim=-1) == target), known)


def _labels_quality(outputs: Tensor, target: Tensor, mask: Mask) -> Tensor:
    """Share of the known labels that are right."""
    known = _known_cells(target >= 0, mask)
    return _share(((outputs > 0) == (target == 1)).flatten(1), known.flatten(1))


def _numbers_quality(outputs: Tensor, target: Tensor, mask: Mask) -> Tensor:
    """1 / (1 + mean absolute error): 1 where all is right, falling with the error."""
    known = _known_cells(~target.isnan(), mask)
    error = torch.where(known, (outputs - target).abs(), 0).flatten(1).sum(dim=1)
    count = known.flatten(1).sum(dim=1)
    quality = 1 / (1 + error / count.clamp(min=1))
    return torch.where(count > 0, quality, torch.nan)


def _pointer_quality(outputs: Tensor, target: Tensor, mask: Mask) -> Tensor:
    """Share of the pointers that are right."""
    return _share(_pointer_answer(outputs, mask) == target, target >= 0)


def _share(right: Tensor, known: Tensor) -> Tensor:
    """(B,) share of what is known that is right, NaN where nothing is."""
    if right.dim() == 1:
        return torch.where(known, right.to(torch.get_default_dtype()), torch.nan)
    count = known.sum(dim=1)
    share = (right & known).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, share, torch.nan)


def _class_confidence(outputs: Tensor, mask: Mask) -> Tensor:
    """Probability of the answer; of positions the geometric mean."""
    if outputs.dim() == 2:
        return F.softmax(outputs, dim=1).amax(dim=1)
    return mean_of_positions(F.log_softmax(outputs, dim=-1).amax(dim=-1), mask).exp()


def _labels_confidence(outputs: Tensor, mask: Mask) -> Tensor:
    """Mean over labels of the probability of each answer."""
    return mean_of_positions(torch.sigmoid(outputs.abs()).mean(dim=-1), mask)


def _numbers_confidence(outputs: Tensor, mask: Mask) -> Tensor:
    """1: numbers say nothing of how sure they are."""
    return outputs.new_ones(len(outputs))


def _pointer_confidence(outputs: Tensor, mask: Mask) -> Tensor:
    """Probability that all pointers are right."""
    return _over_positions(outputs, mask).amax(dim=1).sum(dim=1).exp()


def _mixed_classes(student: Tensor, teacher: Tensor, weight: float, mask: Mask) -> Tensor:
    """Logarithms of the mean of probabilities."""
    mixed = weight * F.softmax(teacher, -1) + (1 - weight) * F.softmax(student, -1)
    return (mixed + TINY).log()


def _mixed_labels(student: Tensor, teacher: Tensor, weight: float, mask: Mask) -> Tensor:
    """Logits of the mean of probabilities."""
    mixed = weight * torch.sigmoid(teacher) + (1 - weight) * torch.sigmoid(student)
    return torch.logit(mixed, eps=TINY)


def _mixed_numbers(student: Tensor, teacher: Tensor, weight: float, mask: Mask) -> Tensor:
    return weight * teacher + (1 - weight) * student


def _mixed_pointers(student: Tensor, teacher: Tensor, weight: float, mask: Mask) -> Tensor:
    log_s, log_t = _over_positions(student, mask), _over_positions(teacher, mask)
    return (weight * log_t.exp() + (1 - weight) * log_s.exp() + TINY).log()


def _log_probabilities(outputs: Tensor, mask: Mask) -> Tensor:
    return F.log_softmax(outputs, dim=-1)


@dataclass(frozen=True)
class Kind:
    """What a head's outputs mean, as functions of outputs (B, K) or (B, L, K) and a mask (B, L).

    Attributes:
        label_loss: of outputs, target, mask and label smoothing: (B,), 0 without a label; and (B,)
            bool, whether there is one.
        divergence: of student, teacher, temperature and mask: (B,), 0 where both are the same.
        answer: the outputs' answer, in the form of a target.
        quality: of outputs, target and mask: (B,) 0 to 1, higher is better; NaN without a label.
        confidence: (B,) 0 to 1.
        mixture: outputs of student and teacher at the teacher's weight.
        normal: outputs in the form of a mixture: of classes log-probabilities.
        missing: a target that is none.
    """

    label_loss: Callable[[Tensor, Tensor, Mask, float], tuple[Tensor, Tensor]]
    divergence: Callable[[Tensor, Tensor, float, Mask], Tensor]
    answer: Callable[[Tensor, Mask], Tensor]
    quality: Callable[[Tensor, Tensor, Mask], Tensor]
    confidence: Callable[[Tensor, Mask], Tensor]
    mixture: Callable[[Tensor, Tensor, float, Mask], Tensor]
    normal: Callable[[Tensor, Mask], Tensor]
    missing: float


KINDS: Mapping[HeadKind, Kind] = {
    HeadKind.CATEGORICAL: Kind(
        _class_loss, categorical_kl, _class_answer, _class_quality, _class_confidence,
        _mixed_classes, _log_probabilities, -1,
    ),
    HeadKind.BERNOULLI: Kind(
        _labels_loss, _labels_kl, _labels_answer, _labels_quality, _labels_confidence,
        _mixed_labels, _unchanged, -1,
    ),
    HeadKind.REGRESSION: Kind(
        _numbers_loss, _distance, _unchanged, _numbers_quality, _numbers_confidence,
        _mixed_numbers, _unchanged, torch.nan,
    ),
    HeadKind.POINTER: Kind(
        _pointer_loss, _pointers_kl, _pointer_answer, _pointer_quality, _pointer_confidence,
        _mixed_pointers, _over_positions, -1,
    ),
}  # fmt: skip


def mask_of_head(head: Head, batch: Batch) -> Mask:
    """(B, L) the positions of a head in a batch; None of one that has none."""
    return None if head.positions is None else batch[head.positions]


def confidence_of(heads: Sequence[Head], outputs: Outputs, batch: Batch) -> Tensor:
    """How sure each answer (B,) is, 0 to 1: the least sure head."""
    found = [KINDS[h.kind].confidence(outputs[h.name], mask_of_head(h, batch)) for h in heads]
    return found[0] if len(found) == 1 else torch.stack(found).amin(dim=0)


def answers_of(heads: Sequence[Head], outputs: Outputs, batch: Batch) -> Outputs:
    """The answers that outputs give, by head, in the form of targets."""
    return {h.name: KINDS[h.kind].answer(outputs[h.name], mask_of_head(h, batch)) for h in heads}


def shown_target(head: Head, batch: Batch, prefix: str = "") -> Tensor:
    """A head's targets under a prefix, where no label may be used the missing one."""
    target, labelled = batch[prefix + target_of(head.name)], batch[prefix + LABELLED]
    hidden = ~labelled.view(-1, *[1] * (target.dim() - 1))
    return target.masked_fill(hidden, KINDS[head.kind].missing)


def with_answers(heads: Sequence[Head], batch: Batch, teacher: Outputs) -> Batch:
    """A batch in which a teacher's answers stand wherever there is no label."""
    answers = answers_of(heads, teacher, batch)
    labels = {}
    for head in heads:
        own = shown_target(head, batch)
        none = own.isnan() if own.is_floating_point() else own < 0
        labels[target_of(head.name)] = torch.where(none, answers[head.name].to(own.dtype), own)
    return {**batch, **labels, LABELLED: torch.ones_like(batch[LABELLED])}
