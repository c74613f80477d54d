"""Whether a trial whose process died is tried again, and what is said of it.

Tune counts every death of a process alike and asks nobody before it tries again
(``TuneController._process_trial_failure``, Ray 2.60). Here a node that went away is no failure of
the configuration, and what has ended or ran out of time is never tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from ray.exceptions import ActorUnavailableError, NodeDiedError

from pdo_search.results.schema import Decision

__all__ = ["MOST_LOST_NODES", "Retries", "node_went_away"]

MOST_LOST_NODES = 20
"""How many nodes one trial may lose: a night on spot machines, and not an endless loop."""
_NODE_DIED = "its node has died"


def node_went_away(error: BaseException | None) -> bool:
    """Whether a process died with its node: preempted, crashed or removed.

    Ray 2.60 marks only nodes that its autoscaler drained; of others it tells in the text alone, or,
    in the first seconds, that the process cannot be reached. A process that dies alone is reported
    dead by its node.
    """
    if isinstance(error, ActorUnavailableError | NodeDiedError):
        return True
    return bool(getattr(error, "preempted", False)) or _NODE_DIED in str(error)


class Retries:
    """Counts what befell each trial.

    Args:
        most_deaths: how often a trial whose process died is tried again, ``search.retries``.
        most_lost_nodes: the same for one that lost its node.
    """

    def __init__(self, most_deaths: int, most_lost_nodes: int = MOST_LOST_NODES) -> None:
        self._most = {Decision.PROCESS_DIED: most_deaths, Decision.NODE_LOST: most_lost_nodes}
        self._count: Counter[tuple[Hashable, Decision]] = Counter()

    def note(self, trial: Hashable, error: BaseException | None) -> tuple[Decision, str, bool]:
        """Count a death.

        Args:
            trial: its name, or whatever tells it from others.
            error: what Ray says of it.

        Returns:
            What befell the trial, in one word and in one line, and whether it is tried again.
        """
        lost = node_went_away(error)
        what = Decision.NODE_LOST if lost else Decision.PROCESS_DIED
        self._count[trial, what] += 1
        return what, _in_words(error, lost), self._count[trial, what] <= self._most[what]


def _in_words(error: BaseException | None, lost: bool) -> str:
    fields: dict[str, Any] = dict(
        line.strip().split(": ", 1) for line in str(error).splitlines() if ": " in line
    )
    if lost:
        return f"its node {fields.get('ip', '')} went away".replace("  ", " ")
    first = (str(error or "").strip().splitlines() or ["the process died"])[0]
    return f"{first} (pid {fields['pid']})" if "pid" in fields else first
