"""The command line. Imports what a command needs when it runs: `--help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. What a user can cause is told in words,
never as a traceback.
"""

from __future__ import annotations

import gc
import os
import sys

import typer

from pdo_search.base.errors import InputError, PdoError
from pdo_search.cli.commands import machine, show, store, sweeps
from pdo_search.cli.commands.common import INTERRUPTED

__all__ = ["app", "main", "run_command"]

app = typer.Typer(
    help="Search progressive knowledge distillation: turn a big model into a small one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    sweeps.run, sweeps.resume, sweeps.check, show.show, sweeps.confirm, machine.schema,
    machine.doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(store.app, name="store")


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
