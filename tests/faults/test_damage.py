"""Files damaged on the disk: noticed, named, set aside or built again; the sweep goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import pdo_search

from ..conftest import Cluster, Pdo
from ..sweeps import WHOLE_TRIALS, assert_free, assert_whole, same_numbers, tables, wait_for


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Lose the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(200)
def test_a_resumed_sweep_builds_again_what_is_damaged(pdo: Pdo, ray_cluster: Cluster) -> None:
    file = pdo.experiment(**WHOLE_TRIALS)
    process = pdo.start("run", str(file), "--address", "auto", "--name", "damaged")
    wait_for(process, "[  3/6]")
    sweep = pdo.folder / "results" / "damaged"
    checkpoint = sweep / "checkpoints" / "t0003" / "state.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    flip(checkpoint)
    cut(sweep / "trials" / "part-00000.parquet")
    store = pdo.folder / "results" / ".store"
    for kind, ends in (("bank", "class.npy"), ("level", ".safetensors")):
        found = sorted(f for f in (store / kind).rglob("*") if f.name.endswith(ends))
        assert found, [str(f) for f in store.rglob("*")]
        # Not every one is needed by the trials that are left: those that are must be noticed.
        for damaged in found:
            flip(damaged)
    said = pdo.run("resume", str(sweep), "--address", "auto")
    assert ".damaged-trials-part-00000.parquet" in said
    assert list(checkpoint.parent.glob("damaged-*.ckpt"))
    assert len(list((store / ".damaged").iterdir())) >= 2
    assert_whole(sweep, 6)
    clean = ("--name", "whole", "--set", "output.root=clean")
    pdo.run("run", str(file), "--address", "auto", *clean)
    same_numbers(pdo.folder / "clean" / "whole", sweep)
    assert_free(ray_cluster)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_damaged_part_of_a_table_costs_its_rows_and_no_others(pdo: Pdo) -> None:
    file = pdo.experiment(**WHOLE_TRIALS, search={"num_trials": 2})
    pdo.run("run", str(file), "--address", "auto")
    sweep = pdo.folder / "results" / "tiny"
    before = tables(sweep)
    flip(sweep / "epochs" / "part-00000.parquet")
    said = pdo.run("resume", str(sweep), "--trials", "+1", "--address", "auto")
    assert f"{sweep}/.damaged-epochs-part-00000.parquet" in said
    after = tables(sweep)
    assert len(after["trials"]) == 3
    pd.testing.assert_frame_equal(after["trials"].head(2), before["trials"])
    assert set(after["epochs"]["number"]) == {2}


RUNG = """
import sys, time, torch
from pathlib import Path
from pdo_search.config import load_experiment, resolve
from pdo_search.distill import ladder as module
from pdo_search.distill.context import Context
from pdo_search.distill.ladder import Ladder
from pdo_search.search.session import first_suggestion
from pdo_search.trial.worker import prepare
loaded = load_experiment(sys.argv[1])
config = resolve(loaded.experiment, first_suggestion(loaded)["point"])
on = Context(sys.argv[2], torch.device("cpu"))
full = prepare(config, on)

def held_after(function):
    def hold(*args, **more):
        result = function(*args, **more)
        print("held", flush=True)
        time.sleep(60)
        return result
    return hold

for name in sys.argv[3:]:
    setattr(module, name, held_after(getattr(module, name)))
ladder = Ladder(on.task(config.task), full, config.recipe, on, seed=config.seed)
print(ladder.level(1).path, flush=True)
"""


def build_rung(experiment: Path, store: Path, *hold: str) -> subprocess.Popen[str]:
    """Start building a level in another process, which is to wait after a step."""
    command = [sys.executable, "-c", RUNG, str(experiment), str(store), *hold]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# Not among the long faults, which wait to be asked for.
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", ["simplified", "save_model"])
def test_a_rung_whose_builder_is_killed_is_built_again_to_the_same_bits(
    tmp_path: Path, step: str
) -> None:
    recipe = {"prune_ratio": 0.25, "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0}}
    experiment = Pdo(tmp_path, dict(os.environ)).experiment(trial=recipe)
    first = build_rung(experiment, tmp_path / "killed", step)
    wait_for(first, "held")
    first.kill()
    first.communicate()
    assert list((tmp_path / "killed" / "level").glob("*/.*"))
    models = []
    for store in ("killed", "whole"):
        process = build_rung(experiment, tmp_path / store)
        path = Path(process.communicate()[0].split()[-1])
        assert path.is_relative_to(tmp_path / store / "level")
        (model,) = path.glob("*.safetensors")
        models.append(model.read_bytes())
    assert models[0] == models[1]
    assert not [f for f in (tmp_path / "killed" / "level").glob("*/.*") if f.is_dir()]
    assert pdo_search.load_model(path) is not None
