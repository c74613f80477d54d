"""A sweep on a screen: its state, and its tables.

Owns wording and layout. What is in the dictionary is computed in ``analysis.summary``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pdo_search.analysis.answer import percent
from pdo_search.analysis.pareto import STUDENT
from pdo_search.base.screen import plain_text, screen
from pdo_search.cli.cells import (
    GAP,
    column_width,
    count,
    duration,
    empty_table,
    fitted,
    fixed_point,
    milliseconds,
    narrowed,
    short,
    short_names,
)
from pdo_search.cli.confirmation import CAUSES_SHOWN, WIDTH_WITHOUT_TERMINAL, print_confirmation
from pdo_search.config.methods import METHODS, fixed
from pdo_search.results.schema import Col, TrialStatus

__all__ = ["print_sweep"]

LATENCY = 4
"""Place of the column that the comparison with the teacher leaves out first."""
UNFINISHED = (TrialStatus.RUNNING, TrialStatus.INTERRUPTED, TrialStatus.PAUSED)


def print_sweep(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a summary.

    Args:
        summary: from ``sweep_summary``.
        console: where to; by default standard output, 100 columns wide where that is no terminal.
    """
    console = console or screen(WIDTH_WITHOUT_TERMINAL)
    for line in _header(summary):
        console.print(plain_text(line), soft_wrap=True)
    if summary["running"]:
        console.print()
        console.print(_running(summary["running"]))
    if summary["teacher"]:
        console.print()
        console.print(_comparison(summary, console.width))
    if summary["baselines"] and any(method["best"] for method in summary["methods"]):
        console.print()
        console.print(_methods(summary, console.width))
    if summary["leaderboard"]:
        console.print()
        console.print(_leaderboard(summary, console.width))
    else:
        console.print("No trial has reported an epoch yet.")
    if len(summary["front"]) > 1:
        console.print()
        methods, width = bool(summary["baselines"]), console.width
        console.print(_front(summary["front"], summary["primary"], width, methods=methods))
    if summary["importance"]:
        console.print()
        console.print(_mattered(summary["importance"]))
    if summary["best"]:
        console.print()
        console.print(plain_text(_named(summary["best"])))
    if summary["confirmation"]:
        console.print()
        print_confirmation(summary["confirmation"], console)
    if summary["note"]:
        console.print(plain_text(f"Note: {summary['note']}."), soft_wrap=True)


def _named(best: Mapping[str, Any]) -> str:
    """The best trial, its method, and the parameters that have an effect on it."""
    method = best[Col.METHOD]
    idle = fixed(method) if method in METHODS else {}
    pairs = ", ".join(
        f"{path}={short(value)}"
        for path, value in best["parameters"].items()
        if path.partition(".")[0] not in idle
    )
    return f"Best: {best[Col.TRIAL_ID]} ({method}) with {pairs or 'no parameters'}"


def _header(summary: Mapping[str, Any]) -> Iterable[str]:
    task = " on ".join(v for v in summary["task"].values() if v)
    yield f"{summary['name']}: {task}" if task else f"{summary['name']}"
    counts = summary["counts"]
    always = (TrialStatus.FINISHED.value, TrialStatus.STOPPED.value, TrialStatus.FAILED.value)
    shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n or status in always)
    asked = summary["num_trials"] + sum(summary["baselines"].values())
    planned = summary["possible_trials"]
    yield f"{sum(counts.values())} of {planned} trials: {shown}"
    if planned < asked:
        yield f"  {asked} were asked for: there are no more points to try"
    if summary["baselines"]:
        started = (f"{m['trials']} {m['method']}" for m in summary["methods"])
        yield f"  by method: {', '.join(started)}"
    for found in summary["causes"][:CAUSES_SHOWN]:
        yield f"  {found['count']} {found['status']}: {found['cause']}"
    yield from _state(summary)


