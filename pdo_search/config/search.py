"""The ``search`` and ``scheduler`` sections: which trials there are, and which stop early."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from pdo_search.config.fields import Frozen, Given, Seed
from pdo_search.config.methods import Baseline
from pdo_search.config.metrics import METRICS

__all__ = [
    "STUDENT_COSTS",
    "SchedulerConfig",
    "SearchConfig",
    "StudentCost",
]

StudentCost = Literal["params", "flops", "latency_ms"]
STUDENT_COSTS: tuple[StudentCost, ...] = get_args(StudentCost)


class SearchConfig(Frozen):
    """What the sampler does."""

    num_trials: int = Field(default=16, ge=1)
    """Configurations in all; early-stopped ones count. Trials of baselines come on top."""
    baselines: tuple[Baseline, ...] = ()
    """Methods that are searched beside the progressive one at the same epochs, each by the same
    sampler and scheduler among its own trials, over the dimensions that have an effect on it:
    ``scratch``, ``one_shot``, ``assistant``. What each is: ``trial.method``."""
    baseline_trials: int | None = Field(default=None, ge=1)
    """Trials of each baseline; None is a quarter of num_trials and at least 4: a baseline has
    fewer dimensions to tune, and one trial alone would lose by a bad learning rate."""
    metric: str = "val_accuracy"
    """What is optimised, on the validation split: ``val_`` and one of the task's metrics. By
    default the primary one, ``val_accuracy`` of image classification."""
    mode: Literal["max", "min"] = "max"
    """Direction: the metric's own, by default."""
    minimize: tuple[StudentCost, ...] = ()
    """Costs of the student to keep low as well: rungs prefer what no other trial beats in all of
    them, and TPE draws for ever other trade-offs. Needs a dimension of the student.
    ``latency_ms`` is measured, so a search by it does not repeat to the bit."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Tree-structured Parzen estimator, uniform, or exactly the given ``points``."""
    multivariate: bool = False
    """TPE over joint instead of independent dimensions."""
    startup_trials: int = Field(default=8, ge=1)
    """Random trials before TPE models anything. Those of ``warm_start`` count as Optuna counts
    them: with as many finished, stopped or infeasible ones, the first draw comes from a model."""
    points: tuple[dict[str, Any], ...] = ()
    """Points tried first (all there is, for grid): dimension path to value. Of the progressive
    trials: baselines are sampled, by TPE where the sampler is grid."""
    warm_start: tuple[Given, ...] = ()
    """Directories of earlier sweeps (relative to the experiment file, or URIs) whose trials TPE
    learns from where they are points of this experiment: same task, teacher, fixed values and
    metric. They are no trials of this sweep, in no table, and may be run again in it."""
    seed: Seed = 0
    """Seed of the sampler and of every trial's initialisation and data order."""
    retries: int = Field(default=1, ge=0)
    """How often a trial whose process died is started again from its checkpoint; a node that went
    away does not count."""

    @property
    def trials_per_baseline(self) -> int:
        """Trials of each baseline."""
        return self.baseline_trials or max(4, self.num_trials // 4)

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError("a baseline stands twice")
        if len(set(self.minimize)) != len(self.minimize):
            raise ValueError("a cost to minimize stands twice")
        known = METRICS.get(self.metric.removeprefix("val_").rpartition(".")[2])
        if known is not None and known.mode != self.mode:
            raise ValueError(f"mode {self.mode!r} is the wrong direction for {self.metric!r}")
        if self.sampler == "grid" and not self.points:
            raise ValueError("sampler grid needs `points`")
        if self.sampler != "tpe" and self.warm_start:
            raise ValueError(f"sampler {self.sampler} learns nothing: warm_start is for tpe")
        return self


class SchedulerConfig(Frozen):
    """Early stopping between trials."""

    kind: Literal["asha_promotion", "asha", "median", "none"] = "asha_promotion"
    """asha_promotion: asynchronous successive halving (Li et al. 2020), a trial pauses at every
    rung, and goes on from its checkpoint when it is among the best there and a slot is free; asha:
    its stopping variant, a trial that is not among the best so far stops for good, so more of them
    finish, for more compute; median: a trial stops when its best value is below the median of the
    others' means so far (Golovin et al. 2017); none."""
    clock: Literal["epoch", "stage"] = "epoch"
    """What a rung's milestone counts: epochs, or finished stages. With ``stage`` a student is
    evaluated at its stages' ends only, unless it needs more: ``adaptive`` stages or a target."""
    grace: int = Field(default=2, ge=1)
    """Milestone of the lowest rung: no trial is stopped before it. Early values say little of the
    last one; where trials stop for good (asha) 3 is better (experiments/LOG.md)."""
    reduction: int = Field(default=3, ge=2)
    """One of this many goes on at each rung; milestones grow by the same factor."""
    brackets: int = Field(default=1, ge=1, le=8)
    """Brackets with ever later first rungs, among which trials are shared out by seed."""
    min_peers: int = Field(default=1, ge=1)
    """Trials that a rung needs before it stops or promotes any; for median, others that have come
    as far."""

    @property
    def pauses(self) -> bool:
        """Whether trials pause at rungs."""
        return self.kind == "asha_promotion"

    def milestones(self, end: int) -> tuple[int, ...]:
        """Milestones of all brackets below a time, ascending."""
        found = []
        milestone = self.grace
        while milestone < end:
            found.append(milestone)
            milestone *= self.reduction
        return tuple(found)

    @model_validator(mode="after")
    def _consistent(self) -> SchedulerConfig:
        if self.brackets > 1 and self.kind not in ("asha", "asha_promotion"):
            raise ValueError(f"brackets are of rungs, which kind {self.kind!r} has none of")
        if "reduction" in self.model_fields_set and self.kind == "median":
            raise ValueError("reduction is of rungs, which kind 'median' has none of")
        return self
