"""Pydantic's errors in words that lead to a file that loads.

Owns which remedy goes with which error. Knows nothing of YAML and files.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from pdo_search.base.errors import InputError
from pdo_search.config.domains import SECTIONS as TASKS
from pdo_search.config.fields import Refused
from pdo_search.config.model import StudentConfig
from pdo_search.config.recipe import Recipe
from pdo_search.config.schema import Experiment
from pdo_search.config.space import Dimension, as_written, is_dimension

__all__ = ["translated"]

SEARCHED = ("trial", "student")
SECTIONS = ("model_type", "dict_type", "tuple_type", "list_type", "model_attributes_type")
"""What pydantic says where it wants a section or a list."""
NUMBERS = {
    "int_parsing": "write a whole number; {int: [low, high]} searches it",
    "float_parsing": "write a number; {float: [low, high]} searches it",
}
"""What to write where pydantic reads no number in a text."""
TREES: Mapping[str, type[BaseModel]] = {"trial": Recipe, "student": StudentConfig}
"""Models of the sections that an experiment keeps as trees."""
KEYS_SHOWN = 3


def translated(
    model: type[BaseModel], error: Any, prefix: str, dimensions: Sequence[Dimension]
) -> InputError:
    """One of pydantic's errors as a message with a full path and what to write instead.

    Args:
        model: what was validated.
        error: an element of ``ValidationError.errors()``.
        prefix: where the model stands in the file.
        dimensions: those that were filled in.
    """
    # Of a union pydantic names the member, too, which nobody writes.
    location = [str(part) for part in error["loc"]]
    path = ".".join(part for part in (prefix, *location) if part and part not in TASKS)
    kind, value = error["type"], error["input"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return InputError(
            "unknown key", path=path, value=value, remedy=_near(model, location, path)
        )
    if kind == "missing":
        field = _field(model, location)
        about = f": {field}" if field else ""
        return InputError("is missing", path=path, remedy=f"add {location[-1]!r}{about}")
    searched = next((d for d in dimensions if path in (d.path, f"trial.{d.path}")), None)
    if searched is not None:
        return InputError(
            f"the dimension reaches {value!r}: {message}",
            path=path,
            value=as_written(searched),
            remedy=_searchable(searched, kind, value, path),
        )
    written = _as_dimension(model, location, path, kind, value)
    if written is not None:
        return InputError(message, path=path, value=value, remedy=written)
    if isinstance(refused := error.get("ctx", {}).get("error"), Refused):
        return InputError(message, path=path or None, remedy=refused.remedy)
    if kind == "value_error":
        section = isinstance(value, Mapping)
        remedy = "change one of the values shown" if section else _remedy(model, location)
        return InputError(message, path=path or None, value=_compact(value), remedy=remedy)
    if kind == "string_type" and isinstance(value, int | float):
        text = json.dumps(value)
        return InputError(message, path=path, value=value, remedy=f"write it in quotes: '{text}'")
    if kind in NUMBERS and path.partition(".")[0] in SEARCHED:
        return InputError(message, path=path, value=value, remedy=NUMBERS[kind])
    return InputError(message, path=path, value=value, remedy=_remedy(model, location))


def _searchable(dimension: Dimension, kind: str, value: object, path: str) -> str:
    """What to do about a dimension that reaches a value which its field refuses."""
    if kind in SECTIONS:
        return f"give one value: only single values below {path} can be searched"
    if kind == "int_from_float":
        return f"write {{int: [{round(dimension.low)}, {round(dimension.high)}]}}"
    if dimension.kind == "choice":
        return f"leave {json.dumps(value)} out of the choice"
    return "narrow the dimension to values that are allowed"


def _as_dimension(
    model: type[BaseModel], location: Sequence[str], path: str, kind: str, value: object
) -> str | None:
    """How to write what seems to be meant as a dimension; None where nothing does."""
    wants_section = kind in SECTIONS or _model_at(model, location) is not None
    if not isinstance(value, Mapping | list) or wants_section:
        return None
    if path.partition(".")[0] not in SEARCHED:
        if is_dimension(value):
            return "give one value: only those of trial and student can be searched"
        return None
    ends = _ends(value)
    if ends is None:
        return "a dimension is {float: [low, high]}, {int: [low, high]} or {choice: [a, b]}"
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in ends)
    if not numbers or len(ends) != 2 or ends[0] >= ends[1]:
        return f"a dimension is {{choice: {json.dumps(ends)}}}"
    whole = kind.startswith("int") and all(isinstance(v, int) for v in ends)
    return f"a dimension is {{{'int' if whole else 'float'}: {json.dumps(ends)}}}"


def _ends(value: Mapping[str, Any] | list[Any]) -> list[Any] | None:
    """The values that are listed, or given as the only list or pair of a mapping."""
    if isinstance(value, Mapping):
        found = list(value.values())
        value = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    plain = all(v is None or isinstance(v, str | int | float) for v in value)
    return list(value) if value and plain else None


def _near(model: type[BaseModel], location: Sequence[str], path: str) -> str:
    """The name that may be meant by an unknown one: beside it, or elsewhere in the experiment."""
    own, name = _model_at(model, location[:-1]), location[-1]
    known = sorted(own.model_fields) if own else []
    near = difflib.get_close_matches(name, known, n=1)
    section = f"{path.partition('.')[0]}."
    elsewhere = [place for place in _paths(Experiment) if place.rpartition(".")[2] == name]
    elsewhere.sort(key=lambda place: not place.startswith(section))
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere[:KEYS_SHOWN]))}?"
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a model and of those below it."""
    for name in model.model_fields:
        yield f"{prefix}{name}"
        inner = _model_at(model, [name])
        if inner is None and model is Experiment:
            inner = TREES.get(name)
        if inner is not None:
            yield from _paths(inner, f"{prefix}{name}.")


def _compact(value: object) -> object:
    """A section's own scalars, so that the message shows what was given and stays short."""
    if isinstance(value, Mapping):
        return {k: v for k, v in value.items() if not isinstance(v, Mapping | list)}
    return value


def _remedy(model: type[BaseModel], location: Sequence[str]) -> str | None:
    text = _field(model, location)
    return f"{location[-1]}: {text}" if text else None


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The nested model that a path of field names leads to."""
    current: type[BaseModel] | None = model
    for key in location:
        if key.isdigit():  # A place in a list of sections.
            continue
        if key in TASKS:
            current = TASKS[key]
            continue
        if current is None or key not in current.model_fields:
            return None
        annotation = current.model_fields[key].annotation
        options = getattr(annotation, "__args__", ()) or (annotation,)
        plain = [get_args(o)[0] if get_origin(o) is Annotated else o for o in options]
        current = next((o for o in plain if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return current


def _field(model: type[BaseModel], location: Sequence[str]) -> str | None:
    """The documentation of the field at a path."""
    if not location:
        return None
    owner = _model_at(model, location[:-1])
    if owner is None or location[-1] not in owner.model_fields:
        return None
    text = owner.model_fields[location[-1]].description
    return " ".join(text.split()).rstrip(".") if text else None
