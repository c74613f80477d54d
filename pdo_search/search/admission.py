"""The door of `run`, `resume`, `confirm` and `check`: what is refused before Ray is started.

Owns the order of the checks that need no data and no model; those that do are ``check``'s.
"""

from __future__ import annotations

from pdo_search.config.load import Loaded
from pdo_search.config.resolve import most_trials
from pdo_search.results.sweepfile import SweepInfo
from pdo_search.search.cluster import check_local, check_temporary
from pdo_search.search.places import free_bytes, refuse_places
from pdo_search.search.session import absolute, loaded_of

__all__ = ["admit"]

LITTLE_DISK = 1 << 30


def admit(info: SweepInfo, directory: str, address: str) -> tuple[Loaded, list[str]]:
    """Refuse what cannot run; the experiment, and lines that its user should read.

    Args:
        info: what the sweep is asked to do.
        directory: of the sweep, path or URI.
        address: ``local``, whose resources are known here, or ``auto``.

    Raises:
        InputError: places, resources or earlier sweeps cannot be used.
    """
    loaded = loaded_of(info)
    directory = absolute(directory)
    check_temporary()
    refuse_places(directory, info.store, loaded.file)
    if address == "local":
        check_local(loaded.experiment.resources, loaded.file)
    if loaded.experiment.search.warm_start:
        from pdo_search.search.warm_start import priors_of

        priors_of(loaded, directory, info.fingerprint)
    return loaded, [*_about_space(info, loaded), *_about_disk(directory)]


def _about_space(info: SweepInfo, loaded: Loaded) -> list[str]:
    """Says where a search ends before its trials are used up."""
    return [
        f"{method}: {most} of the {asked} trials, as there are no more points to try"
        for method, asked in info.trials_by_method.items()
        if (most := most_trials(loaded.experiment, loaded.space, method)) < asked
    ]


def _about_disk(directory: str) -> list[str]:
    free = free_bytes(directory)
    if free is None or free >= LITTLE_DISK:
        return []
    return [f"Warning: {free / (1 << 20):.0f} MiB are free on the disk of {directory}"]
