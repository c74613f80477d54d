"""Search dimensions: how they are written in an experiment file, found in it and filled in.

Owns the notation ``{int: [low, high]}``, ``{float: [low, high]}``, ``{choice: [...]}`` with
``step`` and ``log``. Knows no search library: the conversion to Optuna is ``search.optuna_space``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pdo_search.base.errors import InputError

__all__ = ["Dimension", "Space", "as_written", "fill", "find_dimensions", "parse_dimension"]

INSIDE = 0.381966
"""Where a range is looked at between its ends."""
MOST_DIMENSIONS = 1_000
"""Of an experiment: more are a generated file, and take minutes to read."""
MOST_STEPS = 1e15
"""Of a grid: beyond, the rounding of floats is as wide as a step."""
KINDS = ("int", "float", "choice")
_OPTIONS = {"int": {"step", "log"}, "float": {"step", "log"}, "choice": set()}


@dataclass(frozen=True)
class Dimension:
    """One searched leaf.

    Attributes:
        path: dotted path below ``trial:``, or ``student.…``.
        kind: ``int`` and ``float`` have bounds, both inclusive; ``choice`` has choices.
        low: lower bound (int, float).
        high: upper bound, inclusive, on the grid of ``step`` where there is one.
        step: grid width, or None.
        log: whether the logarithm is sampled uniformly.
        choices: the values of a choice: numbers, strings, booleans or null.
    """

    path: str
    kind: Literal["int", "float", "choice"]
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def ends(self) -> tuple[Any, ...]:
        """The values at which the experiment is validated: both bounds, or every choice."""
        return self.choices if self.kind == "choice" else (self.low, self.high)

    @property
    def between(self) -> float:
        """A value inside of a range, on its grid: whole only where all of them are."""
        if self.step is None:
            return self.low + (self.high - self.low) * INSIDE
        return self.low + self.step * min(1, self.num_values - 1)

    @property
    def num_values(self) -> float:
        """How many values it has; infinite for a range without a grid."""
        if self.kind == "choice":
            return len(self.choices)
        if self.low == self.high:
            return 1
        step = self.step or (1 if self.kind == "int" else None)
        return math.inf if step is None else round((self.high - self.low) / step) + 1

    def contains(self, value: object) -> bool:
        """Whether a value lies in the dimension (the grid of ``step`` included)."""
        if self.kind == "choice":
            return any(type(value) is type(c) and value == c for c in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.kind == "int" and not isinstance(value, int):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        position = (value - self.low) / self.step
        return math.isclose(position, round(position), abs_tol=1e-6)


@dataclass(frozen=True)
class Space:
    """All dimensions of an experiment, in the order of the file."""

    dimensions: tuple[Dimension, ...] = ()

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __getitem__(self, path: str) -> Dimension:
        return next(d for d in self.dimensions if d.path == path)

    @property
    def num_points(self) -> float:
        """How many points it has; infinite where a dimension is."""
        return math.prod(dimension.num_values for dimension in self)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all dimensions."""
        return tuple(d.path for d in self.dimensions)


def is_dimension(node: object) -> bool:
    """Whether a YAML node is meant as a dimension: a mapping with one of the kinds as key."""
    return isinstance(node, Mapping) and any(kind in node for kind in KINDS)


def parse_dimension(path: str, node: Mapping[str, Any]) -> Dimension:
    """Read one dimension.

    Raises:
        InputError: with the path and the rule that was broken.
    """
    where = _shown(path)
    kinds = [kind for kind in KINDS if kind in node]
    if len(kinds) != 1:
        raise InputError(
            "a dimension has exactly one of int, float, choice",
            path=where,
            value=dict(node),
            remedy=f"leave out {' or '.join(kinds)}",
        )
    kind = kinds[0]
    unknown = sorted(set(node) - {kind} - _OPTIONS[kind])
    if unknown:
        raise InputError(
            f"unknown option {unknown[0]!r} of a {kind} dimension",
            path=where,
            value=dict(node),
            remedy=_known_options(kind),
        )
    if kind == "choice":
        return Dimension(path, "choice", choices=_choices(where, node[kind]))
    return _range(path, where, kind, node)


def _known_options(kind: str) -> str:
    known = ", ".join(sorted(_OPTIONS[kind]))
    return f"known: {known}" if known else "write {choice: [a, b]} and nothing beside it"