def _state(summary: Mapping[str, Any]) -> Iterable[str]:
    """Whether somebody runs the sweep, and how to go on where nobody does."""
    counts, resume = summary["counts"], f"pdo-search resume {summary['path']}"
    if summary["alive"]:
        yield f"  {summary['driver']}: figures change, and nothing is decided yet"
    elif summary["driver"]:
        yield f"  {summary['driver']} with {resume}"
    elif any(counts[status.value] for status in UNFINISHED):
        yield f"  go on with: {resume}"


def _running(trials: Sequence[Mapping[str, Any]]) -> Table:
    """What runs: where each trial stands, and what it does."""
    table = empty_table("trial", "method", "attempt", "epoch", "")
    table.title = "Running"
    for trial in trials:
        of = "" if trial["epochs"] is None else f" of {trial['epochs']}"
        cells = (trial[Col.TRIAL_ID], trial[Col.METHOD], fixed_point(trial[Col.ATTEMPT], 0))
        table.add_row(*map(plain_text, (*cells, f"{trial['epoch']}{of}", trial["doing"])))
    return table


def _comparison(summary: Mapping[str, Any], width: int) -> Table:
    """Teacher, best student and composite, one below the other; latency only where it fits."""
    teacher, best, composite = summary["teacher"], summary["best"], summary["composite"]
    rows = [("Teacher", _cost(teacher, {}, summary["primary"]), teacher["arch"] or "")]
    if best:
        whose = f"{best[Col.TRIAL_ID]} {best[Col.METHOD]}"
        rows.append(
            ("Best student", _cost(best, best["against_teacher"], summary["primary"]), whose)
        )
    if composite:
        own = best and best[Col.TRIAL_ID] == composite[Col.TRIAL_ID]
        how = composite[Col.MODE]
        if composite[Col.DEFERRED] is not None and how == "cascade":
            how += f", defers {percent(composite[Col.DEFERRED])}"
        rows.append(
            (
                "Its composite" if own else "Best composite",
                _cost(composite, composite["against_teacher"], summary["primary"]),
                how if own else f"{composite[Col.TRIAL_ID]} {how}",
            )
        )
    columns = ["", summary["primary"], "params", "FLOPs", "latency", ""]
    lines = [[name, *cells, remark] for name, cells, remark in rows]
    needed = [column_width(name, column) for name, *column in zip(columns, *lines, strict=True)]
    shown = [at for at in range(len(columns)) if at != LATENCY or sum(needed) - GAP <= width]
    table = empty_table(*(columns[at] for at in shown))
    table.columns[-1].no_wrap = False
    for line in lines:
        table.add_row(*(plain_text(line[at]) for at in shown))
    return table


def _cost(model: Mapping[str, Any], shares: Mapping[str, float | None], primary: str) -> list[str]:
    latency = model.get(Col.LATENCY_MS)
    cells = {
        primary: fixed_point(model.get(primary), 4),
        Col.PARAMS: count(model.get(Col.PARAMS)),
        Col.FLOPS: count(model.get(Col.FLOPS)),
        Col.LATENCY_MS: "-" if latency is None else f"{milliseconds(latency)} ms",
    }
    return [
        f"{cell} ({percent(share)})" if (share := shares.get(name)) is not None else cell
        for name, cell in cells.items()
    ]


def _methods(summary: Mapping[str, Any], width: int) -> Table:
    """The best trial of every method, one below the other."""
    names = ("trial", summary["metric"], "params", "FLOPs", "epochs", "student", "teachers")
    lines = []
    for method in summary["methods"]:
        best = method["best"]
        if best is None:
            cells = ["-"] * 7
        else:
            cells = [
                best[Col.TRIAL_ID],
                fixed_point(best[Col.OBJECTIVE], 4),
                count(best[Col.PARAMS]),
                count(best[Col.FLOPS]),
                fixed_point(best[Col.EPOCHS_DONE], 0),
                duration(best[Col.STUDENT_S]),
                duration(best["teachers_s"]),
            ]
        tuning = f"{method['trials']} trials, {method['tuning_epochs']} epochs"
        lines.append((method[Col.METHOD], *cells, tuning))
    drop = ("epochs", "params", "student")
    table = fitted(("method", *names, "tuned by"), lines, width, drop)
    table.title = "The best of each method, at the same epochs per trial"
    meanings = {
        "student": "its training",
        "teachers": "building those that taught it, shared by trials",
    }
    shown = [str(column.header) for column in table.columns]
    table.caption = "; ".join(f"{n}: {said}" for n, said in meanings.items() if n in shown)
    return table


