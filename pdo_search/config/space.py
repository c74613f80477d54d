"""Search dimensions: how they are written in an experiment file, found in it and filled in.

Owns the notation ``{int: [low, high]}``, ``{float: [low, high]}``, ``{choice: [...]}`` with
``step`` and ``log``. Knows no search library: the conversion to Optuna is ``search.optuna_space``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pdo_search.errors import InputError

__all__ = ["Dimension", "Space", "fill", "find_dimensions", "parse_dimension"]

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
            "a dimension has exactly one of int, float, choice", path=where, value=dict(node)
        )
    kind = kinds[0]
    unknown = sorted(set(node) - {kind} - _OPTIONS[kind])
    if unknown:
        raise InputError(
            f"unknown option {unknown[0]!r} of a {kind} dimension",
            path=where,
            value=dict(node),
            remedy=f"known: {', '.join(sorted(_OPTIONS[kind])) or 'none'}",
        )
    if kind == "choice":
        return Dimension(path, "choice", choices=_choices(where, node[kind]))
    return _range(path, where, kind, node)


def _choices(where: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise InputError("choice needs a list of at least one value", path=where, value=values)
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise InputError(
                "a choice is a number, a string, true, false or null", path=where, value=value
            )
    if len({(type(v), v) for v in values}) != len(values):
        raise InputError("choice has a value twice", path=where, value=values)
    return tuple(values)


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
            remedy=None if whole else "write 1.0e-3, not 1e-3: YAML reads the latter as text",
        )
    low, high = (int(b) if whole else float(b) for b in bounds)
    if low > high:
        raise InputError("low is above high", path=where, value=bounds, remedy="swap the bounds")
    log: Any = node.get("log", False)
    step: Any = node.get("step")
    if not isinstance(log, bool):
        raise InputError("log is true or false", path=where, value=log)
    if log and low <= 0:
        raise InputError("log needs bounds above 0", path=where, value=bounds)
    if step is not None:
        if not _is_number(step, whole) or not step > 0:
            raise InputError(f"step must be a positive {kind}", path=where, value=step)
        if log:
            raise InputError("step and log exclude each other", path=where, value=dict(node))
        reached = low + math.floor((high - low) / step + 1e-9) * step
        high = int(reached) if whole else round(reached, 12)
    return Dimension(path, "int" if whole else "float", low, high, step, log)


def _is_number(value: object, whole: bool) -> bool:
    allowed = int if whole else int | float
    return isinstance(value, allowed) and not isinstance(value, bool)


def find_dimensions(tree: Mapping[str, Any], prefix: str = "") -> list[Dimension]:
    """All dimensions among the leaves of a tree, depth first, in the order of the file."""
    found: list[Dimension] = []
    for key, node in tree.items():
        path = f"{prefix}{key}"
        if is_dimension(node):
            found.append(parse_dimension(path, node))
        elif isinstance(node, Mapping):
            found.extend(find_dimensions(node, f"{path}."))
    return found


def fill(tree: Mapping[str, Any], point: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tree with every dimension replaced by its value in ``point``.

    Raises:
        KeyError: if the point lacks a dimension of the tree.
    """
    filled: dict[str, Any] = {}
    for key, node in tree.items():
        path = f"{prefix}{key}"
        if is_dimension(node):
            filled[key] = point[path]
        elif isinstance(node, Mapping):
            filled[key] = fill(node, point, f"{path}.")
        else:
            filled[key] = node
    return filled


def _shown(path: str) -> str:
    """A dimension's path as the file has it."""
    return path if path.startswith("student.") else f"trial.{path}"
