"""How many trials run at once on a cluster whose nodes come and go.

Why not leave it to Tune's resource manager (``max_concurrent_trials=None``): Tune 2.60 then keeps
one suggested trial waiting for resources (``_get_max_pending_trials``), so that the sampler always
draws one result too early and a cut-off sweep does not resume to the same points; and a cluster
that grows on demand would do so for as long as trials are left, without having been told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import ConcurrencyLimiter, Searcher

__all__ = ["SlotLimiter"]

EVERY_S = 5.0


class SlotLimiter(ConcurrencyLimiter):
    """Tune's limiter with a bound that is counted anew while the sweep runs.

    Args:
        searcher: suggests the trials.
        count: how many trials the nodes that are there now have room for; 0 for none.
        every_s: least seconds between two counts.
    """

    def __init__(
        self, searcher: Searcher, count: Callable[[], int], *, every_s: float = EVERY_S
    ) -> None:
        self._count = count
        self._every_s = every_s
        self._counted_at = time.monotonic()
        super().__init__(searcher, max_concurrent=max(1, count()))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The searcher's next suggestion, or None while as many trials run as there is room for."""
        if time.monotonic() - self._counted_at >= self._every_s:
            # A trial that waits for a lost node's successor is no reason to stop suggesting.
            self.max_concurrent = max(1, self._count())
            self._counted_at = time.monotonic()
        suggestion: dict[str, Any] | None = super().suggest(trial_id)
        return suggestion

    def get_state(self) -> dict[str, Any]:
        """Nothing: Tune pickles it for a restore that this product does not use."""
        return {}
