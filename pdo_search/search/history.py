"""What the sampler remembers of a long sweep: the best trials and the recent ones.

TPE looks at every trial for every dimension of every draw, so that a sweep's cost grows with the
square of its trials (Optuna 5.0, eight dimensions: 18 ms a draw over 1,000 trials, 200 ms over
10,000; 12 ms over what is chosen here). Beyond some trials it learns little from the old ones: its
model of good points holds the 25 best at most (``TPESampler``'s ``gamma``), its model of the others
weighs them down by age. So good points are kept whatever their age, and of the others those that
carry weight.
"""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Container, Sequence

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = ["BoundedHistory"]

WHOLE = 1000
RECENT = 500
BEST = 25
LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


class BoundedHistory(InMemoryStorage):
    """The trials of one Optuna study, which sees all of them up to a number and a choice beyond.

    The choice is a function of the trials that have ended, so that a study rebuilt from the tables
    sees the same. It holds the ``best`` as TPE ranks them (complete ones by value, then pruned ones
    by how far they came, then infeasible ones), the ``recent`` that ended, and what runs. What was
    told as failed, samplers do not look at.

    Attributes:
        newest: id of the trial that was added last.

    Args:
        direction: of the study, ``maximize`` or ``minimize``.
        whole: up to so many ended trials all are seen.
        recent: how many of the last ended ones are seen beyond that.
        best: how many of the best; no less than TPE takes for its good points.
    """

    def __init__(
        self, direction: str, *, whole: int = WHOLE, recent: int = RECENT, best: int = BEST
    ) -> None:
        super().__init__()
        self.newest = -1
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._limits = (whole, recent, best)
        self._ended: list[FrozenTrial] = []
        self._best: list[FrozenTrial] = []
        self._unfinished: set[int] = set()
        self._chosen: list[FrozenTrial] = []

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's; notes the trial."""
        trial_id: int = super().create_new_trial(study_id, template_trial)
        self.newest = trial_id
        self._note(trial_id)
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; notes the trial's end."""
        done: bool = super().set_trial_state_values(trial_id, state, values)
        self._note(trial_id)
        return done

    def reopen(self, trial_id: int) -> FrozenTrial:
        """Let an ended trial run again: Optuna closes what it was told for good."""
        trial = self.get_trial(trial_id)
        self._ended = [t for t in self._ended if t.number != trial.number]
        self._best = [t for t in self._best if t.number != trial.number]
        self._chosen = [t for t in self._chosen if t.number != trial.number]
        self._unfinished.add(trial_id)
        trial.state, trial.datetime_complete = TrialState.RUNNING, None
        return trial

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """All trials of short histories, the chosen ones of long ones."""
        if states == (TrialState.WAITING,) or len(self._ended) <= self._limits[0]:
            everything: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
            return everything
        unfinished = [self.get_trial(trial_id) for trial_id in sorted(self._unfinished)]
        found = [
            trial
            for trial in (*self._chosen, *unfinished)
            if states is None or trial.state in states
        ]
        return copy.deepcopy(found) if deepcopy else found

    def _note(self, trial_id: int) -> None:
        trial = self.get_trial(trial_id)
        if not trial.state.is_finished():
            self._unfinished.add(trial_id)
            return
        self._unfinished.discard(trial_id)
        if trial.state not in LEARNT_FROM:
            return
        _, recent, best = self._limits
        bisect.insort(self._ended, trial, key=lambda t: t.number)
        bisect.insort(self._best, trial, key=self._rank)
        del self._best[best:]
        chosen = {t.number: t for t in (*self._best, *self._ended[-recent:])}
        self._chosen = [chosen[number] for number in sorted(chosen)]

    def _rank(self, trial: FrozenTrial) -> tuple[int, float, float, int]:
        """The order of ``optuna.samplers._tpe.sampler._split_trials``, the best first."""
        violation = sum(v for v in trial.constraints.values() if v > 0)
        if violation > 0:
            return 3, violation, 0.0, trial.number
        if trial.state is TrialState.COMPLETE:
            assert trial.value is not None
            return 0, self._sign * trial.value, 0.0, trial.number
        if not trial.intermediate_values:
            return 2, 0.0, 0.0, trial.number
        step, value = max(trial.intermediate_values.items())
        return 1, -step, math.inf if math.isnan(value) else self._sign * value, trial.number
