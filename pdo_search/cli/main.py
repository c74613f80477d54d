"""The command line. Imports what a command needs when it runs: `--help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. What a user can cause is told in words,
never as a traceback.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pdo_search.base.errors import InputError, PdoError

if TYPE_CHECKING:
    from pdo_search.results.sweepfile import SweepInfo

__all__ = ["app", "main"]

app = typer.Typer(
    help="Search progressive knowledge distillation: turn a big model into a small one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _path(given: str) -> str:
    """A path with the home directory in the place of ``~``, which a shell leaves in quotes."""
    return os.path.expanduser(given)


File = Annotated[
    str, typer.Argument(help="An experiment file (YAML).", metavar="FILE", parser=_path)
]
Directory = Annotated[str, typer.Argument(help="A sweep's directory.", metavar="DIR", parser=_path)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: a.b=value. Repeatable.", metavar="a.b=v"),
]
Address = Annotated[
    str, typer.Option(help="local starts Ray here; auto joins this machine's cluster.")
]
BaseDir = Annotated[
    str | None,
    typer.Option(help="The experiment's folder, where it is another one now.", metavar="FOLDER"),
]
Trust = Annotated[bool, typer.Option("--trust", help="Go on with a sweep that somebody else made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Root = Annotated[
    str,
    typer.Argument(
        help="A store, or a sweep's output root; a path or URI.", metavar="ROOT", parser=_path
    ),
]

store_app = typer.Typer(
    help="Look after the artifact store: teachers, ladders and banks that sweeps share.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(store_app, name="store")

DEFAULT_STORE = "results/.store"
INTERRUPTED = 130


@app.command()
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

    _check_address(address)
    loaded = load_experiment(file, overrides or ())
    info, directory = new_sweep(loaded, name=name, num_trials=trials)
    _sweep(_preflight(info, directory, address), directory, address)


@app.command()
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

    _check_address(address)
    found = read_sweep_file(directory)
    refuse_strangers(directory, found, trust=trust, base_dir=base_dir, console=screen())
    info = reopened_sweep(directory, trials=trials, base_dir=base_dir)
    _sweep(_preflight(info, directory, address), directory, address)


@app.command()
def check(
    file: File, overrides: Overrides = None, address: Address = "local", as_json: AsJson = False
) -> None:
    """Validate an experiment, build its models, estimate its cost. Starts nothing.

    Refuses what `run` would refuse. With --address auto, this machine's resources do not count.
    """
    from pdo_search.cli.check import check_experiment, print_check
    from pdo_search.config import load_experiment
    from pdo_search.search.admission import admit
    from pdo_search.search.cluster import check_local
    from pdo_search.search.sweep import is_taken, planned_sweep

    _check_address(address)
    info, directory = planned_sweep(load_experiment(file, overrides or ()))
    loaded, notes = admit(info, directory, address)
    if address == "local":
        notes.append(f"Trials: {check_local(loaded.experiment.resources, loaded.file)}")
    if is_taken(directory):
        notes.append(
            f"{directory} is there already: `run` needs another --name;"
            " `pdo-search resume` goes on with it"
        )
    _print(check_experiment(loaded, notes), as_json, print_check)


@app.command()
def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show a sweep: leaderboard, front, teacher, counts. Works while it runs."""
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.cli.show import print_sweep, sweep_summary

    _print(sweep_summary(open_sweep(directory)), as_json, print_sweep)


