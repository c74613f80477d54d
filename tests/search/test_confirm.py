"""Confirmation: which runs there are; and on a real cluster: confirm, kill, go on, enlarge."""

from __future__ import annotations

import inspect
import json
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pdo_search
from pdo_search.cli.commands import sweeps
from pdo_search.results.interval import USUAL_SEEDS
from pdo_search.results.schema import TRIALS
from pdo_search.search.confirm import run_confirmation
from pdo_search.search.runs import Run, candidates, fresh_seeds, open_runs

from ..conftest import Pdo
from ..sweeps import OF_THE_RUN, TIMINGS, assert_whole, wait_for

METHODS = ("progressive", "scratch")
EXPERIMENT: dict[str, Any] = {
    "resources": {"cpus": 1, "max_concurrent": 1},
    "search": {"num_trials": 3, "baselines": ["scratch", "one_shot"], "baseline_trials": 2},
    "trial": {
        "epochs": 6,
        "num_stages": {"int": [2, 4]},
        "temperature": {"float": [1.0, 8.0]},
        "optimizer": {"lr": {"float": [0.02, 0.2], "log": True}, "batch_size": 16},
        "simplify": {"recovery_epochs": 0.2, "max_drop": 1.0},
        "composite": {"finetune_epochs": 0},
    },
}


def test_fresh_seeds_are_not_the_searchs_and_more_begin_with_fewer() -> None:
    for search_seed in range(50):
        seeds = fresh_seeds(search_seed, 20)
        assert len(set(seeds)) == 20
        assert search_seed not in seeds
        assert fresh_seeds(search_seed, 5) == seeds[:5]
    assert fresh_seeds(0, 5) != fresh_seeds(1, 5)


def test_ten_seeds_are_usual() -> None:
    for function in (sweeps.confirm, run_confirmation):
        assert inspect.signature(function).parameters["seeds"].default == USUAL_SEEDS == 10


def test_the_best_of_the_search_and_the_best_of_each_baseline_are_confirmed() -> None:
    rows = [
        {"method": "progressive", "objective": 0.8},
        {"method": "progressive", "objective": 0.9},
        {"method": "progressive", "objective": 0.99, "status": "stopped"},
        {"method": "scratch", "objective": 0.5},
        {"method": "scratch", "objective": 0.6},
        {"method": "progressive", "objective": 0.7},
    ]
    full = [
        {"number": n, "trial_id": f"t{n:04d}", "status": "finished", **row}
        for n, row in enumerate(rows)
    ]
    trials = pd.DataFrame(full, columns=[c.name for c in TRIALS.columns])
    assert candidates(trials, METHODS, 1, "max") == [1, 4]
    assert candidates(trials, METHODS, 2, "max") == [1, 0, 4]
    assert candidates(trials, METHODS, 9, "min") == [5, 0, 1, 3]


def test_what_finished_is_not_run_again_and_what_failed_is() -> None:
    runs = [Run(n, f"t{n:04d}", "scratch", {}, s) for s in (5, 6) for n in (0, 1)]
    rows = [
        {"number": 0, "seed": 5, "status": "finished"},
        {"number": 1, "seed": 5, "status": "failed"},
        {"number": 0, "seed": 6, "status": "running"},
        {"number": 7, "seed": 6, "status": "finished"},
    ]
    assert open_runs(runs, rows) == runs[1:]


def confirmed(sweep: Path) -> pd.DataFrame:
    """The table without clock readings."""
    found = pdo_search.open_sweep(sweep).confirmations
    kept = [c for c in found.columns if not c.endswith(TIMINGS) and c not in OF_THE_RUN]
    return found[kept]


