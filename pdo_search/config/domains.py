"""The ``task`` section of every domain, by its ``kind``: a domain adds its own here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Tag

from pdo_search.config.fields import Frozen
from pdo_search.config.language import LANGUAGE, LanguageTaskConfig
from pdo_search.config.task import IMAGES, USER_TASK, TaskConfig, UserTaskConfig
from pdo_search.config.texts import TEXTS, TextTaskConfig

__all__ = ["KINDS", "SECTIONS", "AnyTaskConfig"]

KINDS = (IMAGES, TEXTS, LANGUAGE)
"""Kinds of the domains that are shipped."""
SECTIONS: Mapping[str, type[Frozen]] = {
    IMAGES: TaskConfig,
    TEXTS: TextTaskConfig,
    LANGUAGE: LanguageTaskConfig,
    USER_TASK: UserTaskConfig,
}
"""Models of the section, by the names that pydantic knows them by."""


def _tag_of(task: object) -> str:
    """Which of the tasks' models a section is of: by its kind."""
    kind = task.get("kind", IMAGES) if isinstance(task, dict) else getattr(task, "kind", IMAGES)
    if isinstance(kind, str) and ":" in kind:
        return USER_TASK
    return kind if kind in KINDS else IMAGES


def _of_known_kind(task: object) -> object:
    kind = task.get("kind", IMAGES) if isinstance(task, dict) else IMAGES
    if isinstance(kind, str) and ":" not in kind and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
        raise ValueError(f"kind {kind!r} is unknown: {hint} Or module:function, a task of your own")
    return task


_AnyTask = Annotated[
    Annotated[TaskConfig, Tag(IMAGES)]
    | Annotated[TextTaskConfig, Tag(TEXTS)]
    | Annotated[LanguageTaskConfig, Tag(LANGUAGE)]
    | Annotated[UserTaskConfig, Tag(USER_TASK)],
    Discriminator(_tag_of),
]
AnyTaskConfig = Annotated[_AnyTask, BeforeValidator(_of_known_kind)]
"""A task of one of the domains, by its ``kind``."""
