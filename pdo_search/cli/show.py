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

from pdo_search.analysis.answer import percent
from pdo_search.analysis.confirm import confirmation_summary, unconfirmed
from pdo_search.analysis.importance import caveat, compared, importance
from pdo_search.analysis.leaderboard import (
    against,
    best_composite,
    best_student,
    causes,
    composite_of,
    leaderboard,
    plain,
    status_counts,
    teacher_of,
)
from pdo_search.analysis.live import possible_trials, running_trials
from pdo_search.analysis.method_lines import methods_of
from pdo_search.analysis.pareto import STUDENT, model_front
from pdo_search.base.safetext import printable
from pdo_search.base.screen import plain_text, screen
from pdo_search.base.storage import Storage
from pdo_search.config.methods import METHODS, fixed
from pdo_search.results.driver import driver_of
from pdo_search.results.schema import Col, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

    from pdo_search.analysis.sweep import Sweep

__all__ = ["print_confirmation", "print_sweep", "sweep_summary"]

SHOWN = 10
LATENCY = 4
"""Place of the column that the comparison with the teacher leaves out first."""
CAUSES_SHOWN = 3
GAP = 2
WIDTH_WITHOUT_TERMINAL = 100
UNFINISHED = (TrialStatus.RUNNING, TrialStatus.INTERRUPTED, TrialStatus.PAUSED)
BIASED = (
    "the best validation score of a search is biased upwards (winner's curse) until it is"
    " confirmed on fresh seeds"
)


def sweep_summary(sweep: Sweep) -> dict[str, Any]:
    """What ``show`` prints, JSON-able: what is missing is None, or an empty list.

    Returns:
        ``name``, ``path``, ``created_at``, ``task``, ``metric``, ``mode``, ``num_trials``,
        ``baselines`` (trials by name), ``possible_trials`` (all of them, fewer where the space has
        fewer points), ``counts`` by status, ``alive`` (whether a driver runs it) and ``driver`` in
        words, ``running`` trials, ``causes`` of failures, ``teacher``;
        ``best``, the best student of all methods (with ``against_teacher``); ``composite``, that of
        the same trial or, where this has none, the most accurate of all, whose ``trial_id`` it
        names; ``methods`` beside each other; ``front`` of all models; ``leaderboard`` and
        ``importance`` of the dimensions, of the method that the search is about; ``confirmation``,
        None where nothing was confirmed; and ``note``.
    """
    info, everything, composites = sweep.info, sweep.trials, sweep.composites
    driver = driver_of(Storage(sweep.path))
    alive = driver is not None and driver.alive
    trials = everything[everything[Col.METHOD] == info.method]
    teacher, best = teacher_of(everything), best_student(everything, info.mode)
    composite = composite_of(composites, best[Col.TRIAL_ID]) if best else None
    composite = composite or best_composite(composites)
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
        "possible_trials": possible_trials(info),
        "counts": status_counts(everything),
        "alive": alive,
        "driver": driver and str(driver),
        "running": running_trials(sweep) if alive else [],
        "causes": causes(everything),
        "teacher": teacher and {"arch": _at(info.resolved, "teacher", "arch"), **teacher},
        "best": best and {**best, "against_teacher": against(best, teacher)},
        "composite": composite and {**composite, "against_teacher": against(composite, teacher)},
        "methods": methods,
        "leaderboard": leaderboard(trials, info.mode, SHOWN),
        "front": model_front(everything, composites),
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
        console.print(_front(summary["front"], methods=bool(summary["baselines"])))
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


