"""Commands of the store: `store ls`, `store verify`, `store gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from pdo_search.cli.commands.common import AsJson, Root, give

__all__ = ["app"]

app = typer.Typer(
    help="Look after the artifact store: teachers, ladders and banks that sweeps share.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_STORE = "results/.store"


@app.command()
def ls(root: Root = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List artifacts: what they are, their size, age and last use."""
    from pdo_search.cli.store import print_listing
    from pdo_search.store.housekeeping import listing

    give(listing(root), as_json, print_listing)


@app.command()
def verify(
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
    give(found, as_json, print_verification)
    if found["damaged"]:
        raise typer.Exit(1)


@app.command()
def gc(
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
        str | None, typer.Option(help="Only of this kind: teacher, level, bank, tested.")
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
    give(collect(root, criteria, dry_run=dry_run), as_json, print_collected)
