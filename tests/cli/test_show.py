"""What `show` says: read from real tables, on paper of 100 columns."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pdo_search.analysis.answer import percent
from pdo_search.analysis.summary import sweep_summary
from pdo_search.analysis.sweep import open_sweep
from pdo_search.base.process import identity
from pdo_search.cli.cells import count, duration, short_names
from pdo_search.cli.show import print_sweep
from pdo_search.results.driver import HOLDER
from pdo_search.results.schema import Type, trial_id
from pdo_search.results.sweepfile import SweepInfo, write_sweep_file
from pdo_search.results.writer import TableWriter

PARAMS: dict[str, Type] = {
    "temperature": "float64",
    "num_stages": "int64",
    "teacher_order": "string",
    "curriculum.adaptive": "bool",
    "loss.kl": "float64",
    "loss.avg": "float64",
    "optimizer.lr": "float64",
}


def write_sweep(
    directory: Path, *trials: dict[str, Any], composite: Sequence[str] | None = None, **info: Any
) -> Path:
    """A sweep with the given trials; ``composite`` names those that have one, by default all."""
    values: dict[str, Any] = {
        "name": "digits",
        "given": {},
        "resolved": {
            "task": {"kind": "image_classification", "data": {"source": "digits"}},
            "teacher": {"arch": "small_resnet"},
        },
        "file": "experiments/digits.yaml",
        "base_dir": "experiments",
        "metric": "val_accuracy",
        "mode": "max",
        "num_trials": 12,
        "store": "results/.store",
    }
    write_sweep_file(directory, SweepInfo(**{**values, **info}))
    writer = TableWriter(directory, PARAMS)
    for number, columns in enumerate(trials):
        identity = {"number": number, "trial_id": trial_id(number)}
        row = {
            **identity,
            "method": "progressive",
            "status": "finished",
            "objective": 0.9 - number / 100,
            "val_accuracy": 0.9 - number / 100,
            "val_score": 0.9 - number / 100,
            "params": 12_345 * (number + 1),
            "flops": 4.1e6 * (number + 1),
            "latency_ms": 0.25,
            "epochs_done": 12,
            "wall_s": 125.0,
            "teacher_params": 696_042,
            "teacher_flops": 13_146_624.0,
            "teacher_latency_ms": 0.5,
            "teacher_score": 0.98,
            "param.temperature": 1.5 + number,
            "param.num_stages": 2,
            "param.teacher_order": "descending",
            "param.curriculum.adaptive": number % 2 == 0,
            "param.loss.kl": 0.123456 + number,
            "param.loss.avg": 0.1 * number,
            "param.optimizer.lr": 0.01 * (number + 1),
        }
        writer.upsert("trials", {**row, **columns})
        for mode, chosen in (("student", False), ("cascade", True)):
            combined = composite is None or identity["trial_id"] in composite
            if combined and {**row, **columns}["status"] == "finished":
                values = {
                    "val_accuracy": 0.95,
                    "val_score": 0.95,
                    "flops": 5e6 + number,
                    "deferred": 0.037,
                }
                writer.upsert("composites", {**identity, "mode": mode, "chosen": chosen, **values})
    writer.flush()
    return directory


def shown(sweep: Path, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_sweep(sweep_summary(open_sweep(sweep)), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_sweep_at_a_glance(tmp_path: Path) -> None:
    text = shown(
        write_sweep(
            tmp_path,
            {},
            {},
            {"status": "stopped", "objective": 0.4, "epochs_done": 3},
            {"status": "failed", "cause": "Diverged: the loss became nan in epoch 2"},
            {"status": "interrupted"},
        )
    )
    lines = text.splitlines()
    assert lines[0] == "digits: image_classification on digits"
    assert lines[1] == "5 of 12 trials: 2 finished, 1 stopped, 1 failed, 1 interrupted"
    assert "1 failed: Diverged: the loss became nan in epoch 2" in text
    assert f"pdo-search resume {tmp_path}" in text
    found = {line.split("  ")[0]: line.split() for line in lines if line}
    assert found["Teacher"][1:4] == ["0.9800", "696k", "13.1M"]
    assert found["Best student"][2:6] == ["0.9000", "(91.8%)", "12.3k", "(1.8%)"]
    assert "cascade, defers 3.7%" in text
    assert found["t0002"][:8] == [
        "t0002", "stopped", "0.4000", "37.0k", "12.3M", "0.25", "3", "2m05s",
    ]  # fmt: skip
    assert text.index("t0000  finished") < text.index("t0001  finished")
    assert "composite cascade" in text
    assert "Best: t0000 (progressive) with temperature=1.5, num_stages=2" in text
    assert found["Best student"][-2:] == ["t0000", "progressive"]
    assert text.rstrip().endswith("confirmed on fresh seeds.")
    table = text[text.index("Leaderboard") : text.index("Best:")]
    assert "num_stages" not in table, "what does not differ tells nothing"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_nothing_of_the_leaderboard_is_cut_off(tmp_path: Path, width: int) -> None:
    text = shown(write_sweep(tmp_path, {}, {}, {}), width)
    table = text[text.index("Leaderboard") : text.index("Best:")].splitlines()
    assert max(map(len, table)) <= width
    if width >= 80:
        assert "…" not in "".join(table)
    if width == 200:
        assert "not shown" not in text
        assert all(name in table[1].split() for name in ("temperature", "kl", "avg", "lr"))
    if width == 80:
        assert "not shown: " in text


def test_another_metric_stands_beside_accuracy(tmp_path: Path) -> None:
    text = shown(write_sweep(tmp_path, {"objective": 0.31}, metric="val_loss", mode="min"))
    header = next(line for line in text.splitlines() if line.startswith("trial"))
    assert header.split()[2:4] == ["val_loss", "val_accuracy"]


def test_a_sweep_that_has_just_begun(tmp_path: Path) -> None:
    assert "No trial has reported an epoch yet" in shown(write_sweep(tmp_path / "a"))
    running = {"status": "running", "objective": None, "teacher_params": None}
    text = shown(write_sweep(tmp_path / "b", running))
    assert "1 of 12 trials: 1 running, 0 finished, 0 stopped, 0 failed" in text.splitlines()
    assert "Note" not in text


def test_missing_numbers_are_dashes(tmp_path: Path) -> None:
    missing = ("params", "flops", "latency_ms", "wall_s", "teacher_latency_ms", "val_accuracy")
    text = shown(write_sweep(tmp_path, dict.fromkeys(missing)))
    row = next(line for line in text.splitlines() if line.startswith("t0000"))
    assert row.split()[3:7] == ["-", "-", "-", "12"]


def test_json_has_the_same_numbers(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {}, {"status": "running", "objective": float("nan")})
    payload = json.loads(json.dumps(sweep_summary(open_sweep(sweep)), allow_nan=False))
    assert payload["name"] == "digits"
    assert payload["counts"]["running"] == 1
    assert payload["teacher"]["arch"] == "small_resnet"
    assert payload["best"]["trial_id"] == "t0000"
    assert payload["best"]["parameters"]["curriculum.adaptive"] is True
    assert payload["best"]["against_teacher"]["params"] == pytest.approx(12_345 / 696_042)
    assert payload["composite"]["mode"] == "cascade"
    assert [entry["trial_id"] for entry in payload["leaderboard"]] == ["t0000"]
    assert [model["mode"] for model in payload["front"]] == ["student", "cascade"]
    assert "biased upwards" in payload["note"]


def with_baselines(directory: Path, confirmed: bool, scratch: float = 0.7) -> Path:
    """Trials t0000 and t0001 of the search, t0002 of scratch; with three fresh seeds each."""
    sweep = write_sweep(
        directory,
        {},
        {},
        {
            "method": "scratch",
            "student_s": 30.0,
            "objective": scratch,
            "val_accuracy": scratch,
            "val_score": scratch,
            "flops": 4.1e6,
            "param.temperature": None,
        },
        baselines={"scratch": 4},
        composite=("t0000", "t0001"),
    )
    writer = TableWriter(sweep)
    identity = {"number": 0, "trial_id": "t0000"}
    for level, build_s in ((0, 60.0), (1, 5.0)):
        writer.upsert("teachers", {**identity, "level": level, "build_s": build_s})
    for number, method, accuracy in ((0, "progressive", 0.90), (2, "scratch", 0.80)):
        for seed, noise in ((11, 0.0), (12, 0.01), (13, 0.005 + number / 1000)):
            if confirmed:
                row = {
                    "number": number,
                    "trial_id": trial_id(number),
                    "method": method,
                    "seed": seed,
                    "status": "finished",
                    "val_accuracy": accuracy + noise,
                    "val_score": accuracy + noise,
                    "test_accuracy": accuracy - 0.02 + noise,
                    "test_examples": 360,
                    "params": 12_345,
                    "student_s": 4.0,
                }
                writer.upsert("confirmations", row)
    writer.flush()
    return sweep


@pytest.mark.parametrize("beside", ["val_bits_per_byte", "val_perplexity"])
def test_of_long_names_nothing_is_cut_off_either(tmp_path: Path, beside: str) -> None:
    summary = sweep_summary(open_sweep(with_baselines(tmp_path, confirmed=False)))
    named = json.loads(json.dumps(summary).replace("val_accuracy", "val_bits_per_byte"))
    for entry in named["leaderboard"]:
        entry["val_perplexity"] = 37.5
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_sweep({**named, "metric": beside}, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(text.count(part) == 1 for part in ("  teachers  ", "composite cascade", "tuned by"))


def test_methods_stand_beside_each_other_with_what_they_cost(tmp_path: Path) -> None:
    sweep = with_baselines(tmp_path, confirmed=False)
    text = shown(sweep)
    assert "3 of 16 trials: 3 finished" in text
    assert "by method: 2 progressive, 1 scratch" in text
    table = text[text.index("The best of each method") :].splitlines()
    found = {line.split()[0]: line.split() for line in table[2:4]}
    assert found["progressive"][1:] == [
        "t0000", "0.9000", "12.3k", "4.10M", "12", "-", "1m05s", "2", "trials,", "24", "epochs",
    ]  # fmt: skip
    assert found["scratch"][1:8] == ["t0002", "0.7000", "37.0k", "4.10M", "12", "30s", "0.0s"]
    leaders = text[text.index("Leaderboard of progressive") : text.index("Pareto front")]
    assert "t0002" not in leaders
    assert "winner's curse" in text


def test_what_is_confirmed_has_verdicts_and_no_winners_curse(tmp_path: Path) -> None:
    sweep = with_baselines(tmp_path, confirmed=True)
    text = shown(sweep)
    confirmed = text[text.index("Confirmed on fresh seeds") :]
    line = next(line for line in confirmed.splitlines() if line.startswith("progressive"))
    assert line.split()[:3] == ["progressive", "t0000", "0.9050"]
    assert "Confirmed on fresh seeds (3 each)" in confirmed
    assert "Answer" not in confirmed, "older versions did not measure the teacher"
    assert "one test split (360 examples)" in confirmed
    assert "Verdict: progressive beats scratch by 9.93 ± 0.29 points (3 seeds), p 4.5e-05" in text
    assert "winner's curse" not in text
    payload = json.loads(json.dumps(sweep_summary(open_sweep(sweep)), allow_nan=False))
    assert payload["note"] is None
    assert payload["confirmation"]["differences"][0]["second"] == "scratch"
    assert payload["confirmation"]["configurations"][0]["by_seed"]["12"] == pytest.approx(0.89)


def test_the_best_student_is_the_best_of_all_methods(tmp_path: Path) -> None:
    sweep = with_baselines(tmp_path, confirmed=False, scratch=0.93)
    text = shown(sweep)
    lines = {line[:14].strip(): line for line in text.splitlines()}
    assert lines["Best student"].split()[2] == "0.9300"
    assert lines["Best student"].rstrip().endswith("t0002 scratch")
    # Plain training has no composite: the best of the others is named with its trial.
    assert "t0000 cascade," in lines["Best composite"]
    assert "Its composite" not in text
    assert "Best: t0002 (scratch) with optimizer.lr=0.03" in text
    front = text[text.index("Pareto front") : text.index("Best: ")].splitlines()
    assert front[2].split()[:3] == ["student", "scratch", "t0002"]
    payload = json.loads(json.dumps(sweep_summary(open_sweep(sweep)), allow_nan=False))
    assert (payload["best"]["trial_id"], payload["best"]["method"]) == ("t0002", "scratch")
    assert payload["composite"]["trial_id"] == "t0000"
    assert {entry["method"] for entry in payload["leaderboard"]} == {"progressive"}


def with_teacher(sweep: Path) -> Path:
    """The same confirmation as this version has it: with the teacher's and composites' values."""
    writer = TableWriter(sweep)
    for row in list(writer.rows("confirmations")):
        teacher = {
            "teacher_score": 0.98,
            "teacher_test_accuracy": 0.97,
            "teacher_params": 696_042,
            "teacher_flops": 13_146_624.0,
            "flops": 39e3,
        }
        composite = {
            "composite_mode": "cascade",
            "composite_score": 0.95,
            "composite_test_accuracy": 0.94 + row["test_accuracy"] / 100,
            "composite_flops": 470e3,
            "composite_deferred": 0.04,
        }
        own = composite if row["method"] == "progressive" else {}
        writer.upsert("confirmations", {**row, **teacher, **own})
    writer.flush()
    return sweep


def test_what_is_confirmed_stands_beside_the_teacher(tmp_path: Path) -> None:
    sweep = with_teacher(with_baselines(tmp_path, confirmed=True))
    text = shown(sweep, 80)
    table = text[text.index("Confirmed on") : text.index("intervals are")].splitlines()
    assert max(map(len, table)) <= 80
    assert "…" not in "".join(table)
    found = {line[:11].strip(): line.split() for line in table}
    assert found["teacher"] == ["teacher", "0.9800", "0.9700", "13.1M"]
    assert found["progressive"][2:] == [
        "0.9050", "±", "0.0124", "0.8850", "±", "0.0124", "(91.2%)", "39.0k", "(0.3%)",
    ]  # fmt: skip
    assert found["+ cascade"][2:] == [
        "0.9500", "0.9488", "±", "0.0001", "(97.8%)", "470k", "(3.6%)",
    ]  # fmt: skip
    assert table.index(next(line for line in table if line.startswith("scratch"))) == 5
    assert (
        "Answer: the best student, progressive t0000, keeps 91.2 ± 1.3% of the teacher's test"
        " accuracy (0.8850 of 0.9700, 3 seeds) at 0.3% of the FLOPs; its composite 97.8 ± 0.0% at"
        " 3.6% of the FLOPs"
    ) in text
    payload = json.loads(json.dumps(sweep_summary(open_sweep(sweep)), allow_nan=False))
    confirmation = payload["confirmation"]
    assert confirmation["teacher"]["test"] == 0.97
    ours, scratch = confirmation["configurations"]
    assert ours["of_teacher"]["test"]["mean"] == pytest.approx(0.885 / 0.97)
    assert ours["composite"]["modes"] == {"cascade": 3}
    assert ours["composite"]["of_teacher"]["flops"] == pytest.approx(470e3 / 13_146_624)
    assert scratch["composite"] is None
    assert len(confirmation["answers"]) == 1


def test_an_answer_tells_of_the_best_and_of_the_searchs_own(tmp_path: Path) -> None:
    sweep = with_teacher(with_baselines(tmp_path, confirmed=True))
    writer = TableWriter(sweep)
    for row in list(writer.rows("confirmations")):
        if row["method"] == "scratch":
            writer.upsert("confirmations", {**row, "val_accuracy": 0.99, "val_score": 0.99})
    writer.flush()
    lines = [line for line in shown(sweep).splitlines() if line.startswith("Answer: ")]
    assert lines[0].startswith("Answer: the best student, scratch t0002, keeps 81.0 ± 1.3%")
    assert lines[1].startswith("Answer: the student of progressive t0000 keeps 91.2")


def test_of_a_loss_no_share_is_told(tmp_path: Path) -> None:
    sweep = with_teacher(with_baselines(tmp_path, confirmed=True))
    writer = TableWriter(sweep)
    for row in list(writer.rows("confirmations")):
        losses = {"val_loss": 0.3, "test_loss": 0.4, "teacher_test_loss": 0.1}
        writer.upsert("confirmations", {**row, **losses})
    writer.flush()
    content = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps({**content, "metric": "val_loss", "mode": "min"}))
    text = shown(sweep)
    table = text[text.index("Confirmed on") :]
    line = next(line for line in table.splitlines() if line.startswith("scratch"))
    assert line.split()[2:5] == ["0.3000", "0.4000", "39.0k"]
    assert "of the teacher's test accuracy" in text


def test_what_a_sweep_holds_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    hostile = {
        "status": "failed",
        "cause": "[bold red]x[/] \x1b]0;owned\x07\x1b[2J",
        "objective": None,
    }
    text = shown(write_sweep(tmp_path, hostile, {}, name="[link=x]y", metric="[red]\x1b[2Jz"))
    assert "[red]" in text
    assert "[bold red]x[/]" in text
    assert text.startswith("[link=x]y")
    assert not set(text) & {"\x1b", "\x07"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (950, "950"), (999.7, "1.00k"), (12_345, "12.3k"), (696_042, "696k"),
     (999_600, "1.00M"), (4.1e6, "4.10M"), (8.2e9, "8.20G"), (5e15, "5000T")],
)  # fmt: skip
def test_large_numbers(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.52, "0.5s"), (9.96, "10s"), (59.6, "1m00s"), (725, "12m05s"),
     (11_220, "3h07m")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (0.00228, "0.23%"), (0.0312, "3.1%"), (0.44, "44%"), (0.9886, "98.9%"),
     (1.0123, "101.2%"), (2.5, "250%")],
)  # fmt: skip
def test_percentages(share: float, text: str) -> None:
    assert percent(share) == text


def test_names_are_shortened_only_where_they_stay_apart() -> None:
    assert short_names(["loss.kl", "student.width", "teacher.width", "temperature"]) == {
        "loss.kl": "kl",
        "student.width": "student.width",
        "teacher.width": "teacher.width",
        "temperature": "temperature",
    }


def test_what_mattered_stands_below_where_trials_are_enough(tmp_path: Path) -> None:
    few = write_sweep(tmp_path / "few", *({} for _ in range(7)))
    assert "What mattered" not in shown(few)
    assert sweep_summary(open_sweep(few))["importance"] is None
    noise = [{"param.loss.avg": float((7 * n) % 13)} for n in range(13)]
    enough = write_sweep(tmp_path / "enough", *noise)
    text = shown(enough)
    assert "What mattered: share of the trials' ranks, 13 at their end" in text
    rows = {line.split()[0]: line for line in text[text.index("What mattered") :].splitlines()[2:7]}
    assert "not above chance" in rows["loss.avg"]
    assert "not above chance" not in rows["optimizer.lr"]
    assert "13 trials are few for 5 dimensions (50 are wanted)" in text
    found = json.loads(json.dumps(sweep_summary(open_sweep(enough)), allow_nan=False))
    assert found["importance"]["num_trials"] == 13
    assert found["importance"]["dimensions"][-1]["above_chance"] is False


def running_sweep(directory: Path) -> Path:
    """A running trial behind a stage's end, another in its third attempt, one paused, one done."""
    sweep = write_sweep(
        directory,
        {},
        {"status": "running", "objective": 0.5, "epochs_done": 6, "attempt": 1},
        {"status": "running", "objective": None, "epochs_done": None, "attempt": 3},
        {"status": "paused", "objective": 0.7, "epochs_done": 2},
        {"status": "running", "objective": 0.6, "epochs_done": 2, "attempt": 1},
        given={"trial": {"epochs": 20}},
    )
    writer = TableWriter(sweep)
    for number, epoch in ((1, 6), (4, 2)):
        identity = {"number": number, "trial_id": trial_id(number)}
        row = {"epoch": epoch, "stage": 1, "phase": "stage", "val_accuracy": 0.5, "val_score": 0.5}
        writer.upsert("epochs", {**identity, **row})
        last_epoch = 6 if number == 1 else 1
        writer.upsert("stages", {**identity, "stage": 1, "last_epoch": last_epoch})
    writer.flush()
    return sweep


