"""Commands that read a finished or running sweep: `show`."""

from __future__ import annotations

from pdo_search.cli.commands.common import AsJson, Directory, give

__all__ = ["show"]


def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show a sweep: leaderboard, front, teacher, counts. Works while it runs."""
    from pdo_search.analysis.summary import sweep_summary
    from pdo_search.analysis.sweep import open_sweep
    from pdo_search.cli.show import print_sweep

    give(sweep_summary(open_sweep(directory)), as_json, print_sweep)
