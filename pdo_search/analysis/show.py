"""The `show` command: a sweep as a dictionary, and that dictionary on a screen.

Owns wording and layout. What is in the dictionary is computed in ``leaderboard`` and ``pareto``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pdo_search.analysis.confirm import confirmation_summary, unconfirmed
from pdo_search.analysis.leaderboard import (
    against,
    best_student,
    causes,
    composite_of,
    leaderboard,
    plain,
    status_counts,
    teacher_of,
)
from pdo_search.analysis.methods import methods_of
from pdo_search.analysis.pareto import STUDENT, model_front
from pdo_search.results.importance import caveat, compared, importance
from pdo_search.results.schema import Col, TrialStatus
from pdo_search.safetext import printable
from pdo_search.screen import plain_text, screen

if TYPE_CHECKING:
    import pandas as pd

    from pdo_search.results.reader import Sweep

__all__ = ["print_confirmation", "print_sweep", "sweep_summary"]

SHOWN = 10
CAUSES_SHOWN = 3
GAP = 2
WIDTH_WITHOUT_TERMINAL = 100
BIASED = (
    "the best validation score of a search is biased upwards (winner's curse) until it is"
    " confirmed on fresh seeds"
)


def sweep_summary(sweep: Sweep) -> dict[str, Any]:
    """What ``show`` prints, JSON-able: what is missing is None, or an empty list.

    Returns:
        ``name``, ``path``, ``created_at``, ``task``, ``metric``, ``mode``, ``num_trials``,
        ``baselines`` (trials by name), ``counts`` by status, ``causes`` of failures, ``teacher``,
        ``methods`` beside each other, and of the method that the search is about: ``best`` (with
        ``against_teacher``), its ``composite``, ``leaderboard``, ``front``, ``importance`` of the
        dimensions; ``confirmation``, None where nothing was confirmed; and ``note``.
    """
    info, everything, composites = sweep.info, sweep.trials, sweep.composites
    trials = everything[everything[Col.METHOD] == info.method]
    teacher, best = teacher_of(everything), best_student(trials, info.mode)
    composite = composite_of(composites, best[Col.TRIAL_ID]) if best else None
    methods = methods_of(everything, sweep.teachers, info.trials_by_method, info.mode)
    confirmation = confirmation_summary(sweep)
    bests = [method["best"][Col.TRIAL_ID] for method in methods if method["best"]]
    return {
        "name": info.name,
        "path": sweep.path,
        "created_at": info.created_at,
        "task": {
            "kind": _at(info.resolved, "task", "kind"),
            "data": _at(info.resolved, "task", "data", "source"),
        },
        "metric": info.metric,
        "mode": info.mode,
        "num_trials": info.num_trials,
        "baselines": info.baselines,
        "counts": status_counts(everything),
        "causes": causes(everything),
        "teacher": teacher and {"arch": _at(info.resolved, "teacher", "arch"), **teacher},
        "best": best and {**best, "against_teacher": against(best, teacher)},
        "composite": composite and {**composite, "against_teacher": against(composite, teacher)},
        "methods": methods,
        "leaderboard": leaderboard(trials, info.mode, SHOWN),
        "front": model_front(trials, composites),
        "importance": _importance(trials, sweep.epochs, info.metric),
        "confirmation": confirmation,
        "note": BIASED if unconfirmed(confirmation, bests) else None,
    }


def _importance(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Which dimensions mattered; None of too few trials."""
    found = compared(trials, epochs, metric)
    table = importance(found)
    if table.empty:
        return None
    rows = [{str(k): plain(v) for k, v in row.items()} for row in table.to_dict("records")]
    return {
        "num_trials": len(found.values),
        "epoch": found.epoch,
        "caveat": caveat(len(found.values), len(rows)),
        "dimensions": rows,
    }


