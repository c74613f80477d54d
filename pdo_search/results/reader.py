"""Reading a sweep with pandas, while it runs or afterwards. Runs no code from the sweep."""

from __future__ import annotations

import errno
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pdo_search.base.storage import Storage
from pdo_search.errors import InputError, PdoError
from pdo_search.results.importance import compared, importance
from pdo_search.results.params import PARAM
from pdo_search.results.parts import parse_part
from pdo_search.results.ranking import finished, pareto_front, ranked
from pdo_search.results.schema import TABLES, Col, Table, arrow_schema
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Sweep", "open_sweep"]

LEADERBOARD = (
    Col.TRIAL_ID,
    Col.METHOD,
    Col.STATUS,
    Col.OBJECTIVE,
    Col.VAL_ACCURACY,
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
        return self._read("trials")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per trial and epoch."""
        return self._read("epochs")

    @cached_property
    def stages(self) -> pd.DataFrame:
        """One row per trial and finished stage."""
        return self._read("stages")

    @cached_property
    def teachers(self) -> pd.DataFrame:
        """One row per trial and rung of its ladder."""
        return self._read("teachers")

    @cached_property
    def composites(self) -> pd.DataFrame:
        """One row per finished trial and mode of its composite."""
        return self._read("composites")

    @cached_property
    def confirmations(self) -> pd.DataFrame:
        """One row per confirmed configuration and fresh seed, with ``test_*`` metrics."""
        return self._read("confirmations")

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
        return trials[[*LEADERBOARD, *params]]

    def pareto(
        self, x: str = Col.FLOPS, y: str = Col.VAL_ACCURACY, method: str | None = None
    ) -> pd.DataFrame:
        """Finished trials that none other beats in both columns, best in ``x`` first.

        Args:
            x: a column that has a better direction, such as ``flops``.
            y: another.
            method: as in ``best``.

        Raises:
            InputError: a column is unknown, or neither direction of it is better; or the sweep has
                no such method.
        """
        return pareto_front(self._trials_of(method), x, y, self.info.mode)

    def importance(self) -> pd.DataFrame:
        """How much every dimension mattered, most first: see ``pdo_search.results.importance``.

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

    def _read(self, name: str) -> pd.DataFrame:
        """All parts of a table, by key.

        Raises:
            InputError: a part cannot be read.
        """
        import pyarrow as pa

        folder, table = Storage(self.path), TABLES[name]
        parts = [arrow_schema(table, {}).empty_table()]
        try:
            files = folder.files(name, ".parquet")
        except OSError as error:
            raise _unreadable(f"{self.path}/{name}", error) from None
        for file in files:
            try:
                data = folder.read(f"{name}/{file}")
            except FileNotFoundError:
                continue  # Set aside by the writer, just now.
            except OSError as error:
                raise _unreadable(f"{self.path}/{name}/{file}", error) from None
            try:
                parts.append(parse_part(table, data))
            except InputError as error:
                raise error.at(file=f"{self.path}/{name}/{file}") from None
            except MemoryError:
                raise
            except Exception as error:  # Whatever the parser makes of arbitrary bytes.
                raise InputError(
                    f"is damaged: {error}",
                    file=f"{self.path}/{name}/{file}",
                    remedy="move it away to read the rest; `pdo-search resume` does the same",
                ) from None
        try:
            whole = pa.concat_tables(parts, promote_options="default")
        except pa.ArrowException as error:
            raise InputError(
                f"has parts that contradict each other: {error}", file=f"{self.path}/{name}"
            ) from None
        return _frame(table, whole)


def _unreadable(file: str, error: OSError) -> InputError:
    """What a pipe, a folder or too large a file in a table's place is told."""
    here = error.errno in (errno.EINVAL, errno.EFBIG, errno.ENOTDIR)
    return InputError(
        f"cannot be read: {error.strerror or error}",
        file=file,
        remedy="it is nothing that a sweep writes: move it away to read the rest" if here else None,
    )


def _frame(table: Table, rows: pa.Table) -> pd.DataFrame:
    """The rows as a DataFrame, in the order of keys; parameters after the seed."""
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame = rows.to_pandas(ignore_metadata=True)
    for field in rows.schema:
        if field.type in nullable and rows[field.name].null_count:
            frame[field.name] = rows[field.name].to_pandas(types_mapper=nullable.get)
    frame = frame.sort_values(list(table.key), ignore_index=True)
    fixed = [name for name in frame.columns if not name.startswith(PARAM)]
    params = [name for name in frame.columns if name.startswith(PARAM)]
    after = fixed.index(Col.SEED) + 1 if Col.SEED in fixed else len(fixed)
    found: pd.DataFrame = frame[[*fixed[:after], *params, *fixed[after:]]]
    return found
