"""Nodes that die under trials: no failure of the trials, which go on elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

import pdo_search
from pdo_search.results.schema import Decision
from pdo_search.search.retries import Retries, node_went_away

from ..conftest import Pdo
from ..sweeps import SERIAL, assert_whole, same_numbers
from .test_trials import SLOW

pytestmark = pytest.mark.faults

GONE = RayActorError(error_msg="The actor is dead because its node has died. Node Id: 0a")
PREEMPTED = RayActorError(error_msg="drained", preempted=True)
DIED = ActorDiedError()


def test_a_lost_node_counts_apart_and_not_without_end() -> None:
    retries = Retries(1, most_lost_nodes=3)
    told = [retries.note(7, error) for error in (GONE, PREEMPTED, DIED, GONE, DIED)]
    assert [again for *_, again in told] == [True, True, True, True, False]
    assert [what for what, *_ in told] == [
        *2 * [Decision.NODE_LOST], Decision.PROCESS_DIED, Decision.NODE_LOST, Decision.PROCESS_DIED
    ]  # fmt: skip
    assert not retries.note(7, GONE)[2]
    assert retries.note(8, DIED)[2]
    assert node_went_away(ActorUnavailableError("Socket closed", None))
    assert not node_went_away(None)


def lose_nodes(pdo: Pdo, name: str, losses: int) -> Path:
    script = Path(__file__).with_name("lose_nodes.py")
    env: dict[str, Any] = {k: v for k, v in pdo.env.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(script), str(pdo.folder / "experiment.yaml"), name, str(losses)],
        cwd=pdo.folder,
        env={**env, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "free CPUs: 2.0" in done.stdout, done.stdout
    return pdo.folder / "results" / name


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_trials_of_dead_nodes_go_on_elsewhere_whatever_the_retries(pdo: Pdo) -> None:
    (pdo.folder / "slow.py").write_text(SLOW)
    # Trials that last: a node takes seconds to die, and as long to be found dead.
    args = {"steps": str(pdo.folder / "steps"), "pause": 0.05}
    pdo.experiment(
        **{**SERIAL, "resources": {"cpus": 1, "max_concurrent": 2}},
        student={"arch": "slow:student", "width": None, "args": args},
        # What the sampler draws and when trials end does not hang on which of two is faster.
        search={"num_trials": 4, "sampler": "random", "retries": 0},
        scheduler={"kind": "none"},
    )
    whole = lose_nodes(pdo, "whole", 0)
    sweep = lose_nodes(pdo, "lost", 2)
    assert_whole(sweep, 4)
    same_numbers(whole, sweep)
    again = pdo_search.open_sweep(sweep).trials.query("attempt > 1")
    assert len(again) >= 1
    assert again["cause"].str.contains("went away").all(), again["cause"].tolist()