def _leaderboard(summary: Mapping[str, Any], width: int) -> Table:
    """The first trials, with as many of the parameters in which they differ as fit."""
    entries, metric, primary = summary["leaderboard"], summary["metric"], summary["primary"]
    beside = {primary: [fixed_point(entry[primary], 4) for entry in entries]}
    if metric == primary:
        beside = {}
    columns = {
        "trial": [entry[Col.TRIAL_ID] for entry in entries],
        "status": [entry[Col.STATUS] for entry in entries],
        metric: [fixed_point(entry[Col.OBJECTIVE], 4) for entry in entries],
        **beside,
        "params": [count(entry[Col.PARAMS]) for entry in entries],
        "FLOPs": [count(entry[Col.FLOPS]) for entry in entries],
        "ms": [milliseconds(entry[Col.LATENCY_MS]) for entry in entries],
        "epochs": [fixed_point(entry[Col.EPOCHS_DONE], 0) for entry in entries],
        "time": [duration(entry[Col.WALL_S]) for entry in entries],
    }
    columns = narrowed(columns, width, drop=("ms", "epochs", "time"))
    left, omitted = width - sum(column_width(n, cells) for n, cells in columns.items()), []
    for path, name in short_names(_varied(entries)).items():
        cells = [short(entry["parameters"][path]) for entry in entries]
        if column_width(name, cells) <= left:
            columns[name] = cells
            left -= column_width(name, cells)
        else:
            omitted.append(name)
    table = empty_table(*columns)
    of = f" of {entries[0][Col.METHOD]}" if summary["baselines"] else ""
    table.title = plain_text(f"Leaderboard{of}")
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(plain_text, line))
    if omitted:
        table.caption = plain_text(f"not shown: {', '.join(omitted)} (all values: --json)")
    return table


def _varied(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters in which the entries differ; all of a single entry."""
    first = entries[0]["parameters"]
    return [
        path
        for path, value in first.items()
        if len(entries) == 1 or any(e["parameters"].get(path) != value for e in entries)
    ]


def _front(
    models: Sequence[Mapping[str, Any]], primary: str, width: int, *, methods: bool
) -> Table:
    """The front of models, cheapest first; with their methods where there are several."""
    own = ["method"] if methods else []
    lines = [
        [
            model[Col.MODE] if model[Col.MODE] == STUDENT else f"composite {model[Col.MODE]}",
            *(model[Col.METHOD] or "-" for _ in own),
            model[Col.TRIAL_ID],
            fixed_point(model[primary], 4),
            count(model[Col.FLOPS]),
            milliseconds(model[Col.LATENCY_MS]),
            count(model[Col.PARAMS]),
        ]
        for model in models
    ]
    names = ("model", *own, "trial", primary, "FLOPs", "ms", "params")
    table = fitted(names, lines, width, drop=("ms", "params"))
    table.title = "Pareto front: no other model is as good for fewer FLOPs"
    return table


def _mattered(found: Mapping[str, Any]) -> Table:
    table = empty_table("dimension", "importance", "spread", "chance", "")
    when = "at their end" if found["epoch"] is None else f"at epoch {found['epoch']}"
    table.title = f"What mattered: share of the trials' ranks, {found['num_trials']} {when}"
    for row in found["dimensions"]:
        table.add_row(
            plain_text(row["dimension"]),
            *(fixed_point(row[name], 2) for name in ("importance", "spread", "chance")),
            "" if row["above_chance"] else "not above chance",
        )
    if found["caveat"]:
        table.caption = plain_text(found["caveat"])
    return table
