"""The `show` command: a sweep as a dictionary, and that dictionary on a screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pdo_search.results.ranking import finished, ranked
from pdo_search.results.schema import PARAM, Col, TrialStatus

if TYPE_CHECKING:
    from pdo_search.results.reader import Sweep

__all__ = ["print_sweep", "sweep_summary"]

SHOWN = 10
WIDTH_WITHOUT_TERMINAL = 110
COLUMNS = (
    Col.TRIAL_ID,
    Col.STATUS,
    Col.OBJECTIVE,
    Col.VAL_ACCURACY,
    Col.PARAMS,
    Col.FLOPS,
    Col.LATENCY_MS,
    Col.EPOCHS_DONE,
    Col.WALL_S,
)


def sweep_summary(sweep: Sweep) -> dict[str, Any]:
    """What `show` prints, JSON-able: ``counts``, ``teacher``, ``best``, ``leaderboard``, ``front``.

    ``teacher`` and ``best`` are None where there is none yet.
    """
    trials, mode = sweep.trials, sweep.info.mode
    counts = {
        status.value: int((trials[Col.STATUS] == status.value).sum()) for status in TrialStatus
    }
    done = finished(trials, mode)
    return {
        "name": sweep.info.name,
        "path": sweep.path,
        "metric": sweep.info.metric,
        "num_trials": sweep.info.num_trials,
        "counts": counts,
        "teacher": _teacher(trials),
        "best": None if done.empty else _best(done.iloc[0]),
        "leaderboard": [_entry(row) for _, row in ranked(trials, mode).head(SHOWN).iterrows()],
        "front": [] if done.empty else [_entry(row) for _, row in sweep.pareto().iterrows()],
    }


def _teacher(trials: Any) -> dict[str, Any] | None:
    known = trials.dropna(subset=[Col.TEACHER_PARAMS])
    if known.empty:
        return None
    row = known.iloc[0]
    return {
        Col.VAL_ACCURACY: _plain(row[Col.TEACHER_ACCURACY]),
        Col.PARAMS: _plain(row[Col.TEACHER_PARAMS]),
        Col.FLOPS: _plain(row[Col.TEACHER_FLOPS]),
        Col.LATENCY_MS: _plain(row[Col.TEACHER_LATENCY_MS]),
    }


def _best(row: Any) -> dict[str, Any]:
    names = (
        Col.COMPOSITE_MODE,
        Col.COMPOSITE_ACCURACY,
        Col.COMPOSITE_FLOPS,
        Col.MODEL,
        Col.COMPOSITE,
    )
    return {**_entry(row), **{name: _plain(row[name]) for name in names}}


def _entry(row: Any) -> dict[str, Any]:
    entry = {name: _plain(row[name]) for name in COLUMNS}
    params = {n.removeprefix(PARAM): _plain(row[n]) for n in row.index if n.startswith(PARAM)}
    return {**entry, "parameters": params}


def _plain(value: Any) -> Any:
    """A cell as JSON has it; missing ones are None."""
    value = value.item() if hasattr(value, "item") else value
    missing = value is None or value != value or type(value).__name__ == "NAType"
    return None if missing else value


def print_sweep(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print a summary: teacher, best student against it, leaderboard, front, counts."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL, file=console.file)
    counts = summary["counts"]
    always = ("finished", "stopped", "failed")
    shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n or status in always)
    console.print(
        f"\n{summary['name']}: {sum(counts.values())} of {summary['num_trials']} trials: {shown}"
    )
    teacher, best = summary["teacher"], summary["best"]
    if teacher:
        console.print(
            f"Teacher        val_accuracy {teacher['val_accuracy']:.4f}  {_count(teacher['params'])}"
            f" params  {_count(teacher['flops'])}FLOPs  {teacher['latency_ms']:.2f} ms"
        )
    if best and teacher:
        console.print(
            f"Best student   val_accuracy {best['val_accuracy']:.4f}  {_count(best['params'])} params"
            f" ({best['params'] / teacher['params']:.1%})  {_count(best['flops'])}FLOPs"
            f" ({best['flops'] / teacher['flops']:.1%})  {best['latency_ms']:.2f} ms  {best['trial_id']}"
        )
        if best["composite_mode"]:
            console.print(
                f"Its composite  val_accuracy {best['composite_accuracy']:.4f}  {best['composite_mode']}"
                f"  {_count(best['composite_flops'])}FLOPs"
                f" ({best['composite_flops'] / teacher['flops']:.1%})"
            )
    if not summary["leaderboard"]:
        console.print("No trial has finished or been stopped yet.")
        return
    console.print(_table("Leaderboard", summary["leaderboard"], summary["metric"]))
    if len(summary["front"]) > 1:
        console.print(
            _table(
                "Accuracy against FLOPs: not beaten in both", summary["front"], summary["metric"]
            )
        )
    if best:
        console.print(
            "The best of many validation scores is biased upwards; fresh seeds and the test split"
            " would confirm it."
        )


def _table(title: str, entries: list[dict[str, Any]], metric: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for name in ("trial", "status", metric, "params", "FLOPs", "ms", "epochs", "s"):
        table.add_column(
            name, justify="left" if name in ("trial", "status") else "right", no_wrap=True
        )
    table.add_column("parameters", overflow="fold", ratio=1)
    for entry in entries:
        table.add_row(
            entry["trial_id"],
            entry["status"],
            _fixed(entry["objective"], 4),
            _count(entry["params"]),
            _count(entry["flops"]),
            _fixed(entry["latency_ms"], 2),
            _fixed(entry["epochs_done"], 0),
            _fixed(entry["wall_s"], 0),
            Text(" ".join(f"{k}={_short(v)}" for k, v in entry["parameters"].items())),
        )
    return table


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _count(value: float | None) -> str:
    """A large number in three digits: 696k, 13.2M."""
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.0f}"
    power = min(int(math.log10(value) / 3), 4)
    scaled = value / 1000**power
    return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f}{'kMGT'[power - 1]}"
