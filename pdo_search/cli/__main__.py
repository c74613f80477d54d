"""``python -m pdo_search.cli``: the command line."""

from pdo_search.cli.main import main

main()