def _at(tree: Any, *path: str) -> str | None:
    """The text at a path of a tree that others wrote."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, str) else None


def print_sweep(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a summary.

    Args:
        summary: from ``sweep_summary``.
        console: where to; by default standard output, 100 columns wide where that is no terminal.
    """
    console = console or screen(WIDTH_WITHOUT_TERMINAL)
    for line in _header(summary):
        console.print(plain_text(line), soft_wrap=True)
    if summary["teacher"]:
        console.print()
        console.print(_comparison(summary))
    if summary["baselines"] and any(method["best"] for method in summary["methods"]):
        console.print()
        console.print(_methods(summary))
    if summary["leaderboard"]:
        console.print()
        console.print(_leaderboard(summary, console.width))
    else:
        console.print("No trial has finished or been stopped yet.")
    if len(summary["front"]) > 1:
        console.print()
        console.print(_front(summary["front"]))
    if summary["importance"]:
        console.print()
        console.print(_mattered(summary["importance"]))
    if summary["best"]:
        console.print()
        values = summary["best"]["parameters"]
        pairs = ", ".join(f"{path}={_short(value)}" for path, value in values.items())
        console.print(
            plain_text(f"Best: {summary['best'][Col.TRIAL_ID]} with {pairs or 'no parameters'}")
        )
    if summary["confirmation"]:
        console.print()
        print_confirmation(summary["confirmation"], console)
    if summary["note"]:
        console.print(plain_text(f"Note: {summary['note']}."), soft_wrap=True)


