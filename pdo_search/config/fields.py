"""What every model of the experiment file is made of: the frozen base and the common fields.

Knows no section of the file.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from pdo_search.base.sizes import SIZE_REMEDY, bytes_of

__all__ = [
    "Bytes",
    "Fraction",
    "Frozen",
    "Given",
    "Name",
    "Seconds",
    "Seed",
    "Weight",
]


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}


class Frozen(BaseModel):
    """Immutable, no unknown keys, no NaN; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic takes true for 1."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise ValueError(f"{str(value).lower()} is no number")
        return value


def _seconds(value: object) -> object:
    """``90``, ``"90s"``, ``"20m"``, ``"1.5h"`` as seconds; anything else is left to fail."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if not match:
            raise ValueError("a duration is a number with s, m, h or d, such as 20m")
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    return value


def _size(value: object) -> object:
    """``500MB`` as bytes; a number, or anything else, is left to succeed or fail as it is."""
    if not isinstance(value, str):
        return value
    try:
        return bytes_of(value)
    except ValueError as error:
        raise ValueError(f"{error}: {SIZE_REMEDY}") from None


def _name(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("a name is 1 to 64 letters, digits, '_', '.' or '-'; it names a directory")
    return value


def _home(value: object) -> object:
    """A path with the home directory in the place of ``~``."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("is no path")
    path = os.path.expanduser(value)
    if path.startswith("~"):
        raise ValueError(f"the home directory {path.partition('/')[0]} is not known")
    return path


Given = Annotated[str, BeforeValidator(_home)]
"""A path or URI that a user gave."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
"""What a column of whole numbers holds."""
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Name = Annotated[str, BeforeValidator(_name)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
