"""Whether what is stored of a large head says enough of a teacher at the temperatures asked for.

Of a vocabulary the largest outputs are stored, and the mass of all others, at one level. The higher
the temperature, the more of the teacher's probability is in these others, and nothing of how it is
spread among them is taught. Knows no file and no search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.config.recipe import Recipe
from pdo_search.distill.evaluate import outputs_of
from pdo_search.distill.teaching import stored_heads
from pdo_search.store.encoding import Sampled, Top
from pdo_search.tasks.base import Head, Split, Task
from pdo_search.tasks.kinds import mask_of_head

__all__ = ["lost_share", "refuse_lost_tail"]

EXAMPLES = 32
"""Validation examples that a quick look takes."""
MOST_LOST = 0.5
"""Largest share of a teacher's probability that may be at one level."""
MOST_UNSEEN = 2.0
"""Highest temperature where the teacher is still to be trained, and nothing can be measured."""
LOWER = (4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5)
"""Temperatures that are proposed."""


@dataclass(frozen=True)
class _Asked:
    """A head of which the largest outputs are stored, and the highest temperature."""

    head: Head
    kept: int
    temperature: float

    def refused(self, problem: str, remedy: str) -> InputError:
        """The error about it."""
        return InputError(
            f"of the {self.head.size:,} outputs of head {self.head.name!r} the {self.kept:,}"
            f" largest are stored, and {problem}",
            path="trial.temperature",
            value=self.temperature,
            remedy=remedy,
        )


def refuse_lost_tail(task: Task, recipes: Sequence[Recipe], teacher: nn.Module | None) -> None:
    """Refuse temperatures at which what is stored of a vocabulary says too little.

    Args:
        task: says what is stored.
        recipes: at the ends of the search's dimensions.
        teacher: on the CPU, whose outputs are looked at; None of one that is still to be trained.

    Raises:
        InputError: they are too high; or classes are drawn at temperature 1, and another one is
            asked for.
    """
    stored = [r for r in recipes if r.teacher_outputs == "stored" and r.method != "scratch"]
    temperatures = [t for r in stored for t in (r.temperature, r.temperature_end) if t is not None]
    if not temperatures:
        return
    heads = stored_heads(task)
    for head in task.heads:
        kept = heads[head.name].kept
        if isinstance(kept, Sampled):
            _refuse_other_temperatures(head, temperatures)
        elif isinstance(kept, Top) and head.tied is not None:
            _refuse_highest(task, _Asked(head, kept.classes, max(temperatures)), teacher)


def _refuse_other_temperatures(head: Head, temperatures: Sequence[float]) -> None:
    """Refuse a temperature that outputs were not drawn at.

    Raises:
        InputError: there is one.
    """
    wrong = [temperature for temperature in temperatures if temperature != 1]
    if wrong:
        raise InputError(
            f"outputs of head {head.name!r} are drawn by the teacher's probabilities at temperature"
            " 1, and serve no other",
            path="trial.temperature",
            value=wrong[0],
            remedy="write trial.temperature: 1.0, without temperature_end; or store the largest"
            " outputs",
        )


def _refuse_highest(task: Task, asked: _Asked, teacher: nn.Module | None) -> None:
    """Refuse the highest temperature, if too much is lost at it.

    Raises:
        InputError: it is.
    """
    online = "or let the teacher run beside the student: trial.teacher_outputs: online"
    if teacher is None:
        if asked.temperature > MOST_UNSEEN:
            raise asked.refused(
                "a teacher that is still to be trained may have most of its probability in the"
                f" others at temperatures above {MOST_UNSEEN:g}",
                f"keep trial.temperature at {MOST_UNSEEN:g} or below; {online}",
            )
        return
    lost = lost_share(task, teacher, asked.head, asked.kept, asked.temperature)
    if lost <= MOST_LOST:
        return
    lower = next(
        (
            t
            for t in LOWER
            if t < asked.temperature
            and lost_share(task, teacher, asked.head, asked.kept, t) <= MOST_LOST
        ),
        None,
    )
    first = f"keep trial.temperature at {lower:g} or below; {online}" if lower else online[3:]
    raise asked.refused(
        f"{100 * lost:.0f}% of the teacher's probability is in the others at temperature"
        f" {asked.temperature:g}",
        first,
    )


@torch.inference_mode()
def lost_share(task: Task, model: nn.Module, head: Head, kept: int, temperature: float) -> float:
    """Mean share of a model's probability that is in none of the largest outputs.

    Args:
        task: gives validation examples, the same ones each time.
        model: on the CPU; left as it is.
        head: categorical.
        kept: how many outputs are the largest.
        temperature: of the softmax.
    """
    examples = task.examples(Split.VALIDATION)
    picked = torch.linspace(0, len(examples) - 1, min(EXAMPLES, len(examples))).long()
    shares = []
    for _, batch, outputs in outputs_of(task, model, examples.select(picked), torch.device("cpu")):
        found = (outputs[head.name] / temperature).softmax(dim=-1)
        lost = 1 - found.topk(kept, dim=-1).values.sum(dim=-1)
        mask = mask_of_head(head, batch)
        shares.append(lost.flatten() if mask is None else lost[mask])
    return torch.cat(shares).mean().item()
