"""Teachers' outputs in the store: how many bytes they take, and whether they may be kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.base.sizes import shown_bytes
from pdo_search.cli.estimate import trials_at_ends
from pdo_search.config.load import Loaded
from pdo_search.config.recipe import Recipe
from pdo_search.config.resolve import resolve
from pdo_search.config.run import OutputConfig
from pdo_search.config.space import is_dimension
from pdo_search.distill.stage import num_levels
from pdo_search.distill.teaching import bytes_of_outputs, planned_views
from pdo_search.store import Store
from pdo_search.store.shelf import LocalShelf
from pdo_search.tasks.base import Split, Task

__all__ = ["StoredOutputs", "stored_outputs"]

FREE_SHARE = 0.25


@dataclass(frozen=True)
class StoredOutputs:
    """Bytes of teachers' outputs.

    Attributes:
        bytes_per_view: of one teacher on a view of what it is asked about.
        bytes_per_trial: of all that one trial may ask for.
        teachers: how many teachers that trial has stored outputs of.
        max_bank: most bytes that a trial may ask for.
    """

    bytes_per_view: int
    bytes_per_trial: int
    teachers: int
    max_bank: int


class _Asked:
    """What recipes ask a store to keep of a task's teachers."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @cached_property
    def view(self) -> int:
        """Bytes of a view of the pool."""
        return bytes_of_outputs(self._task)

    @cached_property
    def _splits(self) -> dict[Split, int]:
        splits = (Split.TRAIN, Split.TRANSFER, Split.VALIDATION)
        return {split: bytes_of_outputs(self._task, [split]) for split in splits}

    def views(self, recipe: Recipe) -> set[tuple[int, int]]:
        """Levels and views of the pool; levels that are all alike are one."""
        planned = planned_views(recipe, recipe.num_views if self._task.varies else 1)
        alike = num_levels(recipe) == 0
        return {(0 if alike else lv, view) for lv, views in planned.items() for view in views}

    def nbytes(self, recipe: Recipe) -> int:
        """Bytes of all that a trial asks for."""
        total = self.view * len(self.views(recipe)) + self._splits[Split.VALIDATION]
        if recipe.composite is not None:
            wanted = [Split.TRANSFER, Split.VALIDATION]
            wanted += [Split.TRAIN] if recipe.composite.finetune_epochs else []
            total += sum(self._splits[split] for split in wanted)
        return total


def stored_outputs(loaded: Loaded, task: Task) -> StoredOutputs:
    """What the trial that asks for most has the store keep.

    Raises:
        InputError: it is more than ``output.max_bank``; names what makes it fit.
    """
    asked = _Asked(task)
    recipe = max(_recipes(loaded), key=asked.nbytes)
    found = StoredOutputs(
        asked.view,
        asked.nbytes(recipe),
        len({level for level, _ in asked.views(recipe)} | {0}),
        _max_bank(loaded.experiment.output),
    )
    if found.bytes_per_trial > found.max_bank:
        raise _too_large(loaded, asked, recipe, found)
    return found


def _too_large(loaded: Loaded, asked: _Asked, recipe: Recipe, found: StoredOutputs) -> InputError:
    remedies = [
        *_fewer_views(loaded, asked, recipe, found.max_bank),
        *_online(asked, recipe, found.max_bank),
        f"output.max_bank: {math.ceil(found.bytes_per_trial / 1e6)}MB, if there is room for them",
    ]
    limit = shown_bytes(found.max_bank)
    what = limit if loaded.experiment.output.max_bank else f"{limit}, a quarter of what is free"
    return InputError(
        f"teachers' outputs take up to {shown_bytes(found.bytes_per_trial)} in the store for a"
        f" trial ({shown_bytes(found.bytes_per_view)} a view of each of {found.teachers} teachers),"
        f" and this is {what}",
        file=loaded.file,
        path="output.max_bank",
        remedy=f"set {'; or '.join(remedies)}",
    )


def _recipes(loaded: Loaded) -> Iterator[Recipe]:
    """Recipes at the ends of the dimensions, and at all high ends at once."""
    for trial in trials_at_ends(loaded, ""):
        yield trial.recipe
    experiment = loaded.experiment
    for method in (experiment.method, *experiment.search.baselines):
        try:
            yield resolve(experiment, {d.path: d.ends()[-1] for d in loaded.space}, method).recipe
        except Infeasible:
            continue


def _max_bank(output: OutputConfig) -> int:
    """As configured; or a quarter of what is free, kept outputs counted as free."""
    if output.max_bank is not None:
        return output.max_bank
    root = Store(output.store_root).root.absolute()
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    kept = sum(e.bytes for e in LocalShelf(root).entries() if e.place.kind == "bank")
    return int(FREE_SHARE * (shutil.disk_usage(there).free + kept))


def _fewer_views(loaded: Loaded, asked: _Asked, recipe: Recipe, most: int) -> list[str]:
    """The most views with which they fit, if any."""
    for views in range(len({view for _, view in asked.views(recipe)}) - 1, 0, -1):
        if asked.nbytes(recipe.model_copy(update={"num_views": views})) <= most:
            searched = is_dimension(loaded.experiment.trial.get("num_views"))
            return [f"trial.num_views: {f'{{int: [1, {views}]}}' if searched else views}"]
    return []


def _online(asked: _Asked, recipe: Recipe, most: int) -> list[str]:
    """Teachers that run in every step, if what is stored even then fits."""
    fits = asked.nbytes(recipe.model_copy(update={"teacher_outputs": "online"})) <= most
    return ["trial.teacher_outputs: online"] if fits else []
