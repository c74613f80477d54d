"""Reading a sweep with pandas, while it runs or afterwards. Runs no code from the sweep."""

from __future__ import annotations

import difflib
import io
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdo_search.errors import InputError, PdoError
from pdo_search.results.files import Folder
from pdo_search.results.schema import TABLES, TrialStatus, arrow_schema
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sweep", "open_sweep"]

log = logging.getLogger(__name__)


def open_sweep(path: str | Path) -> Sweep:
    """Open a sweep directory.

    Args:
        path: what ``pdo-search run`` printed; a local path or a URI.

    Raises:
        InputError: it is no sweep, or ``sweep.json`` is damaged.
    """
    return Sweep(str(path), read_sweep_file(path))


class Sweep:
    """A sweep's tables as DataFrames. Each is read when first used; ``refresh`` forgets them.

    Attributes:
        path: the sweep's directory.
        info: what the sweep was asked to do.
    """

    def __init__(self, path: str, info: SweepInfo) -> None:
        self.path = path
        self.info = info

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
        """One row per trial and stage."""
        return self._read("stages")

    @cached_property
    def teachers(self) -> pd.DataFrame:
        """One row per trial and rung of its ladder."""
        return self._read("teachers")

    @cached_property
    def composites(self) -> pd.DataFrame:
        """One row per finished trial and mode of its composite."""
        return self._read("composites")

    def refresh(self) -> Sweep:
        """Read the tables again when next used; returns the sweep itself."""
        for name in TABLES:
            self.__dict__.pop(name, None)
        return self

    def finished(self) -> pd.DataFrame:
        """The trials that trained to their end, best first."""
        trials = self.trials[self.trials["status"] == TrialStatus.FINISHED.value]
        return trials.sort_values(
            ["objective", "number"], ascending=[self.info.mode == "min", True], kind="stable"
        )

    def best(self) -> pd.Series[Any]:
        """The finished trial with the best value of the sweep's metric.

        Its value is biased upwards, as the best of many measured on the same examples.

        Raises:
            PdoError: no trial has finished.
        """
        finished = self.finished()
        if finished.empty:
            raise PdoError(f"{self.path}: no trial has finished yet")
        return finished.iloc[0]

    def pareto(self, x: str = "flops", y: str = "val_accuracy") -> pd.DataFrame:
        """Finished trials that no other beats in both columns, cheapest first.

        Args:
            x: a column that has a better direction, such as ``flops``.
            y: another.

        Raises:
            InputError: a column is unknown, or has no better direction.
        """
        finished = self.finished()
        signed = [finished[name] * _sign(name) for name in (x, y)]
        kept, best_y = [], float("-inf")
        order = sorted(range(len(finished)), key=lambda i: (-signed[0].iloc[i], -signed[1].iloc[i]))
        for i in order:
            if signed[1].iloc[i] > best_y:
                kept.append(i)
                best_y = signed[1].iloc[i]
        return finished.iloc[kept]

    def model_path(self, trial_id: str, column: str = "model") -> str:
        """Directory of a trial's saved student (or ``composite``), for ``load_model``.

        Raises:
            InputError: the trial is unknown, or saved none.
        """
        found = self.trials[self.trials["trial_id"] == trial_id]
        saved = None if found.empty else found.iloc[0][column]
        if not isinstance(saved, str):
            raise InputError(f"trial {trial_id!r} has saved no {column}", file=self.path)
        return f"{self.path}/{saved}"

    def _read(self, name: str) -> pd.DataFrame:
        """All parts of a table; a part that cannot be read is named and left out."""
        import pyarrow as pa
        from pyarrow import parquet

        folder = Folder(self.path)
        parts = []
        for file in folder.names(name, ".parquet"):
            try:
                parts.append(parquet.read_table(io.BytesIO(folder.read(f"{name}/{file}"))))
            except (pa.ArrowException, OSError, ValueError) as error:
                log.warning(
                    "%s/%s/%s cannot be read and is left out: %s", self.path, name, file, error
                )
        if not parts:
            return arrow_schema(TABLES[name], {}).empty_table().to_pandas()
        frame: pd.DataFrame = pa.concat_tables(parts, promote_options="default").to_pandas()
        return frame.sort_values(["number", *TABLES[name].key], ignore_index=True)


def _sign(name: str) -> int:
    known = {c.name: c.better for c in TABLES["trials"].columns if c.better}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            "is no column of trials with a better direction",
            path=name,
            remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
        )
    return 1 if known[name] == "max" else -1
