"""Earlier sweeps as prior knowledge: which of their trials are points of this experiment.

A trial is taken where running it here would be the same training: its values lie in this space, and
everything that is fixed here (task, teacher, student, recipe with its epochs) was the same there.
Paths are compared as they are written. What follows a student's measuring (``composite``) and what
changes no value (resources, scheduler, seeds of the search) may differ. The rules are pure;
``priors_of`` reads, and ``keep_priors`` keeps what was taken with the sweep, so that resuming it
starts from the same whatever became of the earlier sweeps. Their own warm starts are not followed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pdo_search.analysis.sweep import open_sweep
from pdo_search.base.errors import InputError
from pdo_search.base.storage import Storage, is_uri
from pdo_search.config.load import Loaded
from pdo_search.config.resolve import resolve
from pdo_search.config.run import LimitsConfig
from pdo_search.config.search import STUDENT_COSTS
from pdo_search.config.space import Dimension, Space
from pdo_search.results.schema import Col, TrialStatus, point_of
from pdo_search.search.dominance import costs_of
from pdo_search.search.session import loaded_of
from pdo_search.search.tune.searcher import PastTrial

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prior", "keep_priors", "priors_of", "taken_from"]

FILE = "warm_start.json"
AFTER_MEASURING = "composite"
REASONS_SHOWN = 3

Row = Mapping[str, Any]
Curves = Mapping[int, dict[int, float]]


@dataclass(frozen=True)
class Prior:
    """What was taken from an earlier sweep.

    Attributes:
        sweep: its directory, as the experiment names it.
        taken: its trials at points of this space, under their numbers there.
        left_out: number of the others by reason.
    """

    sweep: str
    taken: tuple[PastTrial, ...]
    left_out: dict[str, int]

    def __str__(self) -> str:
        """One line for the user."""
        num_left = sum(self.left_out.values())
        text = f"{len(self.taken)} of {len(self.taken) + num_left} trials of {self.sweep} taken"
        if not num_left:
            return text
        reasons = sorted(self.left_out.items(), key=lambda item: -item[1])
        shown = [
            reason if len(reasons) == 1 else f"{count} {reason}"
            for reason, count in reasons[:REASONS_SHOWN]
        ]
        if len(reasons) > REASONS_SHOWN:
            shown.append("others")
        return f"{text}, {num_left} left out ({'; '.join(shown)})"


def priors_of(loaded: Loaded, sweep: str, fingerprint: str | None = None) -> tuple[Prior, ...]:
    """What the experiment's ``search.warm_start`` gives: as kept with the sweep, or read anew.

    Args:
        loaded: the experiment.
        sweep: its sweep's directory; need not exist.
        fingerprint: of its task; None where nobody has looked.

    Raises:
        InputError: a directory holds no sweep, or what was kept is damaged.
    """
    directories = loaded.experiment.search.warm_start
    if not directories:
        return ()
    kept = _kept(sweep, loaded.space)
    if kept is not None:
        return kept
    return tuple(
        _read(loaded, number, name, fingerprint) for number, name in enumerate(directories)
    )


def keep_priors(sweep: str, priors: tuple[Prior, ...]) -> None:
    """Write what was taken into the sweep's directory."""
    if priors:
        Storage(sweep).write(FILE, _PRIORS.dump_json(priors, indent=1))


def taken_from(
    name: str, earlier: Loaded, trials: Iterable[Row], curves: Curves, here: Loaded
) -> Prior:
    """The trials of an earlier sweep that are points of this experiment.

    A finished trial is told as such; a stopped or cut-off one by its curve, as one that was
    stopped. One that costs more than the limits here is infeasible; one that was infeasible there
    is so only under the same limits. Failures teach nothing.

    Args:
        name: of the earlier sweep.
        earlier: its experiment.
        trials: its rows of ``trials``.
        curves: the metric by epoch, by number.
        here: this experiment.
    """
    there, wanted = _leaves(earlier), _leaves(here)
    limits = here.experiment.limits
    same_limits = all(
        getattr(limits, name) == getattr(earlier.experiment.limits, name) for name in STUDENT_COSTS
    )
    taken: list[PastTrial] = []
    left_out: Counter[str] = Counter()
    for row in trials:
        try:
            values = {**there, **point_of(row, earlier.space)}
            point = _point(values, wanted, here.space)
            number, curve = int(row[Col.NUMBER]), curves.get(int(row[Col.NUMBER]), {})
            status = _status(row, curve, limits, same_limits=same_limits)
        except (KeyError, ValueError) as error:
            left_out[str(error.args[0])] += 1
            continue
        value = float(row[Col.OBJECTIVE]) if status is TrialStatus.FINISHED else None
        costs = costs_of(row, here.experiment.search.minimize)
        taken.append(PastTrial(number, point, status, value, curve, costs))
    return Prior(name, tuple(taken), dict(left_out))