@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_a_sweep_with_baselines_is_confirmed_killed_and_gone_on_with(pdo: Pdo) -> None:
    file = pdo.experiment(**EXPERIMENT)
    output = pdo.run("run", str(file), "--address", "auto", timeout=200)
    sweep = pdo.folder / "results" / "tiny"
    assert_whole(sweep, 7)
    opened = pdo_search.open_sweep(sweep)
    counts = opened.trials["method"].value_counts().to_dict()
    assert counts == {"progressive": 3, "scratch": 2, "one_shot": 2}
    assert "7 of 7 trials" in output
    assert "by method: 3 progressive, 2 scratch, 2 one_shot" in output
    assert "winner's curse" in output
    scratch = opened.trials[opened.trials["method"] == "scratch"]
    assert scratch["param.temperature"].isna().all()
    assert scratch["param.optimizer.lr"].notna().all()
    assert opened.best().objective == opened.trials["objective"].max()
    assert f"Best: {opened.best().name} ({opened.best().method}) with" in output
    assert opened.best(method="one_shot").method == "one_shot"
    composites = opened.composites

    confirm = ("confirm", str(sweep), "--top", "1", "--seeds", "2", "--address", "auto")
    process = pdo.start(*confirm)
    wait_for(process, "[  2/6]")
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = opened.refresh().confirmations
    ended = before[before["status"] == "finished"]
    assert 2 <= len(ended) < 6

    shown = pdo.run(*confirm)
    assert "With 2 seeds a difference between two methods will be known to ± 18.0 times" in shown
    assert "corrected for 2 comparisons); where that is too wide, --seeds 10 makes it ±" in shown
    assert "says next to nothing" in shown
    after = opened.refresh().confirmations
    assert len(after) == 6
    assert set(after["status"]) == {"finished"}
    assert not after.duplicated(["number", "seed"]).any()
    assert after.groupby("number")["seed"].apply(sorted).astype(str).nunique() == 1
    assert opened.info.seeds["search"] not in set(after["seed"])
    assert (after["epochs_done"] == 6).all()
    assert (after["test_examples"] == 239).all()
    assert after["test_accuracy"].between(0.1, 1).all()
    keys = ["number", "seed"]
    kept = after.merge(ended[keys], on=keys)
    assert kept["ended_at"].tolist() == ended.sort_values(keys)["ended_at"].tolist()
    for model in (*after["model"], *after["composite"].dropna()):
        assert pdo_search.load_model(sweep / model) is not None
    assert shown.count("Verdict: ") == 2

    # The full teacher is measured once, the composite with each run that has one.
    assert after["teacher_test_accuracy"].nunique() == 1
    assert after["teacher_test_accuracy"].notna().all()
    assert len(list((pdo.folder / "results" / ".store" / "tested").glob("*/*/tested.json"))) == 1
    own = after["method"] == "progressive"
    assert after["composite_test_accuracy"].notna().tolist() == own.tolist()
    assert (after["composite_flops"] > 0).tolist() == own.tolist()
    pd.testing.assert_frame_equal(opened.composites, composites)
    assert "Answer: the best student, " in shown
    assert "of the teacher's test accuracy" in shown
    assert next(line for line in shown.splitlines() if line.startswith("teacher ")).split()[1:]

    # The same runs, undisturbed, in a copy of the sweep's tables: the same numbers.
    other = pdo.folder / "results" / "copy"
    for name in ("sweep.json", "trials"):
        source = sweep / name
        other.mkdir(exist_ok=True)
        if source.is_dir():
            (other / name).mkdir()
            for part in source.iterdir():
                (other / name / part.name).write_bytes(part.read_bytes())
        else:
            (other / name).write_bytes(source.read_bytes())
    pdo.run("confirm", str(other), "--seeds", "2", "--address", "auto")
    pd.testing.assert_frame_equal(confirmed(other), confirmed(sweep), check_exact=True)

    # Once more there is nothing to do; JSON alone on standard output; `show` has the verdicts.
    again = pdo.run(*confirm, "--json")
    payload = json.loads(again[again.index("{") :])
    assert [d["second"] for d in payload["differences"]]
    assert opened.refresh().confirmations["ended_at"].tolist() == after["ended_at"].tolist()
    summary = json.loads(pdo.run("show", str(sweep), "--json"))
    assert summary["confirmation"] == payload
    assert summary["note"] is None
    assert [m["method"] for m in summary["methods"]] == ["progressive", "scratch", "one_shot"]

    # Extending adds trials of the search's own method; the new best is no longer confirmed.
    pdo.run("resume", str(sweep), "--trials", "+1", "--address", "auto")
    counts = opened.refresh().trials["method"].value_counts().to_dict()
    assert counts == {"progressive": 4, "scratch": 2, "one_shot": 2}
