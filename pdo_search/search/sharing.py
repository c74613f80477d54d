"""Whether the machines of a cluster share what a sweep needs, asked before its first trial.

Machines that join later ask themselves (``trial.shared.check_visible``).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError
from pdo_search.config.run import ResourcesConfig
from pdo_search.trial.shared import REMEDY, exchange, note, remove

__all__ = ["check_cluster"]

log = logging.getLogger(__name__)

ANSWER_S = 180.0
"""For a machine's answer: it starts a process for it, which may have to fetch the job's code."""


def check_cluster(
    folders: Mapping[str, str], resources: ResourcesConfig, *, base_dir: str | None, file: Path
) -> None:
    """Let every machine that can run trials write and read in the sweep's folders.

    Args:
        folders: paths or URIs by what the experiment calls them.
        resources: of a trial.
        base_dir: the experiment's own folder, if trials need it.
        file: of the experiment, for messages.

    Raises:
        InputError: a machine has other folders than this one, or none.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and _runs_trials(node["Resources"], resources)
    }
    if not nodes:
        return
    token = f".shared-{secrets.token_hex(8)}"
    own = {node: f"{token}-{node}" for node in nodes}
    names: dict[str, str] = {}
    for name, place in folders.items():
        names.setdefault(place, name)
    try:
        for place, name in names.items():
            _note(place, token, name, file)
        answers = _asked(list(names), token, own, base_dir)
        for place, name in names.items():
            wrong = {
                nodes[node]: answer.get(place) or "what it writes there is not seen here"
                for node, answer in answers.items()
                if not remove(place, own[node]) or place in answer
            }
            if wrong:
                raise _unshared(wrong, place, name).at(file=file)
    finally:
        for place in names:
            remove(place, token)
    lacking = [nodes[node] for node, answer in answers.items() if base_dir in answer]
    if lacking:
        raise InputError(
            f"the experiment's folder is not on {', '.join(lacking)}",
            file=file,
            value=base_dir,
            remedy="list it under file_mounts in cluster.yaml, and run `ray up` again",
        )


def _unshared(wrong: Mapping[str, str], place: str, name: str) -> InputError:
    machine, why = next(iter(wrong.items()))
    return InputError(
        f"is not shared by the machines of the cluster: not by {', '.join(wrong)};"
        f" on {machine}: {why}",
        path=name,
        value=place,
        remedy=REMEDY,
    )


def _note(place: str, token: str, name: str, file: Path) -> None:
    try:
        note(place, token)
    except Exception as error:  # An object store raises what it likes.
        raise InputError(
            f"cannot be written: {error}", file=file, path=name, value=place
        ) from error


def _runs_trials(there: Mapping[str, float], asked: ResourcesConfig) -> bool:
    return there.get("CPU", 0.0) >= asked.cpus and there.get("GPU", 0.0) >= asked.num_gpus


def _asked(
    places: Sequence[str], token: str, own: Mapping[str, str], base_dir: str | None
) -> dict[str, dict[str, str]]:
    """What machines say is wrong, by machine and folder; those that went away say nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(_answer)
    asked: dict[Any, str] = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        ).remote(partial(exchange, places, token, name), base_dir): node
        for node, name in own.items()
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    answers = {}
    for ref in done:
        try:
            answers[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            log.warning("node %s went away: %s", asked[ref], error)
    for ref in late:
        log.warning("node %s did not answer within %g s", asked[ref], ANSWER_S)
        ray.cancel(ref)
    return answers


def _answer(exchanged: Any, base_dir: str | None) -> dict[str, str]:
    """On another machine: what is wrong there."""
    wrong: dict[str, str] = exchanged()
    if base_dir is not None and not Path(base_dir).is_dir():
        wrong[base_dir] = "is not there"
    return wrong
