"""Earlier sweeps as prior knowledge: what is taken of them, what is told, and that it repeats."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from pdo_search.base.errors import InputError
from pdo_search.config import Loaded, parse_experiment
from pdo_search.results.schema import TrialStatus, param_types, trial_id
from pdo_search.results.sweepfile import SweepInfo, read_sweep_file, write_sweep_file
from pdo_search.results.writer import TableWriter
from pdo_search.search.session import loaded_of
from pdo_search.search.tune.searcher import OptunaSearcher, PastTrial
from pdo_search.search.warm_start import Prior, keep_priors, priors_of

from ..conftest import TINY


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tree with the changes merged in, section by section; ``...`` removes a key."""
    result = dict(tree)
    for key, value in changes.items():
        if value is ...:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def experiment(folder: Path, **changes: Any) -> Loaded:
    return parse_experiment(merged(TINY, changes), file=folder / "tiny.yaml", base_dir=folder)


def trial(number: int, **columns: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status": "finished",
        "method": "progressive",
        "param.num_stages": 1 + number % 3,
        "param.temperature": 1.0 + number,
        "param.optimizer.lr": 0.05,
        "objective": 0.5 + number / 100,
        "params": 1000,
    }
    return {"number": number, "trial_id": trial_id(number), **values, **columns}


def earlier_sweep(folder: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    """Write an earlier sweep below a folder; every trial has two epochs."""
    loaded = experiment(folder, **changes)
    search = loaded.experiment.search
    sweep = folder / "results" / "before"
    info = SweepInfo(
        name="before", given=loaded.given, resolved=loaded.experiment.model_dump(mode="json"),
        file=str(loaded.file), base_dir=str(folder), metric=search.metric, mode=search.mode,
        num_trials=len(rows), store=str(folder / "store"),
    )  # fmt: skip
    write_sweep_file(sweep, info)
    writer = TableWriter(sweep, param_types(loaded.space))
    for row in rows:
        writer.upsert("trials", row)
        identity = {"number": row["number"], "trial_id": row["trial_id"]}
        for epoch in (1, 2):
            writer.upsert("epochs", {**identity, "epoch": epoch, "val_accuracy": epoch / 10})
    writer.flush()
    return sweep


def prior_of(folder: Path, **changes: Any) -> Prior:
    """What a new experiment takes from the earlier sweep of the folder."""
    here = experiment(folder, **merged({"search": {"warm_start": ["results/before"]}}, changes))
    return priors_of(here, str(folder / "results" / "new"))[0]


def test_finished_trials_are_taken_with_value_and_stopped_ones_with_their_curve(
    tmp_path: Path,
) -> None:
    earlier_sweep(
        tmp_path,
        trial(0),
        trial(1, status="stopped"),
        trial(2, status="interrupted", objective=None),
        trial(3, status="failed"),
    )
    prior = prior_of(tmp_path)
    point = {"num_stages": 1, "temperature": 1.0, "optimizer.lr": 0.05}
    assert prior.taken[0] == PastTrial(0, point, TrialStatus.FINISHED, 0.5, {1: 0.1, 2: 0.2})
    assert [(t.number, t.status, t.value) for t in prior.taken[1:]] == [
        (1, TrialStatus.STOPPED, None),
        (2, TrialStatus.STOPPED, None),
    ]
    assert str(prior) == "3 of 4 trials of results/before taken, 1 left out (failed)"


def test_values_outside_of_a_narrower_space_are_left_out(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, *map(trial, range(6)))
    prior = prior_of(tmp_path, trial={"temperature": {"float": [1.0, 3.0]}})
    assert [t.point["temperature"] for t in prior.taken] == [1.0, 2.0, 3.0]
    assert prior.left_out == {"temperature outside of this space": 3}


def test_a_dimension_that_is_fixed_here_is_ignored_only_at_that_value(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, *map(trial, range(6)))
    prior = prior_of(tmp_path, trial={"num_stages": 2})
    assert [t.number for t in prior.taken] == [1, 4]
    assert set(prior.taken[0].point) == {"temperature", "optimizer.lr"}
    assert prior.left_out == {"num_stages other than here": 4}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"float": [0.0, 2.0]}, 1.3),
        ({"choice": [1.3, 0.9]}, 1.3),
        ({"float": [0.1, 1.5], "step": 0.1}, 1.3),
        ({"float": [1.4, 2.0]}, None),
    ],
)
def test_a_dimension_that_was_fixed_there_takes_its_value_and_defaults_count(
    tmp_path: Path, node: dict[str, Any], value: float | None
) -> None:
    earlier_sweep(tmp_path, trial(0))
    prior = prior_of(tmp_path, trial={"loss": {"avg": node}})
    if value is None:
        assert prior.left_out == {"loss.avg outside of this space": 1}
    else:
        assert prior.taken[0].point["loss.avg"] == pytest.approx(value, abs=0)


