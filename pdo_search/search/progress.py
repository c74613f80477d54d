"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pdo_search.base.screen import plain_text
from pdo_search.records import TrialRow, TrialStatus

__all__ = ["Progress"]

AT_REST = {status.value for status in TrialStatus if status.ended} | {TrialStatus.PAUSED.value}
ENOUGH_FOR_PACE = 3
TOLD_EVERY_S = 30.0
"""Seconds between two lines that say how far the sweep is, where there is no live table."""
ENOUGH_ALIKE = 4
"""So many trials of one value, and none of another, are no chance."""


class Progress:
    """Follows trials: a recorder's ``Sink``.

    Args:
        console: where to print.
        num_trials: trials in all, baselines included.
        metric: of the search.
        mode: ``max`` or ``min``.
        counts: trials of an earlier run, by status.
        paused: names of those of them that wait.
        compares: whether trials are compared, and equal values are worth a warning.
        epochs: of a trial's budget; None where each trial has its own among its parameters.
        clock: tells seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        num_trials: int,
        metric: str,
        mode: str,
        counts: Mapping[str, int] | None = None,
        paused: Iterable[str] = (),
        compares: bool = True,
        epochs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._num_trials = num_trials
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._counts: Counter[str] = Counter(counts or {})
        self._paused = set(paused)
        self._running: dict[str, dict[str, Any]] = {}
        self._best: tuple[float, str] | None = None
        self._epochs = epochs
        self._clock = clock
        self._began = self._told_at = clock()
        self._past = self._at_rest
        self._live: Live | None = None
        self._compares = compares
        self._ends: dict[tuple[str, int], list[float]] = {}

    def show(self) -> AbstractContextManager[Any]:
        """Draw while the context is open; nothing to draw where there is no terminal."""
        if not self._console.is_terminal:
            return nullcontext()
        self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._table)
        return self._live

    def started(self, name: str, row: TrialRow) -> None:
        """A trial began, or goes on."""
        if name in self._paused:
            self._paused.remove(name)
            self._counts[TrialStatus.PAUSED.value] -= 1
        began = self._clock()
        self._running[name] = {"name": name, "row": row, "began": began, "metrics": {}}

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""
        if name in self._running:
            self._running[name]["metrics"].update(metrics)

    def ended(self, name: str, status: TrialStatus, cause: str | None) -> None:
        """A trial ended or paused; prints its line."""
        entry = self._running.pop(name, None)
        if entry is None:
            return
        self._counts[status.value] += 1
        if status is TrialStatus.PAUSED:
            self._paused.add(name)
        metrics, row = entry["metrics"], entry["row"]
        value = metrics.get(self._metric)
        if status is TrialStatus.FINISHED and value is not None:
            best = self._best[0] if self._best else float("-inf")
            if value * self._sign > best:
                self._best = (value * self._sign, f"{name}, {row.method}")
        self._console.print(self._line(entry, status, cause), highlight=False, soft_wrap=True)
        if not self._live and self._clock() - self._told_at > TOLD_EVERY_S:
            self._told_at = self._clock()
            self._console.print(f"{self._at_rest} of {self._num_trials} trials{self._left()}")
        if self._compares and value is not None:
            self._watch(row.method, metrics["epoch"], value)

    @property
    def _at_rest(self) -> int:
        """Trials that have ended, or wait."""
        return sum(n for s, n in self._counts.items() if n > 0 and s in AT_REST)

    def _left(self) -> str:
        """How long it may still take, once some trials have shown their pace; else nothing.

        Paused trials may go on, trials to come may stop early: it is a guess.
        """
        done, left = self._at_rest - self._past, self._num_trials - self._at_rest
        if done < ENOUGH_FOR_PACE or left < 1:
            return ""
        seconds = (self._clock() - self._began) * left / done
        shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        if seconds >= 6000:
            shown = f"{seconds / 3600:.1f} h"
        return f", about {shown} left"

    def _epoch(self, entry: Mapping[str, Any]) -> str:
        """Such as ``3/20``: the last epoch reported, of all."""
        row, epoch = entry["row"], entry["metrics"].get("epoch", 0)
        epochs = self._epochs or row.point.get("epochs")
        return f"{epoch}/{epochs}" if epochs else f"{epoch}"

    def _watch(self, method: str, epoch: int, value: float) -> None:
        """Warn, once a rung, where all trials that came to it have the same value."""
        values = self._ends.setdefault((method, epoch), [])
        values.append(value)
        if len(values) == ENOUGH_ALIKE and len(set(values)) == 1:
            self._console.print(
                f"Warning: all {len(values)} trials of {method} have {self._metric} {value:.4f} at"
                f" epoch {epoch}: it cannot tell them apart there. Where guessing reaches as much,"
                " a student may need more epochs before the first rung (scheduler.grace).",
                highlight=False,
                soft_wrap=True,
            )

    def _line(self, entry: Mapping[str, Any], status: TrialStatus, cause: str | None) -> Text:
        row, metrics = entry["row"], entry["metrics"]
        value = metrics.get(self._metric)
        shown = f"{self._metric} {value:.4f}" if value is not None else "-"
        ended = sum(n for s, n in self._counts.items() if TrialStatus(s).ended)
        seconds = self._clock() - entry["began"]
        parts = [
            f"[{ended:>3}/{self._num_trials}] {entry['name']}",
            f"{row.method:<11} {status.value:<8}",
            f"epoch {self._epoch(entry):>5}  {shown}  {seconds:.1f} s",
        ]
        if status in (TrialStatus.FAILED, TrialStatus.INFEASIBLE) and cause:
            parts.append(cause.splitlines()[0][:160])
        return plain_text("  ".join(parts))

    def _table(self) -> Table:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self._counts.items()) if n)
        best = f"best {self._best[0] * self._sign:.4f} ({self._best[1]})" if self._best else ""
        elapsed = self._clock() - self._began
        table = Table(
            title=f"{len(self._running)} running, {counts or 'none ended'} of {self._num_trials}"
            f"   {best}   {elapsed:.0f} s{self._left()}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for name in ("trial", "method", "epoch", "stage", self._metric, "seconds"):
            table.add_column(plain_text(name), no_wrap=True)
        table.add_column("parameters", overflow="fold")
        for entry in self._running.values():
            metrics, row = entry["metrics"], entry["row"]
            value = metrics.get(self._metric)
            table.add_row(
                entry["name"],
                row.method,
                self._epoch(entry),
                _stage(metrics),
                "-" if value is None else f"{value:.4f}",
                f"{self._clock() - entry['began']:.0f}",
                plain_text(_params(row.point)),
            )
        return table


def _stage(metrics: Mapping[str, Any]) -> str:
    """The stage that a trial is in; behind a stage's end, what is built before the next."""
    if "stage" not in metrics:
        return "start"
    if metrics.get("stage_end"):
        return "finish" if metrics.get("done") else f"teacher {metrics['stage'] + 1}"
    phase = metrics.get("phase")
    return f"{metrics['stage']}" if phase == "stage" else str(phase)


def _params(point: Mapping[str, Any]) -> str:
    return " ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in point.items()
    )
