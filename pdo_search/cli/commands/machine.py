"""Commands that need no sweep: `schema`, `doctor`."""

from __future__ import annotations

import json

from pdo_search.cli.commands.common import AsJson, give

__all__ = ["doctor", "schema"]


def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    from pdo_search.config.jsonschema import experiment_schema

    print(json.dumps(experiment_schema(), indent=1))


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has and lacks."""
    from pdo_search.cli.doctor import examine, print_examination

    give(examine(), as_json, print_examination)