def test_a_student_that_was_fixed_may_be_searched_here(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, trial(0))
    prior = prior_of(tmp_path, student={"width": {"int": [2, 8]}})
    assert prior.taken[0].point["student.width"] == 4


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"task": {"data": {"limit": 1000}}}, "task.data.limit"),
        ({"task": {"seed": 1}}, "task.seed"),
        ({"teacher": {"width": 16}}, "teacher.width"),
        ({"student": {"width": 5}}, "student.width"),
        ({"trial": {"epochs": 5}}, "epochs"),
        ({"trial": {"optimizer": {"schedule": "constant"}}}, "optimizer.schedule"),
        ({"search": {"metric": "val_f1"}}, "search.metric"),
    ],
)
def test_what_makes_values_incomparable_is_refused_and_named(
    tmp_path: Path, changes: dict[str, Any], path: str
) -> None:
    earlier_sweep(tmp_path, trial(0), trial(1))
    prior = prior_of(tmp_path, **changes)
    assert not prior.taken
    assert prior.left_out == {f"{path} other than here": 2}
    assert str(prior).startswith("0 of 2 trials of results/before taken, 2 left out (")


def test_what_changes_no_value_may_differ(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, trial(0))
    prior = prior_of(
        tmp_path,
        name="another",
        search={"seed": 5, "num_trials": 99},
        scheduler={"kind": "none"},
        resources={"cpus": 2},
        trial={"composite": None},
    )
    assert len(prior.taken) == 1


def test_limits_decide_what_is_told_as_infeasible(tmp_path: Path) -> None:
    infeasible = trial(0, status="infeasible", objective=None)
    earlier_sweep(tmp_path, infeasible, trial(1), limits={"params": 2000})
    same = prior_of(tmp_path, limits={"params": 2000, "wall": "1h"})
    assert [t.status.value for t in same.taken] == ["infeasible", "finished"]
    looser = prior_of(tmp_path, limits={"params": 3000})
    assert looser.left_out == {"infeasible under other limits": 1}
    stricter = prior_of(tmp_path, limits={"params": 500})
    assert [(t.number, t.status.value) for t in stricter.taken] == [(1, "infeasible")]


def test_a_directory_that_is_no_sweep_is_refused_by_its_place(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, trial(0))
    with pytest.raises(InputError, match="no sweep directory") as caught:
        prior_of(tmp_path, search={"warm_start": ["results/before", "results/nothing"]})
    assert caught.value.path == "search.warm_start.1"
    assert caught.value.value == str(tmp_path / "results" / "nothing")


def test_samplers_that_learn_nothing_take_no_warm_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="warm_start is for tpe"):
        experiment(tmp_path, search={"warm_start": ["x"], "sampler": "random"})


def test_many_reasons_are_counted_the_most_frequent_first() -> None:
    prior = Prior("a", (), {"w": 1, "x": 3, "y": 2, "z": 1})
    assert str(prior) == "0 of 7 trials of a taken, 7 left out (3 x; 2 y; 1 w; others)"


def test_what_was_taken_is_kept_whatever_becomes_of_the_earlier_sweep(tmp_path: Path) -> None:
    before = earlier_sweep(tmp_path, trial(0), trial(1, status="stopped"), trial(2))
    here = experiment(tmp_path, search={"warm_start": ["results/before"]})
    new = str(tmp_path / "results" / "new")
    first = priors_of(here, new)
    keep_priors(new, first)
    shutil.rmtree(before)
    assert priors_of(here, new) == first