def test_what_runs_is_told_and_ranked_with_the_rest(tmp_path: Path) -> None:
    sweep = running_sweep(tmp_path)
    (sweep / HOLDER).write_text(json.dumps({**identity(), "renewed_at": time.time() - 12}))
    summary = sweep_summary(open_sweep(sweep))
    doing = {trial["trial_id"]: trial["doing"] for trial in summary["running"]}
    assert doing == {
        "t0001": "building or loading the teacher of stage 2",
        "t0002": "starting: data, teacher, student",
        "t0004": "stage 1",
    }
    ranked = [entry["trial_id"] for entry in summary["leaderboard"]]
    assert ranked == ["t0000", "t0001", "t0003", "t0004"]
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_sweep(summary, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"running on {socket.gethostname()}, heard 12 s ago" in text
    assert "go on with" not in text
    assert "t0001  progressive        1  6 of 20  building" in text
    assert "t0002  progressive        3  0 of 20  starting" in text


@pytest.mark.parametrize(
    ("holder", "says"),
    [
        (None, "go on with: pdo-search resume"),
        ({"host": "elsewhere", "pid": 7, "renewed_at": 1.7e9},
         "its driver (process 7 on elsewhere) is dead: resume with pdo-search resume"),
        ("{", "go on with: pdo-search resume"),
    ],
)  # fmt: skip
def test_a_sweep_without_a_driver_says_how_to_go_on(tmp_path: Path, holder: Any, says: str) -> None:
    sweep = running_sweep(tmp_path)
    if holder is not None:
        (sweep / HOLDER).write_text(holder if isinstance(holder, str) else json.dumps(holder))
    summary = sweep_summary(open_sweep(sweep))
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_sweep(summary, console)
    assert isinstance(console.file, io.StringIO)
    assert says in console.file.getvalue()
    assert not summary["running"]


def test_trials_that_have_no_points_left_are_not_waited_for(tmp_path: Path) -> None:
    given = {
        "name": "digits",
        "task": {"data": {"source": "digits"}},
        "teacher": {"arch": "small_resnet", "train": {"epochs": 1}},
        "student": {"arch": "small_convnet", "width": {"choice": [4, 8]}},
    }
    text = shown(write_sweep(tmp_path, {}, {}, given=given))
    assert "2 of 2 trials: 2 finished, 0 stopped, 0 failed" in text
    assert "12 were asked for: there are no more points to try" in text
