"""The words for where a trial stands and why it ended."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Decision", "TrialStatus"]


class TrialStatus(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    """Started and not ended; or its driver died and has not been resumed."""
    PAUSED = "paused"
    """Waits at a rung of the scheduler; goes on from its checkpoint if it is promoted."""
    FINISHED = "finished"
    """Trained to the end of its budget, or to its target."""
    STOPPED = "stopped"
    """Ended early by the scheduler: others were better at the same budget."""
    FAILED = "failed"
    """Broke down; ``cause`` says how."""
    INFEASIBLE = "infeasible"
    """Over a limit, or not to be built: the sampler learns it as a constraint."""
    INTERRUPTED = "interrupted"
    """The search ended first; resuming goes on from the trial's checkpoint."""

    @property
    def ended(self) -> bool:
        """Whether resuming leaves the trial as it is."""
        return self not in (TrialStatus.RUNNING, TrialStatus.PAUSED, TrialStatus.INTERRUPTED)


class Decision(StrEnum):
    """Why a trial ended."""

    COMPLETED = "completed"
    """Its epochs were used."""
    TARGET_REACHED = "target_reached"
    """The student reached its target."""
    ASHA = "asha"
    """Not among the best at a milestone of the scheduler."""
    MEDIAN = "median"
    """Below the median of the others."""
    RAISED = "raised"
    """An error ended it, or it is infeasible; ``cause`` says which."""
    PROCESS_DIED = "process_died"
    """Its process died more often than it may be tried again."""
    NODE_LOST = "node_lost"
    """The machines below it went away more often than even a good configuration is tried again."""
    TIMEOUT = "timeout"
    """It took longer than ``limits.trial_timeout``, or hung."""
