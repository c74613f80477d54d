"""The hints of a trial: which states of which models, the maps that are learnt between them, and
the loss. What the kinds are is ``hints``.

A stage's teacher is run in every step, or its pooled states are read from the store. Maps between
widths belong to the optimizer and the checkpoint, and to no model.

Legend: B examples, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.base.seeds import seed_for
from pdo_search.config.recipe import HintConfig, Recipe
from pdo_search.distill.hints import HINTS
from pdo_search.distill.protocol import Worker
from pdo_search.distill.step import Updates
from pdo_search.distill.teaching import Teaching
from pdo_search.models.taps import Place, States, Taps, own_positions, places_in, states_of
from pdo_search.store.bank import Bank
from pdo_search.tasks.base import Batch, Task

__all__ = ["Hinting", "check_hints", "places_of", "stored_places"]


def places_of(task: Task, model: nn.Module) -> tuple[Place, ...]:
    """The places of a model of a task."""
    device = next(model.parameters()).device
    example = {name: tensor.to(device) for name, tensor in task.example().items()}
    return places_in(model, partial(task.forward, model, example))


def check_hints(task: Task, recipe: Recipe, teacher: nn.Module, student: nn.Module | None) -> None:
    """Refuse hints of places that a model does not have, or that do not fit each other.

    Args:
        task: whose models they are.
        recipe: of a trial.
        teacher: the full one.
        student: None where it is not known yet.

    Raises:
        InputError: names the hint and the places that there are.
    """
    if not recipe.loss.hints:
        return
    theirs, ours = places_of(task, teacher), None if student is None else places_of(task, student)
    for number, hint in enumerate(recipe.loss.hints):
        path = f"trial.loss.hints.{number}"
        there = _at(theirs, hint.teacher, f"{path}.teacher", "teacher")
        here = None if ours is None else _at(ours, hint.student, f"{path}.student", "student")
        if hint.at_positions and here is not None and here.positions != there.positions:
            raise InputError(
                f"compares every position, and the teacher's {there.name} has {there.positions} of"
                f" an example where the student's {here.name} has {here.positions}",
                path=path,
                value=hint.model_dump(include={"kind", "teacher", "student"}),
                remedy="name others, or take kind pooled, relation, or cosine without positions:"
                f" the teacher has {_listed(theirs)}; the student {_listed(ours or ())}",
            )


def _at(found: Sequence[Place], index: int, path: str, whose: str) -> Place:
    """The place of a number.

    Raises:
        InputError: there is none.
    """
    if -len(found) <= index < len(found):
        return found[index]
    raise InputError(
        f"the {whose} has {_listed(found)}" if found
        else f"the {whose} has neither layers of a transformer that is known here nor stages",
        path=path,
        value=index,
        remedy=f"take 0 to {len(found) - 1}, or -1 to {-len(found)} from the end" if found
        else "leave the hint out",
    )  # fmt: skip


def _listed(found: Sequence[Place]) -> str:
    return ", ".join(f"{k}: {p.name} ({p.positions} x {p.width})" for k, p in enumerate(found))


def stored_places(recipe: Recipe, found: Sequence[Place]) -> tuple[Place, ...]:
    """The places of a teacher whose pooled states a trial asks the store for; each once."""
    if recipe.teacher_outputs == "online":
        return ()
    wanted = {range(len(found))[hint.teacher] for hint in recipe.loss.hints}
    return tuple(found[index] for index in sorted(wanted))


class Hinting:
    """The hints of one trial.

    Args:
        recipe: names them.
        teaching: its pool and teachers.
        student: on the worker's device; listened to until ``close``.
        worker: the process that runs it.
        seed: of the maps' initial weights.
    """

    def __init__(
        self, recipe: Recipe, teaching: Teaching, student: nn.Module, worker: Worker, seed: int
    ) -> None:
        self._recipe = recipe
        self._hints: tuple[HintConfig, ...] = recipe.loss.hints
        self._teaching = teaching
        self._student = student
        self._worker = worker
        self._seed = seed
        self._maps: dict[str, nn.Linear] = {}
        self._through: dict[str, nn.Module] = {}
        self._ours: list[Place] = []
        self._theirs: list[Place] = []
        self._level: int | None = None
        self._bank: Bank | None = None
        self._teacher: nn.Module | None = None
        self._teacher_taps: Taps | None = None
        self._student_taps: Taps | None = None
        if self._hints:
            found = places_of(teaching.task, student)
            self._ours = [
                _at(found, hint.student, f"trial.loss.hints.{k}.student", "student")
                for k, hint in enumerate(self._hints)
            ]
            self._student_taps = Taps(student, [place.name for place in self._ours])

    @property
    def maps(self) -> dict[str, Tensor]:
        """Weights (D of the teacher, D of the student) of the maps that are learnt, by name, in the
        order in which the optimizer has them."""
        return {name: found.weight.detach() for name, found in self._maps.items()}

    def restore(self, maps: Mapping[str, Tensor], updates: Updates) -> None:
        """Take up the maps of a checkpoint; before its optimizer's state is loaded."""
        for name, weight in maps.items():
            self._add(name, weight.shape[1], weight.shape[0], updates)
            with torch.no_grad():
                self._maps[name].weight.copy_(weight)

    def begin(self, level: int | None, view: int, updates: Updates) -> None:
        """Begin an epoch that a level teaches on a view, or none.

        Raises:
            Infeasible: the level has no such places.
        """
        if not self._hints:
            return
        if level != self._level:
            self._leave_teacher()
            if level is not None:
                self._meet(level, updates)
            self._level = level
        if level is not None and self._recipe.teacher_outputs == "stored":
            self._bank = self._teaching.state_bank(level, view, self._theirs)

    def _meet(self, level: int, updates: Updates) -> None:
        """Find a level's places, listen to it if it is run, and make the maps to its widths."""
        model = self._teaching.ladder.model(level)
        found = places_of(self._teaching.task, model)
        for hint in self._hints:
            if not -len(found) <= hint.teacher < len(found):
                raise Infeasible(
                    f"level {level} has {len(found)} layers or stages, and a hint is of number"
                    f" {hint.teacher}"
                )
        self._theirs = [found[hint.teacher] for hint in self._hints]
        if self._recipe.teacher_outputs == "online":
            self._teacher = model
            self._teacher_taps = Taps(model, [place.name for place in self._theirs])
        for number, (hint, ours, theirs) in enumerate(
            zip(self._hints, self._ours, self._theirs, strict=True)
        ):
            name = _map_name(number, theirs.width)
            differ = HINTS[hint.kind].same_width and ours.width != theirs.width
            if differ and name not in self._maps:
                self._add(name, ours.width, theirs.width, updates)

    def _add(self, name: str, ours: int, theirs: int, updates: Updates) -> None:
        """A new map, the same on every rank, for the optimizer to train."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self._seed, "hint", name))
            made = nn.Linear(ours, theirs, bias=False)
        self._maps[name] = made.to(self._worker.device)
        self._through[name] = self._worker.wrap_model(self._maps[name])
        updates.add(self._maps[name])

    def loss(self, batch: Batch, rows: Tensor) -> Tensor:
        """The weighted sum of the hints, after teacher and student have run on a batch.

        Args:
            batch: prepared.
            rows: (B,) of the pool.
        """
        assert self._student_taps is not None
        seen = self._student_taps.take()
        own, their_own = own_positions(self._student, batch), None
        said: Mapping[str, Tensor] = {}
        if self._teacher is not None and self._teacher_taps is not None:
            said = self._teacher_taps.take()
            their_own = own_positions(self._teacher, batch)
        terms = []
        for number, (hint, ours, theirs) in enumerate(
            zip(self._hints, self._ours, self._theirs, strict=True)
        ):
            student = states_of(seen[ours.name], own)
            if self._bank is None:
                teacher = states_of(said[theirs.name], their_own)
                teacher = teacher if hint.at_positions else teacher.pooled()
            else:
                stored = self._bank.take(theirs.name, rows).to(self._worker.device)
                teacher = states_of(stored.values)
            student = student if hint.at_positions else student.pooled()
            through = self._through.get(_map_name(number, theirs.width))
            if through is not None:
                student = States(through(student.values), student.own)
            terms.append(hint.weight * self._apart(hint, student, teacher))
        return torch.stack(terms).sum()

    def _apart(self, hint: HintConfig, student: States, teacher: States) -> Tensor:
        """A hint over the whole batch, whose shares are on the ranks."""
        kind, count = HINTS[hint.kind], self._worker.world_size
        if not kind.over_batch or count == 1:
            return kind.apart(student, teacher)
        everyone = [States(self._gathered(states.values)) for states in (student, teacher)]
        found = kind.apart(*everyone)
        # A rank has the gradient of its own share alone, and the mean over ranks is taken of it.
        return found + (count - 1) * (found - found.detach())

    def _gathered(self, own: Tensor) -> Tensor:
        """The values of all ranks, one after the other; those of others without a gradient."""
        rank, count = self._worker.rank, self._worker.world_size
        room = own.new_zeros(count, *own.shape)
        room[rank] = own.detach() * count
        shares = list(self._worker.mean(room))
        shares[rank] = own
        return torch.cat(shares)

    def close(self) -> None:
        """Leave student and teacher as they were."""
        self._leave_teacher()
        if self._student_taps is not None:
            self._student_taps.close()

    def _leave_teacher(self) -> None:
        if self._teacher_taps is not None:
            self._teacher_taps.close()
        self._teacher, self._teacher_taps, self._bank, self._level = None, None, None, None


def _map_name(number: int, width: int) -> str:
    """Of a hint's map to states of a width: levels of one width share it."""
    return f"{number}.{width}"