def _choices(where: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(
            "choice needs a list of at least one value",
            path=where,
            value=values,
            remedy="write {choice: [a, b]}",
        )
    known: dict[object, object] = {}
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise InputError(
                "a choice is a number, a string, true, false or null",
                path=where,
                value=value,
                remedy="write {choice: [a, b]}; search the values of a section one by one",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError("a choice is finite", path=where, value=value, remedy="leave it out")
        # Optuna looks values up by equality, and fields read a text such as "1e-3" as a number.
        number = _as_number(value, values)
        if number in known:
            raise InputError(
                f"choice has a value twice: {known[number]!r} and {value!r} are one",
                path=where,
                value=values,
                remedy="give each value once",
            )
        known[number] = value
    return tuple(values)


def _as_number(value: object, beside: list[Any]) -> object:
    """A text that stands among numbers and reads as one, as that number; else the value."""
    numbers = any(isinstance(v, int | float) and not isinstance(v, bool) for v in beside)
    if numbers and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _range(path: str, where: str, kind: str, node: Mapping[str, Any]) -> Dimension:
    bounds: Any = node[kind]
    whole = kind == "int"
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or not all(_is_number(b, whole) and math.isfinite(b) for b in bounds)
    ):
        raise InputError(
            f"{kind} needs two finite {'whole ' if whole else ''}numbers [low, high]",
            path=where,
            value=bounds,
            remedy=_range_remedy(kind, bounds),
        )
    low, high = (int(b) if whole else float(b) for b in bounds)
    if low > high:
        raise InputError("low is above high", path=where, value=bounds, remedy="swap the bounds")
    log: Any = node.get("log", False)
    step: Any = node.get("step")
    if not isinstance(log, bool):
        raise InputError(
            "log is true or false", path=where, value=log, remedy="write log: true, or leave it out"
        )
    if log and low <= 0:
        raise InputError(
            "log needs bounds above 0",
            path=where,
            value=bounds,
            remedy="raise the lower bound, or leave out log",
        )
    if step is not None:
        if not _is_number(step, whole) or not step > 0:
            raise InputError(
                f"step must be a positive {kind}",
                path=where,
                value=step,
                remedy="leave it out" if not whole else "write a whole number, or leave it out",
            )
        if log:
            raise InputError(
                "step and log exclude each other",
                path=where,
                value=dict(node),
                remedy="leave one of the two out",
            )
        if not (high - low) / step < MOST_STEPS:
            raise InputError(
                "step is too small for the range", path=where, value=step, remedy="leave it out"
            )
        reached = low + math.floor((high - low) / step + 1e-9) * step
        high = int(reached) if whole else round(reached, 12)
    return Dimension(path, "int" if whole else "float", low, high, step, log)


def _range_remedy(kind: str, bounds: object) -> str:
    """What to write in the place of bounds that are none."""
    if isinstance(bounds, list) and len(bounds) > 2:
        return f"write {{choice: {bounds}}}, or the lowest and the highest value"
    if isinstance(bounds, list) and any(isinstance(b, str) for b in bounds):
        return "write 1.0e-3, not 1e-3: YAML reads the latter as text"
    if kind == "int" and isinstance(bounds, list) and len(bounds) == 2:
        return f"write whole numbers, or {{float: {bounds}}}"
    return f"write {{{kind}: [low, high]}}"


def _is_number(value: object, whole: bool) -> bool:
    allowed = int if whole else int | float
    return isinstance(value, allowed) and not isinstance(value, bool)


def as_written(dimension: Dimension) -> dict[str, Any]:
    """A dimension as a file has it, without its options."""
    if dimension.kind == "choice":
        return {"choice": list(dimension.choices)}
    return {dimension.kind: [dimension.low, dimension.high]}


def find_dimensions(tree: Mapping[str, Any], prefix: str = "") -> list[Dimension]:
    """All dimensions among the leaves of a tree, depth first, in the order of the file; those of
    sections in a list have their places in it as names, from 0."""
    found: list[Dimension] = []
    for key, node in tree.items():
        path = f"{prefix}{key}"
        if is_dimension(node):
            found.append(parse_dimension(path, node))
        elif (section := _section(node)) is not None:
            found.extend(find_dimensions(section, f"{path}."))
        if len(found) > MOST_DIMENSIONS:
            raise InputError(
                f"has more than {MOST_DIMENSIONS:,} dimensions",
                path=prefix.rstrip(".") or None,
                remedy="search fewer things at once: ten dimensions are many already",
            )
    return found


def fill(tree: Mapping[str, Any], point: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tree with every dimension replaced by its value in ``point``.

    Raises:
        KeyError: if the point lacks a dimension of the tree.
    """
    filled: dict[str, Any] = {}
    for key, node in tree.items():
        path = f"{prefix}{key}"
        section = _section(node)
        if is_dimension(node):
            filled[key] = point[path]
        elif section is not None:
            inner = fill(section, point, f"{path}.")
            filled[key] = inner if isinstance(node, Mapping) else list(inner.values())
        else:
            filled[key] = node
    return filled


def _section(node: object) -> Mapping[str, Any] | None:
    """A section, or a list of sections by their places; None for any other node."""
    if isinstance(node, list) and node and all(isinstance(part, Mapping) for part in node):
        return {str(place): part for place, part in enumerate(node)}
    return node if isinstance(node, Mapping) else None


def _shown(path: str) -> str:
    """A dimension's path as the file has it."""
    return path if path.startswith("student.") else f"trial.{path}"
