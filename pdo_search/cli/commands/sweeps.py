"""Commands that begin a sweep or go on with one: `run`, `resume`, `check`, `confirm`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pdo_search.base.errors import PdoError
from pdo_search.cli.commands.common import (
    INTERRUPTED,
    Address,
    AsJson,
    BaseDir,
    Directory,
    File,
    Overrides,
    Trust,
    check_address,
    give,
)

if TYPE_CHECKING:
    from rich.console import Console

    from pdo_search.results.sweepfile import SweepInfo

__all__ = ["check", "confirm", "resume", "run"]


def run(
    file: File,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.", min=1)] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep's directory.")] = None,
    address: Address = "local",
) -> None:
    """Run a sweep: train the teacher, search, leave tables and the best student."""
    from pdo_search.config import load_experiment
    from pdo_search.search.sweep import new_sweep

    check_address(address)
    loaded = load_experiment(file, overrides or ())
    info, directory = new_sweep(loaded, name=name, num_trials=trials)
    _sweep(_preflight(info, directory, address), directory, address)


def resume(
    directory: Directory,
    trials: Annotated[
        str | None,
        typer.Option(help="+N for N more trials, N for N in all; baselines keep theirs."),
    ] = None,
    address: Address = "local",
    base_dir: BaseDir = None,
    trust: Trust = False,
) -> None:
    """Go on with a sweep that was cut off, or extend a finished one."""
    from pdo_search.base.screen import screen
    from pdo_search.results.sweepfile import read_sweep_file
    from pdo_search.search.sweep import reopened_sweep
    from pdo_search.search.trust import refuse_strangers

    check_address(address)
    found = read_sweep_file(directory)
    refuse_strangers(directory, found, trust=trust, base_dir=base_dir, console=screen())
    info = reopened_sweep(directory, trials=trials, base_dir=base_dir)
    _sweep(_preflight(info, directory, address), directory, address)


def check(
    file: File, overrides: Overrides = None, address: Address = "local", as_json: AsJson = False
) -> None:
    """Validate an experiment, build its models, estimate its cost. Starts nothing.

    Refuses what `run` would refuse. With --address auto, this machine's resources do not count.
    """
    from pdo_search.cli.before import print_check
    from pdo_search.cli.check import check_experiment
    from pdo_search.config import load_experiment
    from pdo_search.search.admission import admit
    from pdo_search.search.cluster import check_local
    from pdo_search.search.sweep import is_taken, planned_sweep

    check_address(address)
    info, directory = planned_sweep(load_experiment(file, overrides or ()))
    loaded, notes = admit(info, directory, address)
    if address == "local":
        notes.append(f"Trials: {check_local(loaded.experiment.resources, loaded.file)}")
    if is_taken(directory):
        notes.append(
            f"{directory} is there already: `run` needs another --name;"
            " `pdo-search resume` goes on with it"
        )
    give(check_experiment(loaded, notes), as_json, print_check)


def confirm(
    directory: Directory,
    top: Annotated[int, typer.Option(help="Configurations of the search itself.", min=1)] = 1,
    seeds: Annotated[int, typer.Option(help="Fresh seeds per configuration.", min=1)] = 10,
    address: Address = "local",
    base_dir: BaseDir = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Retrain the best of each method with fresh seeds, test: how good is it, which one wins?"""
    from pdo_search.analysis.confirm import confirmation_summary
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.base.screen import screen
    from pdo_search.cli.confirmation import print_confirmation
    from pdo_search.results.sweepfile import read_sweep_file
    from pdo_search.search.admission import admit
    from pdo_search.search.confirm import run_confirmation
    from pdo_search.search.trust import refuse_strangers

    check_address(address)
    found = read_sweep_file(directory)
    console = screen(stderr=as_json)
    refuse_strangers(directory, found, trust=trust, base_dir=base_dir, console=console)
    admit(found, directory, address)
    outcome = run_confirmation(
        directory, top=top, seeds=seeds, address=address, console=console, base_dir=base_dir
    )
    if outcome.interrupted:
        again = f"confirm {_shown(outcome.sweep)} --top {top} --seeds {seeds}"
        raise _interrupted(console, again, address)
    give(confirmation_summary(open_sweep(outcome.sweep)) or {}, as_json, print_confirmation)
    if not outcome.counts.get("finished"):
        raise PdoError("no run finished; the `cause` column of the confirmations table says why")


def _sweep(info: SweepInfo, directory: str, address: str) -> None:
    """Run what is left of a sweep and show it."""
    from pdo_search.analysis.summary import sweep_summary
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.base.screen import screen
    from pdo_search.cli.show import print_sweep
    from pdo_search.search.sweep import run_sweep

    console = screen()
    outcome = run_sweep(info, directory, address=address, console=console)
    shown = _shown(outcome.sweep)
    if outcome.interrupted:
        raise _interrupted(console, f"resume {shown}", address)
    print_sweep(sweep_summary(open_sweep(outcome.sweep)))
    console.print(f"Tables: {shown}   Again: pdo-search show {shown}", soft_wrap=True)
    if not outcome.counts.get("finished"):
        raise PdoError("no trial finished; the `cause` column of the trials table says why")


def _shown(sweep: str) -> str:
    return sweep.removeprefix(f"{os.getcwd()}/")


def _interrupted(console: Console, again: str, address: str) -> typer.Exit:
    """Say which command goes on; the exit."""
    joined = "" if address == "local" else f" --address {address}"
    console.print(
        f"Interrupted; results are kept. Go on with: pdo-search {again}{joined}", soft_wrap=True
    )
    return typer.Exit(INTERRUPTED)


def _preflight(info: SweepInfo, directory: str, address: str) -> SweepInfo:
    """Refuse what cannot work before anything starts; the sweep, with the data's fingerprint."""
    from pdo_search.cli.check import preflight
    from pdo_search.search.admission import admit

    fingerprint = preflight(*admit(info, directory, address))
    return replace(info, fingerprint=info.fingerprint or fingerprint)
