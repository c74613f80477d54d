"""What `check` and `run` print of an experiment before it starts. Owns wording and layout."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from pdo_search.base.screen import screen
from pdo_search.base.sizes import shown_bytes
from pdo_search.distill.chance import (
    Standing,
)
from pdo_search.tasks.base import LeftOut

__all__ = ["print_check", "print_dropped", "print_examples", "print_left_out", "print_notes"]

CLASSES_SHOWN = 8
LEFT_OUT_SHOWN = 12


def print_check(found: dict[str, Any]) -> None:
    """Print what ``check_experiment`` found."""
    console = screen()
    task = found["task"]
    if "classes" in task:
        what = f"{task['classes']} classes, {'x'.join(map(str, task['input_shape']))}"
    else:
        what = ", ".join(f"{name} ({kind})" for name, kind in task["heads"].items())
    console.print(
        f"{found['name']}: {task['source']}, {what}",
        soft_wrap=True,
    )
    print_examples(task["examples"])
    print_left_out(task["left_out"])
    print_dropped(task["dropped"])
    table = Table()
    for name in ("model", "params", "MFLOPs", "of the teacher's FLOPs"):
        table.add_column(name, justify="left" if name == "model" else "right")
    rows = [("teacher", found["teacher"]), *(("student", s) for s in found["students"])]
    for role, row in rows:
        sizes = " ".join(f"{k} {row[k]}" for k in ("width", "depth") if row.get(k))
        if "params" not in row:
            table.add_row(f"{role} {row['arch']}", "", "", "")
            continue
        share = f"{row['flops_share']:.1%}" if "flops_share" in row else ""
        label = f"{role} {row['arch']} {sizes}".strip()
        table.add_row(label, f"{row['params']:,}", f"{row['flops'] / 1e6:.2f}", share)
    console.print(table)
    if "validation" in found["teacher"]:
        known = Standing(**found["teacher"]["validation"])
        console.print(f"Teacher as given: {known}", soft_wrap=True)
    print_notes(found["notes"])
    baselines = "".join(f" + {count} {name}" for name, count in found["baseline_trials"].items())
    console.print(
        f"{_of(len(found['dimensions']), 'dimension')},"
        f" {_of(found['num_trials'], 'trial')}{baselines}:"
        f" {', '.join(found['dimensions']) or 'no search'}",
        soft_wrap=True,
    )
    estimate = found["estimate"]
    ladder = ""
    if estimate["ladder_levels"]:
        ladder = (
            f"{_of(estimate['ladders'], 'ladder')} of up to"
            f" {_of(estimate['ladder_levels'], 'level')}, {_time(estimate['ladder_s'])} each, "
        )
    console.print(
        f"On one CPU, one trial at a time: teacher {_time(estimate['teacher_training_s'])}, its"
        f" outputs {_time(estimate['teacher_outputs_s'])}, {ladder}a whole trial"
        f" {_time(estimate['trial_s'])}, all trials {_time(estimate['all_trials_one_slot_s'])};"
        f" {_time(estimate['total_one_slot_s'])} in all, if no trial is stopped",
        soft_wrap=True,
    )
    stored = found["stored_outputs"]
    console.print(
        f"Teachers' outputs: {shown_bytes(stored['bytes_per_view'])} a view in the store, up to"
        f" {shown_bytes(stored['bytes_per_trial'])} for a trial, of"
        f" {_of(stored['teachers'], 'teacher')}; output.max_bank is"
        f" {shown_bytes(stored['max_bank'])}",
        soft_wrap=True,
    )


def print_examples(examples: dict[str, dict[str, int]]) -> None:
    """A line per split; of many classes the smallest and the largest."""
    for split, counts in examples.items():
        known = {name: count for name, count in counts.items() if count}
        said = [f"{name} {count:,}" for name, count in known.items()]
        if len(said) > CLASSES_SHOWN:
            classes = [name for name in known if name != "unlabelled"] or [*known]
            few, most = min(classes, key=known.__getitem__), max(classes, key=known.__getitem__)
            said = [
                f"{len(classes)} classes, from {known[few]:,} ({few}) to {known[most]:,} ({most})"
            ]
            if "unlabelled" in known:
                said.append(f"unlabelled {known['unlabelled']:,}")
        total = f"{sum(counts.values()):,}"
        screen().print(f"{split:<10} {total:>9}: {', '.join(said)}", soft_wrap=True)


def print_left_out(left_out: list[dict[str, Any]]) -> None:
    """A line per kind of files that are no examples; of many the first."""
    for one in left_out[:LEFT_OUT_SHOWN]:
        screen().print(f"Files: {LeftOut(**one)}", soft_wrap=True)
    if len(left_out) > LEFT_OUT_SHOWN:
        screen().print(f"Files: and {len(left_out) - LEFT_OUT_SHOWN} lines more, see check --json")


def print_dropped(dropped: dict[str, dict[str, int]]) -> None:
    """One line, if anything was left out of a split."""
    said = [
        f"{count:,} of {split} that {'is' if count == 1 else 'are'} in {holder}"
        for split, by_holder in dropped.items()
        for holder, count in by_holder.items()
    ]
    if said:
        screen().print(f"Left out, as copies: {', '.join(said)}", soft_wrap=True)


def print_notes(notes: list[str]) -> None:
    """A line each."""
    for note in notes:
        screen().print(note, soft_wrap=True)


def _of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    """Such as ``8 s``, ``12 min``, ``3.1 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
