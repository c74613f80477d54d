"""What a sweep will do to a model is tried before it is trained: it is stored, loaded, pruned."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pdo_search.config.schema import ModelConfig, Recipe, TrialConfig
from pdo_search.distill.prune import drop_blocks, droppable_blocks, prune_channels
from pdo_search.distill.stage import plan_stages
from pdo_search.errors import Infeasible, InputError
from pdo_search.tasks.base import Task
from pdo_search.tasks.modelfile import ModelSpec, load_for, save_model

__all__ = ["Removal", "rehearse", "rehearse_pruning", "removal_of", "shrinking_of"]

MOST_LEVELS = 3
"""Teachers below the full one that are tried: what fails does so at once."""
FREELY = 0.5
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Removal:
    """What a trial removes from the teacher, level by level.

    Attributes:
        path: of the ratio, for messages.
        ratio: share of channels.
        round_to: channel counts become a multiple of it.
        blocks: whole blocks.
        levels: how often it is done.
        timeout_s: longest time for one pruning, seconds.
    """

    path: str
    ratio: float
    round_to: int
    blocks: int
    levels: int
    timeout_s: float


def removal_of(recipe: Recipe) -> Removal | None:
    """What a recipe's ladder removes; None where it has no level below the full teacher."""
    levels = max((stage.rung or 0 for stage in plan_stages(recipe)), default=0)
    if recipe.composite is not None:
        levels = max(levels, recipe.num_stages)
    simplify = recipe.simplify
    if levels == 0 or (recipe.prune_ratio == 0 and simplify.drop_blocks == 0):
        return None
    return Removal(
        "trial.prune_ratio",
        recipe.prune_ratio,
        simplify.round_to,
        simplify.drop_blocks,
        min(levels, MOST_LEVELS),
        simplify.timeout,
    )


def shrinking_of(trial: TrialConfig) -> Removal | None:
    """What a student that is cut from the teacher removes; None of any other student."""
    if trial.student.shrink is None:
        return None
    simplify = trial.recipe.simplify
    return Removal(
        "student.shrink", trial.student.shrink, simplify.round_to, 0, 1, simplify.timeout
    )


def rehearse(
    task: Task, model: nn.Module, config: ModelConfig, path: str, base_dir: Path | None
) -> None:
    """Store and load a model.

    Args:
        task: whose inputs it takes.
        model: left as it is.
        config: how it was built.
        path: where it stands in the experiment, for messages.
        base_dir: folder that factories refer to.

    Raises:
        InputError: what is loaded is not what was stored.
    """
    with tempfile.TemporaryDirectory(prefix="pdo-rehearsal-") as folder:
        try:
            _stored(task, model, ModelSpec.of(task, config, model), Path(folder), base_dir)
        except _Differs as error:
            raise InputError(
                f"a stored model does not come back: {error}",
                path=f"{path}.arch",
                value=config.arch,
                remedy="keep all that its outputs depend on in parameters and buffers, and build it"
                " alike at every call",
            ) from None


def rehearse_pruning(
    task: Task,
    teacher: nn.Module,
    config: ModelConfig,
    removals: list[Removal],
    base_dir: Path | None,
) -> list[str]:
    """Prune a teacher as trials will do, at every ratio given.

    Args:
        task: whose inputs it takes.
        teacher: left as it is.
        config: how it was built.
        removals: what is removed; the largest is done level by level, the others once.
        base_dir: folder that factories refer to.

    Returns:
        Lines about what may not be meant.

    Raises:
        InputError: it cannot be pruned, by any of the ratios.
    """
    said, failed = [], []
    changed = False
    with tempfile.TemporaryDirectory(prefix="pdo-rehearsal-") as folder:
        whole = Path(folder) / "whole"
        save_model(whole, teacher, ModelSpec.of(task, config, teacher))
        largest = max((r.ratio for r in removals), default=0.0)
        for number, removal in enumerate(removals):
            levels = removal.levels if removal.ratio == largest else 1
            try:
                changed |= _descend(
                    task, whole, Path(folder) / str(number), removal, levels, base_dir
                )
            except (_Differs, Infeasible, InputError) as error:
                problem = error.problem if isinstance(error, InputError) else str(error)
                failed.append((removal, problem))
        if removals and not failed and not changed:
            free = replace(removals[0], ratio=FREELY, round_to=1)
            if not _descend(task, whole, Path(folder) / "free", free, 1, base_dir):
                failed = [(r, "no layer of it could lose channels") for r in removals]
            else:
                said.append(
                    f"teacher: none of its layers is wide enough to lose channels by"
                    f" {removals[-1].path} {largest:g} in steps of {removals[-1].round_to}; all"
                    " teachers of a trial are the full one"
                )
    if failed and len(failed) == len(removals):
        removal, problem = failed[-1]
        raise InputError(
            f"the teacher cannot be pruned by {removal.ratio:g}: {problem}",
            path=removal.path,
            value=removal.ratio,
            remedy=_remedy(task, teacher, removal),
        )
    said += [
        f"the teacher cannot be pruned by {removal.ratio:g}, and such trials will be infeasible:"
        f" {problem}"
        for removal, problem in failed
    ]
    return [f"Warning: {line}" for line in said]


def _remedy(task: Task, teacher: nn.Module, removal: Removal) -> str:
    if removal.path != "trial.prune_ratio":
        return "name an architecture for the student, or another teacher"
    off = "set `trial.prune_ratio: 0`, where all stages have the full teacher"
    blocks = droppable_blocks(teacher, torch.zeros(1, *task.input_shape))
    if blocks and removal.blocks == 0:
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
    parent = whole
    example = torch.zeros(1, *task.input_shape)
    for level in range(levels):
        model, spec = load_for(task, parent, base_dir)
        before = _size(model)
        prune_channels(model, example, removal.ratio, removal.round_to, timeout_s=removal.timeout_s)
        dropped = drop_blocks(model, example, removal.blocks)
        if _size(model) == before:
            return level > 0
        parent = folder / str(level)
        spec = replace(spec, dropped_blocks=(*spec.dropped_blocks, *dropped))
        _stored(task, model, spec, parent, base_dir)
    return True


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _stored(
    task: Task, model: nn.Module, spec: ModelSpec, folder: Path, base_dir: Path | None
) -> None:
    """Store a model, load it, and compare its outputs with those of what is loaded.

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
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, *task.input_shape, generator=generator)
    was_training = model.training
    with torch.inference_mode():
        expected, found = model.eval()(pictures), loaded.eval()(pictures)
    model.train(was_training)
    if not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
        gap = (expected - found).abs().max().item()
        raise _Differs(f"its outputs differ by {gap:.2g} from those of what was stored")