@app.command()
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
    from pdo_search.cli.show import print_confirmation
    from pdo_search.results.sweepfile import read_sweep_file
    from pdo_search.search.admission import admit
    from pdo_search.search.confirm import run_confirmation
    from pdo_search.search.trust import refuse_strangers

    _check_address(address)
    found = read_sweep_file(directory)
    console = screen(stderr=as_json)
    refuse_strangers(directory, found, trust=trust, base_dir=base_dir, console=console)
    admit(found, directory, address)
    outcome = run_confirmation(
        directory, top=top, seeds=seeds, address=address, console=console, base_dir=base_dir
    )
    shown = outcome.sweep.removeprefix(f"{os.getcwd()}/")
    if outcome.interrupted:
        console.print(
            "Interrupted; results are kept. Go on with:"
            f" pdo-search confirm {shown} --top {top} --seeds {seeds}{_joined(address)}",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    _print(confirmation_summary(open_sweep(outcome.sweep)) or {}, as_json, print_confirmation)
    if not outcome.counts.get("finished"):
        raise PdoError("no run finished; the `cause` column of the confirmations table says why")


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    from pdo_search.config.jsonschema import experiment_schema

    print(json.dumps(experiment_schema(), indent=1))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has and lacks."""
    from pdo_search.cli.doctor import examine, print_examination

    _print(examine(), as_json, print_examination)


@store_app.command("ls")
def store_ls(root: Root = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List artifacts: what they are, their size, age and last use."""
    from pdo_search.cli.store import print_listing
    from pdo_search.store.housekeeping import listing

    _print(listing(root), as_json, print_listing)


@store_app.command("verify")
def store_verify(
    root: Root = DEFAULT_STORE,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged artifacts aside, to be built again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute every checksum; exit code 1 if an artifact is damaged."""
    from pdo_search.cli.store import print_verification
    from pdo_search.store.housekeeping import verification

    found = verification(root, repair=repair)
    _print(found, as_json, print_verification)
    if found["damaged"]:
        raise typer.Exit(1)


@store_app.command("gc")
def store_gc(
    root: Root = DEFAULT_STORE,
    older_than: Annotated[
        str | None,
        typer.Option(help="Artifacts not used for so long, and partial work: 12h, 7d, 2w."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Those used longest ago, until so much is left: 500MB, 10GB."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only of this kind: teacher, rung, bank, tested.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove left-overs of dead builders and damaged artifacts, and what the options name.

    What is being built or used is kept.
    """
    from pdo_search.cli.store import print_collected
    from pdo_search.store.housekeeping import Criteria, collect, duration_of, size_of

    criteria = Criteria(
        older_than_s=None if older_than is None else duration_of(older_than, "--older-than"),
        max_bytes=None if max_size is None else size_of(max_size, "--max-size"),
        kind=kind,
    )
    _print(collect(root, criteria, dry_run=dry_run), as_json, print_collected)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    from pdo_search.base.screen import keep_output_open

    keep_output_open()
    try:
        os.getcwd()
    except OSError:
        print("error: the current directory is gone: cd to one that exists", file=sys.stderr)
        sys.exit(InputError.exit_code)
    code = run_command(arguments)
    # The process's end frees all there is; collecting torch's modules first takes 0.6 s.
    gc.freeze()
    sys.exit(code)


def run_command(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    try:
        app(args=arguments, standalone_mode=True)
    except PdoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _sweep(info: SweepInfo, directory: str, address: str) -> None:
    """Run what is left of a sweep and show it."""
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.base.screen import screen
    from pdo_search.cli.show import print_sweep, sweep_summary
    from pdo_search.search.sweep import run_sweep

    console = screen()
    outcome = run_sweep(info, directory, address=address, console=console)
    shown = outcome.sweep.removeprefix(f"{os.getcwd()}/")
    if outcome.interrupted:
        console.print(
            "Interrupted; results are kept. Go on with:"
            f" pdo-search resume {shown}{_joined(address)}",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    print_sweep(sweep_summary(open_sweep(outcome.sweep)))
    console.print(f"Tables: {shown}   Again: pdo-search show {shown}", soft_wrap=True)
    if not outcome.counts.get("finished"):
        raise PdoError("no trial finished; the `cause` column of the trials table says why")


def _joined(address: str) -> str:
    return "" if address == "local" else f" --address {address}"


def _preflight(info: SweepInfo, directory: str, address: str) -> SweepInfo:
    """Refuse what cannot work before anything starts; the sweep, with the data's fingerprint."""
    from pdo_search.cli.check import preflight
    from pdo_search.search.admission import admit

    fingerprint = preflight(*admit(info, directory, address))
    return replace(info, fingerprint=info.fingerprint or fingerprint)


def _check_address(address: str) -> None:
    if address not in ("local", "auto"):
        raise InputError("is local or auto", path="--address", value=address)


def _print(found: dict[str, Any], as_json: bool, show_it: Callable[[dict[str, Any]], None]) -> None:
    from pdo_search.base.screen import check_written

    if as_json:
        print(json.dumps(found, indent=1, default=str))
    else:
        show_it(found)
    check_written()
