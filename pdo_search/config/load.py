"""Reading an experiment file: YAML to a validated ``Experiment`` and its search space.

Owns the messages for bad files. Nothing here starts anything or looks at data: a file that loads is
well formed, and every bound of every dimension makes a valid recipe.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pdo_search.base.errors import InputError
from pdo_search.base.safefile import read_regular
from pdo_search.base.safetext import redact
from pdo_search.config.messages import translated
from pdo_search.config.methods import METHODS
from pdo_search.config.metrics import metric_of
from pdo_search.config.model import StudentConfig
from pdo_search.config.recipe import Recipe
from pdo_search.config.schema import Experiment
from pdo_search.config.space import (
    Dimension,
    Space,
    as_written,
    fill,
    find_dimensions,
    is_dimension,
)

__all__ = ["Loaded", "load_experiment", "parse_experiment"]

MAX_CHOICE_CORNERS = 64
MAX_BYTES = 1 << 20
"""Of an experiment file: the shipped ones have two thousand."""
MAX_VALUES = 100_000
"""Values of an experiment once its aliases are written out: a few nested ones make billions."""
MAX_DIGITS = 40
"""Of a whole number: no field takes more, and Python refuses to print thousands."""
COMPARING = ("agreement", "kl")
"""Metrics of a student beside its teacher, which no search is for."""
LARGEST = (1 << 63) - 1
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Loaded:
    """An experiment, where it came from, and its dimensions.

    Attributes:
        experiment: the validated file, with dimensions still in ``trial`` and ``student``.
        space: those dimensions.
        given: the tree as read, overrides applied; what ``sweep.json`` keeps.
        file: the file's path.
        base_dir: the folder that relative paths and ``module:function`` refer to.
    """

    experiment: Experiment
    space: Space
    given: dict[str, Any]
    file: Path
    base_dir: Path


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of keeping the last one, and bombs."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node


def _count_values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values below a node with its aliases written out; each node is looked at once.

    Raises:
        yaml.MarkedYAMLError: they are too many, endless, or a number is too long.
    """
    problem, key = None, id(node)
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
            problem = f"a whole number of more than {MAX_DIGITS} digits"
        count = 1
    elif key not in known:
        known[key] = None
        parts = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain(*node.value)
        count = known[key] = 1 + sum(_count_values(part, known) for part in parts)
    else:
        count = known[key] or MAX_VALUES + 1  # None: we are still inside of it.
    if count > MAX_VALUES:
        problem = f"aliases that make more than {MAX_VALUES:,} values"
    if problem:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return count


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(
                problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Load and validate an experiment file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` assignments, values read as YAML; applied before validation.

    Raises:
        InputError: names file, path, value and remedy.
    """
    file = Path(path)
    tree = _read(file)
    for override in overrides:
        _assign(tree, override)
    return parse_experiment(tree, file=file, base_dir=file.resolve().parent)


def parse_experiment(tree: dict[str, Any], *, file: Path, base_dir: Path) -> Loaded:
    """Validate a tree that was read already (as on resume, from ``sweep.json``).

    Raises:
        InputError: names file, path, value and remedy.
    """
    try:
        _refuse_leaves(tree)
        experiment = _validate(Experiment, tree)
        _check_method(experiment)
        _check_metric(experiment)
        dimensions = [
            *find_dimensions(experiment.trial),
            *find_dimensions(experiment.student, "student."),
        ]
        for corner in _corners(dimensions):
            _validate(Recipe, fill(experiment.trial, corner), "trial", dimensions)
            _validate(
                StudentConfig, fill(experiment.student, corner, "student."), "student", dimensions
            )
        space = Space(tuple(dimensions))
        _check_points(experiment, space)
        _check_minimize(experiment, space)
        _check_target(experiment)
    except InputError as error:
        raise error.at(file=file, remedy=f"correct it, then `pdo-search check {file}`") from None
    except RecursionError:
        raise InputError("is nested too deeply", file=file) from None
    return Loaded(experiment, space, tree, file, base_dir)


def _check_minimize(experiment: Experiment, space: Space) -> None:
    """Several objectives need something that they can be traded for, and rungs."""
    costs = experiment.search.minimize
    problem = None
    if costs and not any(dimension.path.startswith("student.") for dimension in space):
        problem = "every student costs the same: no value of `student` is a dimension"
    elif costs and experiment.scheduler.kind == "median":
        problem = "scheduler median compares the metric alone; take asha"
    if problem:
        raise InputError(problem, path="search.minimize", value=list(costs))


def _check_target(experiment: Experiment) -> None:
    """A target is in the primary metric's unit: of a share, 1 at most."""
    target, metric = experiment.trial.get("target"), experiment.task.metrics[0]
    if isinstance(target, int | float) and metric_of(metric).is_share and target > 1:
        raise InputError(
            f"is more than all: {metric} is a share of 1 at most",
            path="trial.target",
            value=target,
            remedy=f"write {target / 100:g} for {target:g}%" if target <= 100 else None,
        )


def _refuse_leaves(node: Any, path: str = "") -> None:
    """Everything in an experiment is recorded in ``sweep.json``, and credentials are not. Tables,
    samplers and generators hold whole numbers of 64 bits."""
    if isinstance(node, str) and redact(node) != node:
        raise InputError(
            "holds a secret (a value of this process's environment, or a URI's credentials), and"
            " experiments are recorded",
            path=path,
            value=redact(node),
            remedy="leave it to the environment, such as AWS_ACCESS_KEY_ID or a profile",
        )
    if isinstance(node, int) and not -LARGEST - 1 <= node <= LARGEST:
        raise InputError(
            "is too large a whole number",
            path=path,
            value=node,
            remedy=f"the largest is {LARGEST} (below 2^63)",
        )
    if isinstance(node, Mapping | list):
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            _refuse_leaves(child, f"{path}.{key}" if path else str(key))


def _read(file: Path) -> dict[str, Any]:
    try:
        text = read_regular(file, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(
            file.name,
            [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else [],
            n=1,
        )
        hint = f"did you mean {file.parent / near[0]}?" if near else "give the path of a YAML file"
        raise InputError("no such experiment file", file=file, remedy=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text: {error}", file=file) from None
    try:
        tree = _parsed(text)
    except RecursionError:
        raise InputError("is nested too deeply", file=file) from None
    except ValueError as error:
        raise InputError(
            f"is not valid YAML: {error}",
            file=file,
            remedy="indent with spaces, not with tabs"
            if "'\\t'" in str(error)
            else "experiment files are plain data: no tags, no duplicate keys",
        ) from None
    if not isinstance(tree, dict):
        raise InputError(
            "must be a mapping with the keys name, task, teacher, student, …",
            file=file,
            value=tree,
            remedy="write KEY: VALUE lines; README and the folder experiments/ have files to copy",
        )
    return tree


def _parsed(text: str) -> Any:
    """YAML as plain data.

    Raises:
        ValueError: it is none; says where.
        RecursionError: it is nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except RecursionError:
        raise
    except Exception as error:  # What PyYAML makes of `!!int x`, `!!timestamp x`, 2001-99-99…
        raise ValueError(f"a value cannot be read: {error}") from None


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _assign(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise InputError(
            "an override is written a.b=value", path="--set", value=override,
            remedy="for example --set trial.epochs=6",
        )  # fmt: skip
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"is not a YAML value: {error}", path=f"--set {path}", value=text
        ) from None
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise InputError(f"{key!r} is not a section", path=f"--set {path}", value=child)
        node = child
    node[keys[-1]] = value


def _corners(dimensions: Sequence[Dimension]) -> Iterable[dict[str, Any]]:
    """Points at which the recipe is validated: all low, all high, then each end on its own."""
    low = {d.path: d.ends()[0] for d in dimensions}
    yield low
    for dimension in dimensions:
        between = [dimension.between] if dimension.kind == "float" else []
        ends = itertools.islice(dimension.ends(), 1, MAX_CHOICE_CORNERS)
        for value in (*between, *ends):
            yield {**low, dimension.path: value}
    yield {d.path: d.ends()[-1] for d in dimensions}


def _validate(
    model: type[M], tree: Mapping[str, Any], prefix: str = "", dimensions: Sequence[Dimension] = ()
) -> M:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # What is missing may stand there misspelt: then pydantic complains of both.
        unknown = (e for e in errors if e["type"] == "extra_forbidden")
        first = next(unknown, errors[0]) if errors[0]["type"] == "missing" else errors[0]
        raise translated(model, first, prefix, dimensions) from None


def _check_method(experiment: Experiment) -> None:
    """Methods are compared at equal budgets, not searched; and none against itself."""
    method = experiment.trial.get("method")
    if is_dimension(method):
        raise InputError(
            "a method is no search dimension",
            path="trial.method",
            value=method,
            remedy="search.baselines runs other methods beside the progressive one",
        )
    if method in METHODS and method in experiment.search.baselines:
        raise InputError(
            "is what the search itself is about: trial.method says so",
            path="search.baselines",
            value=method,
            remedy="leave one of the two out",
        )


def _check_metric(experiment: Experiment) -> None:
    """What is searched for is measured on validation, without the teacher."""
    own = [f"val_{m}" for m in experiment.task.metrics if m.rpartition(".")[2] not in COMPARING]
    if experiment.search.metric not in own:
        raise InputError(
            "is no metric of the task that a search can go by",
            path="search.metric",
            value=experiment.search.metric,
            remedy=f"write one of {', '.join(own)}",
        )


def _check_points(experiment: Experiment, space: Space) -> None:
    for number, point in enumerate(experiment.search.points):
        path = f"search.points.{number}"
        for key, value in point.items():
            if key not in space.paths:
                near = difflib.get_close_matches(key, space.paths, n=1)
                known = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else f"dimensions: {', '.join(space.paths) or 'none'}"
                )
                raise InputError(
                    "is not a dimension of this experiment",
                    path=f"{path}.{key}",
                    value=value,
                    remedy=known,
                )
            if not space[key].contains(value):
                raise InputError(
                    "lies outside its dimension", path=f"{path}.{key}", value=value,
                    remedy=f"the dimension is {json.dumps(as_written(space[key]))}",
                )  # fmt: skip
        missing = [path_ for path_ in space.paths if path_ not in point]
        if missing and experiment.search.sampler == "grid":
            raise InputError(
                f"a grid point gives every dimension; {missing[0]!r} is missing",
                path=path,
                value=point,
            )
