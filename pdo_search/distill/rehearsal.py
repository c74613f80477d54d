"""What a sweep will do to a model is tried before it is trained: it is stored, loaded, pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from pdo_search.base.errors import Infeasible, InputError
from pdo_search.base.scratch import scratch_folder
from pdo_search.config.keep import Amount, keep_of
from pdo_search.config.model import ModelConfig
from pdo_search.config.recipe import Recipe, SimplifyConfig
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.execution import threads
from pdo_search.distill.simplify import cut, simplified
from pdo_search.distill.stage import num_levels
from pdo_search.models.modelfile import ModelSpec, load_for, save_model
from pdo_search.models.prune import droppable_blocks, pixels_of
from pdo_search.tasks.base import Split, Task

__all__ = ["Removal", "rehearse", "removal_of", "shrinking_of"]

MOST_LEVELS = 3
"""Teachers below the full one that are tried: what fails does so at once."""
FREELY = 0.5
CPU = torch.device("cpu")
EXAMPLES = 2
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Removal:
    """What a trial removes from the teacher, level by level.

    Attributes:
        path: of what says so, for messages.
        ratio: share of channels, or of a transformer's attention heads and neurons.
        simplify: blocks or layers, rounding, longest time.
        levels: how often it is done.
        keep: of a student that is cut from the teacher, what stays, by unit.
    """

    path: str
    ratio: float
    simplify: SimplifyConfig
    levels: int
    keep: tuple[tuple[str, Amount], ...] = ()

    @property
    def amount(self) -> float | dict[str, float]:
        """The share that is removed; of a student with ``keep`` what stays."""
        if self.ratio or not self.keep:
            return self.ratio
        return {u: float(n) if isinstance(n, Fraction) else n for u, n in self.keep}

    def __str__(self) -> str:
        return f"{self.path} {self.amount}"


def removal_of(recipe: Recipe) -> Removal | None:
    """What a recipe's ladder removes; None where it has no level below the full teacher."""
    levels, simplify = num_levels(recipe), recipe.simplify
    if levels == 0:
        return None
    return Removal("trial.prune_ratio", recipe.prune_ratio, simplify, min(levels, MOST_LEVELS))


def shrinking_of(trial: TrialConfig) -> Removal | None:
    """What a student that is cut from the teacher removes; None of any other student."""
    student = trial.student
    if not student.is_cut:
        return None
    path = "student.keep" if student.shrink is None else "student.shrink"
    keep = tuple(keep_of(student).items())
    return Removal(path, student.shrink or 0.0, trial.recipe.simplify, 1, keep)


def rehearse(
    task: Task,
    model: nn.Module,
    config: ModelConfig,
    path: str,
    base_dir: Path | None,
    removals: Sequence[Removal] = (),
) -> list[str]:
    """Store and load a model, and prune it as trials will do.

    Args:
        task: whose inputs it takes.
        model: left as it is.
        config: how it was built.
        path: where it stands in the experiment, for messages.
        base_dir: folder that factories refer to.
        removals: what is removed of a teacher; the largest is done level by level, others once.

    Returns:
        Lines about what may not be meant.

    Raises:
        InputError: what is loaded is not what was stored; or it cannot be pruned by any ratio.
    """
    with scratch_folder("rehearsal") as scratch, threads(1):
        whole = scratch / "whole"
        try:
            _stored(task, model, ModelSpec.of(task, config, model), whole, base_dir)
        except _Differs as error:
            raise InputError(
                f"a stored model does not come back: {error}",
                path=f"{path}.arch",
                value=config.arch,
                remedy="keep all that its outputs depend on in parameters and buffers, and build it"
                " alike at every call",
            ) from None
        return _pruned(task, model, whole, removals, base_dir)