@pytest.mark.parametrize("temperature", [99.0, "hot", None])
def test_a_damaged_record_is_refused(tmp_path: Path, temperature: Any) -> None:
    earlier_sweep(tmp_path, trial(0))
    here = experiment(tmp_path, search={"warm_start": ["results/before"]})
    new = tmp_path / "results" / "new"
    keep_priors(str(new), priors_of(here, str(new)))
    content = json.loads((new / "warm_start.json").read_text())
    content[0]["taken"][0]["point"]["temperature"] = temperature
    (new / "warm_start.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="outside of the space"):
        priors_of(here, str(new))
    (new / "warm_start.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        priors_of(here, str(new))


def searcher(loaded: Loaded, prior: Prior | None, *past: PastTrial) -> OptunaSearcher:
    search = loaded.experiment.search
    taken = prior.taken if prior else ()
    return OptunaSearcher(loaded.space, search, num_new=6 - len(past), past=past, prior=taken)


def suggestions(found: OptunaSearcher, first: int = 0) -> list[dict[str, Any]]:
    """What is suggested to the end, every trial finishing with a value of its number."""
    points: list[dict[str, Any]] = []
    while isinstance(suggestion := found.suggest(str(first + len(points))), dict):
        name = str(suggestion["number"])
        found.on_trial_result(name, {"epoch": 4, "val_accuracy": suggestion["number"] / 10})
        found.on_trial_result(name, {"status": "finished", "ended": True})
        found.on_trial_complete(name)
        points.append(suggestion)
    return points


def test_the_sampler_learns_from_them_before_its_first_suggestion(tmp_path: Path) -> None:
    rows = [trial(n, **{"param.temperature": 1.0 + 7 * n / 29}) for n in range(30)]
    for row in rows:
        row["objective"] = 1 - abs(row["param.temperature"] - 6.0) / 8
    earlier_sweep(tmp_path, *rows)
    here = experiment(tmp_path)
    prior = prior_of(tmp_path)
    warm = [s["point"]["temperature"] for s in suggestions(searcher(here, prior))]
    cold = [s["point"]["temperature"] for s in suggestions(searcher(here, None))]
    assert sum(abs(t - 6.0) for t in warm[:3]) < sum(abs(t - 6.0) for t in cold[:3])
    assert all(abs(t - 6.0) < 2 for t in warm[:3])


def test_they_are_no_trials_of_the_sweep_and_may_be_run_again(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, *map(trial, range(3)))
    prior = prior_of(tmp_path)
    again = prior.taken[1].point
    here = experiment(tmp_path, search={"points": [again]})
    found = suggestions(searcher(here, prior))
    assert [s["number"] for s in found] == list(range(6))
    assert found[0]["point"] == again


def test_resumed_with_the_same_prior_it_goes_on_as_if_never_cut_off(tmp_path: Path) -> None:
    earlier_sweep(tmp_path, *map(trial, range(5)), trial(5, status="stopped"))
    here, prior = experiment(tmp_path), prior_of(tmp_path)
    whole = suggestions(searcher(here, prior))
    past = [
        PastTrial(s["number"], s["point"], TrialStatus.FINISHED, s["number"] / 10, {4: 0.1})
        for s in whole[:3]
    ]
    assert suggestions(searcher(here, prior, *past), first=3) == whole[3:]


def test_optuna_is_told_what_they_were(tmp_path: Path) -> None:
    rows = (trial(0), trial(1, status="stopped"), trial(2, status="infeasible", objective=None))
    earlier_sweep(tmp_path, *rows)
    found = searcher(experiment(tmp_path), prior_of(tmp_path))
    states = [t.state for t in found.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert found.study.trials[1].intermediate_values == {1: 0.1, 2: 0.2}
    assert found.study.trials[2].constraints == {"feasible": 1.0}


def test_a_sweep_whose_loss_weights_meant_something_else_is_not_gone_on_with(
    tmp_path: Path,
) -> None:
    file = earlier_sweep(tmp_path, trial(0)) / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    with pytest.raises(InputError, match="means over each split"):
        loaded_of(read_sweep_file(file.parent))
    with pytest.raises(InputError, match="means over each split"):
        prior_of(tmp_path)


def test_trials_of_other_data_are_left_out(tmp_path: Path) -> None:
    sweep = earlier_sweep(tmp_path, trial(0))
    info = read_sweep_file(sweep)
    write_sweep_file(sweep, replace(info, fingerprint="one"))
    here = experiment(tmp_path, search={"warm_start": ["results/before"]})
    new = str(tmp_path / "results" / "new")
    assert priors_of(here, new, "two")[0].left_out == {"of other data": 1}
    for same in ("one", None):
        assert len(priors_of(here, new, same)[0].taken) == 1
