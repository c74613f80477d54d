"""Adaptation of learning rate and regularisation after a stage: functions of recorded metrics."""

from __future__ import annotations

from dataclasses import dataclass

from pdo_search.config.recipe import AdaptConfig

__all__ = ["Hyperparameters", "adapt"]


@dataclass(frozen=True)
class Hyperparameters:
    """What adaptation may change.

    Attributes:
        lr_scale: factor on the learning rate's schedule.
        weight_decay: as the optimizer has it.
        label_smoothing: of the hard-label losses.
        dropout: of the student, where it has any.
    """

    lr_scale: float
    weight_decay: float
    label_smoothing: float
    dropout: float


def adapt(
    now: Hyperparameters,
    configured: Hyperparameters,
    config: AdaptConfig,
    *,
    gain: float,
    gap: float,
) -> tuple[Hyperparameters, str]:
    """The tuning of the next stage, and the decision in words.

    A plateau (gain below ``plateau_delta``) lowers the learning rate. A train/validation gap above
    ``gap_high`` raises regularisation, one below ``gap_low`` lowers it again, never below what is
    configured and never above the bounds.

    Args:
        now: tuning of the stage that ended.
        configured: tuning at the trial's start: the lower bound of regularisation.
        config: steps and bounds.
        gain: what the stage won of the primary metric on validation: a share, or relative to what
            it was.
        gap: by how much answers on augmented train examples are worth more than on validation, in
            the stage's last epoch.
    """
    if not config.enabled:
        return now, "off"
    lr_scale, said = now.lr_scale, []
    if gain < config.plateau_delta:
        lr_scale = max(now.lr_scale * config.lr_factor, config.lr_min_scale)
        said.append(f"plateau (gain {gain:+.4f}): lr x{lr_scale:.3g}")
    direction = 1 if gap > config.gap_high else -1 if gap < config.gap_low else 0
    if direction:
        said.append(f"gap {gap:+.4f}: {'more' if direction > 0 else 'less'} regularisation")
    tuning = Hyperparameters(
        lr_scale=lr_scale,
        weight_decay=_bounded(
            now.weight_decay * config.weight_decay_factor**direction,
            configured.weight_decay,
            config.weight_decay_max,
        ),
        label_smoothing=_bounded(
            now.label_smoothing + direction * config.smoothing_step,
            configured.label_smoothing,
            config.smoothing_max,
        ),
        dropout=_bounded(
            now.dropout + direction * config.dropout_step, configured.dropout, config.dropout_max
        ),
    )
    return tuning, "; ".join(said) or "kept"


def _bounded(value: float, low: float, high: float) -> float:
    """Between what is configured and the bound; what is configured above the bound stays."""
    return min(max(value, low), max(low, high))