def _pruned(
    task: Task, model: nn.Module, whole: Path, removals: Sequence[Removal], base_dir: Path | None
) -> list[str]:
    """Lines about the pruning of a stored model.

    Raises:
        InputError: it cannot be pruned.
    """
    failed: list[tuple[Removal, str]] = []
    changed = False
    largest = max((r.ratio for r in removals), default=0.0)
    for number, removal in enumerate(removals):
        levels = removal.levels if removal.ratio == largest else 1
        try:
            changed |= _descend(
                task, whole, whole.with_name(str(number)), removal, levels, base_dir
            )
        except (_Differs, Infeasible) as error:
            failed.append((removal, str(error)))
    said = []
    if removals and not failed and not changed:
        if _can_lose(task, whole, removals[-1], base_dir):
            said.append(
                f"no layer of the teacher is wide enough to lose channels by {removals[-1].path}"
                f" {largest:g} in steps of {removals[-1].simplify.round_to}: all teachers are the"
                " full one"
            )
        else:
            why = "no layer of it can lose channels; those of attention and of the head are fixed"
            failed = [(removal, why) for removal in removals]
    if failed and len(failed) == len(removals):
        removal, problem = failed[-1]
        raise InputError(
            f"the teacher cannot be pruned: {problem}",
            path=removal.path,
            value=removal.amount,
            remedy=_remedy(task, model, removal),
        )
    said += [f"trials with {r} will be infeasible: {p}" for r, p in failed]
    return [f"Warning: {line}" for line in said]


def _can_lose(task: Task, whole: Path, removal: Removal, base_dir: Path | None) -> bool:
    """Whether a larger ratio, in the smallest steps, would remove something."""
    small = removal.simplify.model_copy(update={"round_to": 1})
    free = replace(removal, ratio=FREELY, simplify=small)
    try:
        return _descend(task, whole, whole.with_name("free"), free, 1, base_dir)
    except (_Differs, Infeasible):
        return False


def _remedy(task: Task, teacher: nn.Module, removal: Removal) -> str:
    if removal.path != "trial.prune_ratio":
        return "name an architecture for the student, or another teacher"
    off = "set `trial.prune_ratio: 0`, where all stages have the full teacher"
    try:
        blocks = droppable_blocks(teacher, pixels_of(task.example()))
    except Infeasible:
        blocks = []
    if blocks and removal.simplify.drop_blocks == 0:
        off += " (with `trial.simplify: {drop_blocks: 1}` each loses a block)"
    return f"{off}, or choose another teacher"


class _Differs(Exception):
    """What was loaded is not what was stored."""


def _descend(
    task: Task, whole: Path, folder: Path, removal: Removal, levels: int, base_dir: Path | None
) -> bool:
    """Remove from a stored teacher, store, load, and so on; whether anything was removed.

    Raises:
        Infeasible: it cannot be pruned.
        InputError: it cannot be loaded.
        _Differs: what is loaded is another model.
    """
    model, spec = load_for(task, whole, base_dir)
    for level in range(levels):
        before = _size(model)
        if removal.keep:
            dropped = cut(task, model, dict(removal.keep), removal.simplify, None)
        else:
            model, dropped = simplified(
                task, model, removal.ratio, removal.simplify, device=CPU, calibration=None
            )
        spec = replace(spec, dropped_blocks=(*spec.dropped_blocks, *dropped))
        if _size(model) == before:
            return level > 0
        model = _stored(task, model, spec, folder / str(level), base_dir)
    return True


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _stored(
    task: Task, model: nn.Module, spec: ModelSpec, folder: Path, base_dir: Path | None
) -> nn.Module:
    """Store a model, load it, and compare its outputs with those of what is loaded, which it gives.

    Raises:
        _Differs: they are others, or it cannot be loaded.
    """
    try:
        save_model(folder, model, spec)
        loaded, _ = load_for(task, folder, base_dir)
    except InputError as error:
        raise _Differs(error.problem) from error
    except (RuntimeError, ValueError) as error:
        raise _Differs(str(error).splitlines()[0]) from error
    examples = task.examples(Split.TRAIN)
    batch = examples.batch(torch.arange(EXAMPLES) % len(examples))
    batch |= task.prepare(batch)
    was_training = model.training
    with torch.inference_mode():
        expected = task.forward(model.eval(), batch)
        found = task.forward(loaded.eval(), batch)
    model.train(was_training)
    for head, own in expected.items():
        if not torch.allclose(own, found[head], rtol=TOLERANCE, atol=TOLERANCE):
            gap = (own - found[head]).abs().max().item()
            raise _Differs(f"its outputs differ by {gap:.2g} from those of what was stored")
    return loaded.train(was_training)