def print_confirmation(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the confirmed configurations and the verdicts.

    Args:
        summary: from ``confirmation_summary``.
        console: as in ``print_sweep``.
    """
    console = console or screen(WIDTH_WITHOUT_TERMINAL)
    if summary["configurations"]:
        console.print(_confirmation(summary))
    for found in summary["causes"][:CAUSES_SHOWN]:
        console.print(plain_text(f"  {found['count']} {found['status']}: {found['cause']}"))
    for difference in summary["differences"]:
        p = difference["p_holm"]
        shown = "" if p is None else f", p {p:.2g}"
        console.print(plain_text(f"Verdict: {difference['verdict']}{shown}"), soft_wrap=True)


def _header(summary: Mapping[str, Any]) -> Iterable[str]:
    task = " on ".join(v for v in summary["task"].values() if v)
    yield f"{summary['name']}: {task}" if task else f"{summary['name']}"
    counts = summary["counts"]
    always = (TrialStatus.FINISHED.value, TrialStatus.STOPPED.value, TrialStatus.FAILED.value)
    shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n or status in always)
    planned = summary["num_trials"] + sum(summary["baselines"].values())
    yield f"{sum(counts.values())} of {planned} trials: {shown}"
    if summary["baselines"]:
        started = (f"{m['trials']} {m['method']}" for m in summary["methods"])
        yield f"  by method: {', '.join(started)}"
    for found in summary["causes"][:CAUSES_SHOWN]:
        yield f"  {found['count']} {found['status']}: {found['cause']}"
    if counts[TrialStatus.INTERRUPTED.value] or counts[TrialStatus.PAUSED.value]:
        yield f"  go on with: pdo-search resume {summary['path']}"


def _comparison(summary: Mapping[str, Any]) -> Table:
    """Teacher, best student and composite, one below the other."""
    table = _empty_table("", "val_accuracy", "params", "FLOPs", "latency", "")
    teacher, best, composite = summary["teacher"], summary["best"], summary["composite"]
    table.add_row("Teacher", *_cost(teacher, {}), plain_text(teacher["arch"] or ""))
    if best:
        table.add_row(
            "Best student", *_cost(best, best["against_teacher"]), plain_text(best[Col.TRIAL_ID])
        )
    if composite:
        how = composite[Col.MODE]
        if composite[Col.DEFERRED] is not None and how == "cascade":
            how += f", defers {_percent(composite[Col.DEFERRED])}"
        table.add_row(
            "Its composite", *_cost(composite, composite["against_teacher"]), plain_text(how)
        )
    return table


def _cost(model: Mapping[str, Any], shares: Mapping[str, float | None]) -> list[str]:
    latency = model.get(Col.LATENCY_MS)
    cells = {
        Col.VAL_ACCURACY: _fixed(model.get(Col.VAL_ACCURACY), 4),
        Col.PARAMS: _count(model.get(Col.PARAMS)),
        Col.FLOPS: _count(model.get(Col.FLOPS)),
        Col.LATENCY_MS: "-" if latency is None else f"{_milliseconds(latency)} ms",
    }
    return [
        f"{cell} ({_percent(share)})" if (share := shares.get(name)) is not None else cell
        for name, cell in cells.items()
    ]


def _methods(summary: Mapping[str, Any]) -> Table:
    """The best trial of every method, one below the other."""
    metric = summary["metric"]
    table = _empty_table(
        "method", "trial", metric, "params", "FLOPs", "epochs", "student", "teachers", "tuned by"
    )
    table.title = "The best of each method, at the same epochs per trial"
    for method in summary["methods"]:
        best = method["best"]
        if best is None:
            cells = ["-"] * 7
        else:
            cells = [
                best[Col.TRIAL_ID],
                _fixed(best[Col.OBJECTIVE], 4),
                _count(best[Col.PARAMS]),
                _count(best[Col.FLOPS]),
                _fixed(best[Col.EPOCHS_DONE], 0),
                _duration(best[Col.STUDENT_S]),
                _duration(best["teachers_s"]),
            ]
        tuning = f"{method['trials']} trials, {method['tuning_epochs']} epochs"
        table.add_row(*map(plain_text, (method[Col.METHOD], *cells, tuning)))
    table.caption = (
        "student: its training; teachers: building those that taught it, shared by trials"
    )
    return table


def _confirmation(summary: Mapping[str, Any]) -> Table:
    """Configurations over fresh seeds, the best by validation first."""
    metric, tested = summary["metric"], summary["test_metric"]
    table = _empty_table("method", "trial", "seeds", metric, tested, "params", "FLOPs", "student")
    table.title = "Confirmed on fresh seeds: mean ± half of the 95% interval"
    for found in summary["configurations"]:
        table.add_row(
            plain_text(found[Col.METHOD]),
            plain_text(found[Col.TRIAL_ID]),
            str(found["test"]["count"]),
            _with_interval(found["validation"]),
            _with_interval(found["test"]),
            _count(found[Col.PARAMS]),
            _count(found[Col.FLOPS]),
            _duration(found[Col.STUDENT_S]),
        )
    size = summary["configurations"][0][Col.TEST_EXAMPLES]
    table.caption = (
        f"intervals are over seeds, on one test split ({size} examples), read once per run"
    )
    return table


def _with_interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return _fixed(found["mean"], 4)
    return f"{_fixed(found['mean'], 4)} ± {(found['high'] - found['low']) / 2:.4f}"


def _leaderboard(summary: Mapping[str, Any], width: int) -> Table:
    """The first trials, with as many of the parameters in which they differ as fit."""
    entries, metric = summary["leaderboard"], summary["metric"]
    accuracy = {Col.VAL_ACCURACY: [_fixed(entry[Col.VAL_ACCURACY], 4) for entry in entries]}
    if metric == Col.VAL_ACCURACY:
        accuracy = {}
    columns = {
        "trial": [entry[Col.TRIAL_ID] for entry in entries],
        "status": [entry[Col.STATUS] for entry in entries],
        metric: [_fixed(entry[Col.OBJECTIVE], 4) for entry in entries],
        **accuracy,
        "params": [_count(entry[Col.PARAMS]) for entry in entries],
        "FLOPs": [_count(entry[Col.FLOPS]) for entry in entries],
        "ms": [_milliseconds(entry[Col.LATENCY_MS]) for entry in entries],
        "epochs": [_fixed(entry[Col.EPOCHS_DONE], 0) for entry in entries],
        "time": [_duration(entry[Col.WALL_S]) for entry in entries],
    }
    left, omitted = width - sum(_width(n, cells) for n, cells in columns.items()), []
    for path, name in _short_names(_varied(entries)).items():
        cells = [_short(entry["parameters"][path]) for entry in entries]
        if _width(name, cells) <= left:
            columns[name] = cells
            left -= _width(name, cells)
        else:
            omitted.append(name)
    table = _empty_table(*columns)
    table.title = "Leaderboard"
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(plain_text, line))
    if omitted:
        table.caption = plain_text(f"not shown: {', '.join(omitted)} (all values: --json)")
    return table


def _width(name: str, cells: Iterable[str]) -> int:
    """Of a column, with the gap to the next."""
    return max(map(len, (name, *cells))) + GAP


def _front(models: Sequence[Mapping[str, Any]]) -> Table:
    table = _empty_table("model", "trial", Col.VAL_ACCURACY, "FLOPs", "ms", "params")
    table.title = "Pareto front: no other model is as accurate for fewer FLOPs"
    for model in models:
        table.add_row(
            plain_text(
                model[Col.MODE] if model[Col.MODE] == STUDENT else f"composite {model[Col.MODE]}"
            ),
            plain_text(model[Col.TRIAL_ID]),
            _fixed(model[Col.VAL_ACCURACY], 4),
            _count(model[Col.FLOPS]),
            _milliseconds(model[Col.LATENCY_MS]),
            _count(model[Col.PARAMS]),
        )
    return table


def _mattered(found: Mapping[str, Any]) -> Table:
    table = _empty_table("dimension", "importance", "spread", "chance", "")
    when = "at their end" if found["epoch"] is None else f"at epoch {found['epoch']}"
    table.title = f"What mattered: share of the trials' ranks, {found['num_trials']} {when}"
    for row in found["dimensions"]:
        table.add_row(
            plain_text(row["dimension"]),
            *(_fixed(row[name], 2) for name in ("importance", "spread", "chance")),
            "" if row["above_chance"] else "not above chance",
        )
    if found["caveat"]:
        table.caption = plain_text(found["caveat"])
    return table


def _empty_table(*columns: str) -> Table:
    """A table without lines; numbers stand to the right."""
    table = Table(
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
    )
    for name in columns:
        left = name in ("", "dimension", "model", "trial", "status", "method")
        table.add_column(plain_text(name), justify="left" if left else "right", no_wrap=True)
    return table


def _varied(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters in which the entries differ; all of a single entry."""
    first = entries[0]["parameters"]
    return [
        path
        for path, value in first.items()
        if len(entries) == 1 or any(e["parameters"].get(path) != value for e in entries)
    ]


def _short_names(paths: Iterable[str]) -> dict[str, str]:
    """Names as short as they can be told apart, by path: ``kl`` for ``loss.kl``."""
    tails = {path: path.rpartition(".")[2] for path in paths}
    counts = Counter(tails.values())
    return {path: tail if counts[tail] == 1 else path for path, tail in tails.items()}


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    """``8.2s``, ``45s``, ``12m05s``, ``3h07m``."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _percent(share: float) -> str:
    """A share of one to two digits that say something: ``0.23%``, ``44%``, ``98.9%``."""
    percent = 100 * share
    if 10 <= percent < 90 or percent >= 110 or percent == 0:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if percent >= 1 else f"{percent:.2g}%"


def _count(value: float | None) -> str:
    """A large number in three digits: 696k, 13.1M."""
    if value is None:
        return "-"
    if abs(value) < 999.5:
        return f"{value:.0f}"
    power = 1
    while abs(value) >= 999.5 * 1000**power and power < 4:
        power += 1
    scaled = value / 1000**power
    digits = max(0, 2 - int(math.log10(abs(scaled)) + 1e-9))
    return f"{scaled:.{digits}f}{'kMGT'[power - 1]}"
