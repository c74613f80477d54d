"""A sweep with pandas, while it runs or afterwards: its tables, its best trial, its fronts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pdo_search.analysis.importance import compared, importance
from pdo_search.analysis.ranking import finished, pareto_front, ranked
from pdo_search.base.errors import InputError, PdoError
from pdo_search.base.storage import Storage
from pdo_search.results.params import PARAM
from pdo_search.results.reader import read_table
from pdo_search.results.schema import TABLES, Col
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sweep", "open_sweep"]

LEADERBOARD = (
    Col.TRIAL_ID,
    Col.METHOD,
    Col.STATUS,
    Col.OBJECTIVE,
    Col.VAL_SCORE,
    Col.PARAMS,
    Col.FLOPS,
    Col.LATENCY_MS,
    Col.EPOCHS_DONE,
    Col.WALL_S,
)


def open_sweep(path: str | Path) -> Sweep:
    """Open a sweep directory.

    Args:
        path: what ``pdo-search run`` printed; a local path or a URI.

    Raises:
        InputError: it is no sweep, or ``sweep.json`` is damaged.
    """
    info = read_sweep_file(path)
    return Sweep(Storage(path).root, info)


class Sweep:
    """A sweep's tables as DataFrames. Each is read when first used; ``refresh`` forgets them.

    Whole numbers and truth values are NumPy's where none is missing, and pandas' nullable ones
    where some are; times are in UTC. What the columns mean is in ``pdo_search.results.schema`` and
    in the files' metadata.

    Attributes:
        path: the sweep's directory.
        info: what the sweep was asked to do.
    """

    def __init__(self, path: str, info: SweepInfo) -> None:
        self.path = path
        self.info = info

    def __repr__(self) -> str:
        planned = sum(self.info.trials_by_method.values())
        return f"Sweep({self.path!r}, {len(self.trials)} of {planned} trials)"

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: status, parameters, last metrics, cost, seconds."""
        return read_table(self.path, "trials", self.info.metrics)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per trial and epoch."""
        return read_table(self.path, "epochs", self.info.metrics)

    @cached_property
    def stages(self) -> pd.DataFrame:
        """One row per trial and finished stage."""
        return read_table(self.path, "stages", self.info.metrics)

    @cached_property
    def teachers(self) -> pd.DataFrame:
        """One row per trial and level of its ladder."""
        return read_table(self.path, "teachers", self.info.metrics)

    @cached_property
    def composites(self) -> pd.DataFrame:
        """One row per finished trial and mode of its composite."""
        return read_table(self.path, "composites", self.info.metrics)

    @cached_property
    def confirmations(self) -> pd.DataFrame:
        """One row per confirmed configuration and fresh seed, with ``test_*`` metrics."""
        return read_table(self.path, "confirmations", self.info.metrics)

    def refresh(self) -> Sweep:
        """Read everything again when next used; returns the sweep itself."""
        for name in TABLES:
            self.__dict__.pop(name, None)
        self.info = read_sweep_file(self.path)
        return self

    def best(self, method: str | None = None) -> pd.Series[Any]:
        """The finished trial with the best objective of all methods, named by its trial_id.

        Its ``method`` says how it was trained. Its value is biased upwards, as the best of many
        measured on the same examples.

        Args:
            method: among the trials of one method alone, such as ``progressive`` or ``one_shot``.

        Raises:
            InputError: the sweep has no such method.
            PdoError: no trial has finished, or none of that method.
        """
        trials = self._trials_of(method)
        candidates = finished(trials, self.info.mode)
        if candidates.empty:
            states = trials[Col.STATUS].value_counts()
            counts = ", ".join(f"{count} {status}" for status, count in states.items())
            of = f" of {method}" if method else ""
            raise PdoError(
                f"{self.path}: no trial{of} has finished yet ({counts or 'none started'})"
            )
        best = candidates.iloc[0]
        return best.rename(best[Col.TRIAL_ID])

    def leaderboard(self, n: int = 10, method: str | None = None) -> pd.DataFrame:
        """The n best trials: finished ones by objective, stopped ones below; main columns only.

        Args:
            n: how many at most.
            method: as in ``best``.

        Raises:
            InputError: the sweep has no such method.
        """
        trials = ranked(self._trials_of(method), self.info.mode).head(n)
        params = [name for name in trials.columns if name.startswith(PARAM)]
        columns = [self.info.primary if c == Col.VAL_SCORE else c for c in LEADERBOARD]
        return trials[[*columns, *params]]

    def pareto(
        self, x: str = Col.FLOPS, y: str | None = None, method: str | None = None
    ) -> pd.DataFrame:
        """Finished trials that none other beats in both columns, best in ``x`` first.

        Args:
            x: a column that has a better direction, such as ``flops``.
            y: another; by default the primary metric.
            method: as in ``best``.

        Raises:
            InputError: a column is unknown, or neither direction of it is better; or the sweep has
                no such method.
        """
        return pareto_front(self._trials_of(method), x, y or self.info.primary, self.info.mode)

    def importance(self) -> pd.DataFrame:
        """How much every dimension mattered, most first: see ``pdo_search.analysis.importance``.

        Of the method that the search is about. Columns: ``dimension``, ``importance`` (share of the
        variance of the trials' ranks), ``spread``, ``chance`` and ``above_chance``. Empty of fewer
        than eight comparable trials.
        """
        trials = self.trials[self.trials[Col.METHOD] == self.info.method]
        return importance(compared(trials, self.epochs, self.info.metric))

    def model_path(self, trial_id: str, column: str = Col.MODEL) -> str:
        """Directory of a trial's saved student (or ``composite``), for ``load_model``.

        Raises:
            InputError: the trial is unknown, or saved none.
        """
        found = self.trials[self.trials[Col.TRIAL_ID] == trial_id]
        if found.empty:
            raise InputError(
                "no such trial",
                file=self.path,
                value=trial_id,
                remedy="the `trial_id` column of the trials names them, such as t0007",
            )
        saved = found.iloc[0][column]
        if not isinstance(saved, str):
            status = found.iloc[0][Col.STATUS]
            raise InputError(
                f"trial {trial_id}, {status}, has saved no {column}",
                file=self.path,
                remedy="finished trials save theirs",
            )
        relative = PurePosixPath(saved)
        if relative.is_absolute() or ".." in relative.parts:
            raise InputError(f"the {column} of {trial_id} lies outside of the sweep", value=saved)
        return f"{self.path}/{saved}"

    def _trials_of(self, method: str | None) -> pd.DataFrame:
        """The trials of a method, by default of all of them."""
        if method is None:
            return self.trials
        if method not in self.info.trials_by_method:
            raise InputError(
                "the sweep has no trials of this method",
                file=self.path,
                value=method,
                remedy=f"it has {', '.join(self.info.trials_by_method)}",
            )
        return self.trials[self.trials[Col.METHOD] == method]