def print_confirmation(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the confirmed configurations and the verdicts.

    Args:
        summary: from ``confirmation_summary``.
        console: as in ``print_sweep``.
    """
    console = console or screen(WIDTH_WITHOUT_TERMINAL)
    if summary["configurations"]:
        console.print(_confirmation(summary, console.width))
        size = summary["configurations"][0][Col.TEST_EXAMPLES]
        said = f"intervals are over seeds, on one test split ({size} examples)"
        teacher = "; one teacher" if summary["teacher"] else ""
        console.print(plain_text(said + teacher), soft_wrap=True)
    for found in summary["causes"][:CAUSES_SHOWN]:
        console.print(plain_text(f"  {found['count']} {found['status']}: {found['cause']}"))
    for sentence in summary["answers"]:
        console.print(plain_text(f"Answer: {sentence}"), soft_wrap=True)
    for difference in summary["differences"]:
        p = difference["p_holm"]
        shown = "" if p is None else f", p {p:.2g}"
        console.print(plain_text(f"Verdict: {difference['verdict']}{shown}"), soft_wrap=True)


def _named(best: Mapping[str, Any]) -> str:
    """The best trial, its method, and the parameters that have an effect on it."""
    method = best[Col.METHOD]
    idle = fixed(method) if method in METHODS else {}
    pairs = ", ".join(
        f"{path}={_short(value)}"
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
    table = _empty_table("trial", "method", "attempt", "epoch", "")
    table.title = "Running"
    for trial in trials:
        of = "" if trial["epochs"] is None else f" of {trial['epochs']}"
        cells = (trial[Col.TRIAL_ID], trial[Col.METHOD], _fixed(trial[Col.ATTEMPT], 0))
        table.add_row(*map(plain_text, (*cells, f"{trial['epoch']}{of}", trial["doing"])))
    return table


def _comparison(summary: Mapping[str, Any], width: int) -> Table:
    """Teacher, best student and composite, one below the other; latency only where it fits."""
    teacher, best, composite = summary["teacher"], summary["best"], summary["composite"]
    rows = [("Teacher", _cost(teacher, {}), teacher["arch"] or "")]
    if best:
        whose = f"{best[Col.TRIAL_ID]} {best[Col.METHOD]}"
        rows.append(("Best student", _cost(best, best["against_teacher"]), whose))
    if composite:
        own = best and best[Col.TRIAL_ID] == composite[Col.TRIAL_ID]
        how = composite[Col.MODE]
        if composite[Col.DEFERRED] is not None and how == "cascade":
            how += f", defers {percent(composite[Col.DEFERRED])}"
        rows.append(
            (
                "Its composite" if own else "Best composite",
                _cost(composite, composite["against_teacher"]),
                how if own else f"{composite[Col.TRIAL_ID]} {how}",
            )
        )
    columns = ["", "val_accuracy", "params", "FLOPs", "latency", ""]
    lines = [[name, *cells, remark] for name, cells, remark in rows]
    needed = [_width(name, column) for name, *column in zip(columns, *lines, strict=True)]
    shown = [at for at in range(len(columns)) if at != LATENCY or sum(needed) - GAP <= width]
    table = _empty_table(*(columns[at] for at in shown))
    table.columns[-1].no_wrap = False
    for line in lines:
        table.add_row(*(plain_text(line[at]) for at in shown))
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
                _fixed(best[Col.OBJECTIVE], 4),
                _count(best[Col.PARAMS]),
                _count(best[Col.FLOPS]),
                _fixed(best[Col.EPOCHS_DONE], 0),
                _duration(best[Col.STUDENT_S]),
                _duration(best["teachers_s"]),
            ]
        tuning = f"{method['trials']} trials, {method['tuning_epochs']} epochs"
        lines.append((method[Col.METHOD], *cells, tuning))
    table = _fitted(("method", *names, "tuned by"), lines, width, drop=("epochs", "params"))
    table.title = "The best of each method, at the same epochs per trial"
    table.caption = (
        "student: its training; teachers: building those that taught it, shared by trials"
    )
    return table


def _confirmation(summary: Mapping[str, Any], width: int) -> Table:
    """The teacher, then configurations over fresh seeds, the best by validation first.

    Below a configuration stands its composite. Values are followed by their share of the teacher's;
    size and training time are shown where they fit.
    """
    found = summary["configurations"]
    lines = [line for one in found for line in _confirmed(one, summary["metric"])]
    if summary["teacher"]:
        lines.insert(0, _full_teacher(summary["teacher"]))
    values = (summary["metric"], summary["test_metric"])
    names = ("method", "trial", *values, "FLOPs", "params", "student")
    table = _fitted(names, lines, width, drop=("student", "params"))
    counts = sorted({one["test"]["count"] for one in found})
    seeds = " to ".join(map(str, (counts if len(counts) == 1 else (counts[0], counts[-1]))))
    table.title = f"Confirmed on fresh seeds ({seeds} each): mean ± half of the 95% interval"
    return table


def _full_teacher(teacher: Mapping[str, Any]) -> list[str]:
    """The teacher's line: method, trial, validation, test, FLOPs, params, seconds."""
    return [
        "teacher",
        "",
        _fixed(teacher["validation"], 4),
        _fixed(teacher["test"], 4),
        _count(teacher[Col.FLOPS]),
        _count(teacher[Col.PARAMS]),
        "",
    ]


def _confirmed(found: Mapping[str, Any], metric: str) -> Iterable[list[str]]:
    """A configuration's line and, where it has one, its composite's, with the same columns."""
    yield [
        found[Col.METHOD],
        found[Col.TRIAL_ID],
        _with_interval(found["validation"]),
        _with_share(_with_interval(found["test"]), _mean_share(found["of_teacher"])),
        _with_share(_count(found[Col.FLOPS]), (found["of_teacher"] or {}).get(Col.FLOPS)),
        _count(found[Col.PARAMS]),
        _duration(found[Col.STUDENT_S]),
    ]
    composite = found["composite"]
    if composite is None:
        return
    modes = list(composite["modes"])
    validation = composite["validation_accuracy"] if metric == Col.VAL_ACCURACY else None
    shares = composite["of_teacher"]
    yield [
        f"+ {modes[0] if len(modes) == 1 else 'composite'}",
        "",
        "-" if validation is None else _with_interval(validation),
        _with_share(_with_interval(composite["test"]), _mean_share(shares)),
        _with_share(_count(composite[Col.FLOPS]), (shares or {}).get(Col.FLOPS)),
        "",
        "",
    ]


def _mean_share(of_teacher: Mapping[str, Any] | None) -> float | None:
    share = of_teacher and of_teacher["test"]
    return None if not share else share["mean"]


def _with_share(shown: str, share: float | None) -> str:
    return shown if share is None else f"{shown} ({percent(share)})"


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
    of = f" of {entries[0][Col.METHOD]}" if summary["baselines"] else ""
    table.title = plain_text(f"Leaderboard{of}")
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(plain_text, line))
    if omitted:
        table.caption = plain_text(f"not shown: {', '.join(omitted)} (all values: --json)")
    return table


def _width(name: str, cells: Iterable[str]) -> int:
    """Of a column, with the gap to the next."""
    return max(map(len, (name, *cells))) + GAP


def _front(models: Sequence[Mapping[str, Any]], *, methods: bool) -> Table:
    """The front of models, cheapest first; with their methods where there are several."""
    own = ["method"] if methods else []
    table = _empty_table("model", *own, "trial", Col.VAL_ACCURACY, "FLOPs", "ms", "params")
    table.title = "Pareto front: no other model is as accurate for fewer FLOPs"
    for model in models:
        table.add_row(
            plain_text(
                model[Col.MODE] if model[Col.MODE] == STUDENT else f"composite {model[Col.MODE]}"
            ),
            *(plain_text(model[Col.METHOD] or "-") for _ in own),
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


def _fitted(
    names: Sequence[str], lines: Sequence[Sequence[str]], width: int, drop: Sequence[str]
) -> Table:
    """A table of the lines, without the columns that may be dropped where it would be too wide."""
    columns = {name: [line[at] for line in lines] for at, name in enumerate(names)}
    for name in drop:
        if sum(_width(*column) for column in columns.items()) - GAP > width:
            del columns[name]
    table = _empty_table(*columns)
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(plain_text, line))
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