def _leaves(loaded: Loaded) -> dict[str, Any]:
    """Every value that a trial's result hangs on, by path; dimensions at their first end."""
    ends = {dimension.path: dimension.ends()[0] for dimension in loaded.space}
    trial = resolve(loaded.experiment, ends).model_dump(mode="json")
    search = loaded.experiment.search
    sections = {name: trial[name] for name in ("task", "teacher", "student")}
    del sections["teacher"]["force"]  # Changes no teacher.
    return {
        "search.metric": search.metric,
        "search.mode": search.mode,
        **dict(_flat(sections)),
        **dict(_flat(trial["recipe"])),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, node in tree.items():
        if isinstance(node, Mapping):
            yield from _flat(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


def _point(values: Mapping[str, Any], wanted: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The point of the space at which a trial with these values lies.

    Args:
        values: of an earlier trial, by path.
        wanted: of this experiment; what is no dimension has to be the same.
        space: the dimensions.

    Raises:
        ValueError: there is none; says which paths differ.
    """
    searched = set(space.paths)
    other = [
        path
        for path in (*wanted, *(p for p in values if p not in wanted))
        if path not in searched
        and path.partition(".")[0] != AFTER_MEASURING
        and (path not in values or path not in wanted or values[path] != wanted[path])
    ]
    if other:
        raise ValueError(f"{', '.join(other)} other than here")
    point, outside = {}, []
    for dimension in space:
        try:
            point[dimension.path] = _placed(dimension, values[dimension.path])
        except (KeyError, ValueError):
            outside.append(dimension.path)
    if outside:
        raise ValueError(f"{', '.join(outside)} outside of this space")
    return point


def _placed(dimension: Dimension, value: Any) -> Any:
    """A value as the dimension has it: 4 is 4.0 where it is a float.

    Raises:
        ValueError: it lies outside.
    """
    if dimension.kind == "choice":
        for choice in dimension.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and dimension.kind == "float":
        value = float(value)
    elif is_number and float(value).is_integer():
        value = int(value)
    if not dimension.contains(value):
        raise ValueError(value)
    return value


def _status(
    row: Row, curve: Mapping[int, float], limits: LimitsConfig, *, same_limits: bool
) -> TrialStatus:
    """What the sampler is told of an earlier trial.

    Raises:
        ValueError: nothing; says why.
    """
    status = TrialStatus(row[Col.STATUS])
    if status is TrialStatus.FAILED:
        raise ValueError("failed")
    if status is TrialStatus.INFEASIBLE:
        if same_limits:
            return status
        raise ValueError("infeasible under other limits")
    if any(_over(row.get(name), getattr(limits, name)) for name in STUDENT_COSTS):
        return TrialStatus.INFEASIBLE
    value = row.get(Col.OBJECTIVE)
    if status is TrialStatus.FINISHED and value is not None and math.isfinite(value):
        return status
    if curve:
        return TrialStatus.STOPPED
    raise ValueError("without a result")


def _over(cost: float | None, limit: float | None) -> bool:
    return cost is not None and limit is not None and cost > limit


def _read(loaded: Loaded, number: int, name: str, fingerprint: str | None) -> Prior:
    """An earlier sweep, from its directory.

    Raises:
        InputError: it is no sweep, or its experiment or a table is damaged.
    """
    directory = name if is_uri(name) else str(loaded.base_dir / name)
    try:
        sweep = open_sweep(directory)
        info = sweep.info
        earlier = loaded_of(info)
        curves: dict[int, dict[int, float]] = {}
        metric = loaded.experiment.search.metric
        for row in _rows(sweep.epochs[[Col.NUMBER, Col.EPOCH, metric]]):
            if row[metric] is not None and math.isfinite(row[metric]):
                curves.setdefault(row[Col.NUMBER], {})[row[Col.EPOCH]] = row[metric]
        trials = sweep.trials[sweep.trials[Col.METHOD] == info.method]
        if None not in (fingerprint, info.fingerprint) and fingerprint != info.fingerprint:
            return Prior(name, (), {"of other data": len(trials)})
        return taken_from(name, earlier, _rows(trials), curves, loaded)
    except InputError as error:
        raise InputError(
            error.problem,
            file=loaded.file,
            path=f"search.warm_start.{number}",
            value=directory,
            remedy=error.remedy,
        ) from None


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with Python's values, None for what is missing."""
    plain = frame.astype(object)
    return [
        {str(name): value for name, value in row.items()}
        for row in plain.where(frame.notna(), None).to_dict("records")
    ]


_PRIORS: TypeAdapter[tuple[Prior, ...]] = TypeAdapter(tuple[Prior, ...])


def _kept(sweep: str, space: Space) -> tuple[Prior, ...] | None:
    """What was kept with the sweep; None where nothing was.

    Raises:
        InputError: it is damaged.
    """
    folder = Storage(sweep)
    try:
        data = folder.read(FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=f"{folder.root}/{FILE}") from None
    try:
        priors = _PRIORS.validate_json(data)
        for trial in (trial for prior in priors for trial in prior.taken):
            if set(trial.point) != set(space.paths) or not all(
                space[path].contains(value) for path, value in trial.point.items()
            ):
                raise ValueError(f"trial {trial.number} lies outside of the space")
    except (ValidationError, ValueError) as error:
        raise InputError(
            f"is damaged: {str(error).splitlines()[0]}",
            file=f"{folder.root}/{FILE}",
            remedy="remove it: the sweeps of search.warm_start are then read again",
        ) from None
    return priors
