"""Which dimensions mattered: on tables where it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pdo_search.analysis.importance import Compared, caveat, compared, importance


def table(count: int = 60, **columns: Any) -> pd.DataFrame:
    """Trials of which ``lr`` decides, with an optimum inside, and the rest is noise."""
    draw = np.random.default_rng(3)
    lr = draw.random(count)
    value = -((lr - 0.6) ** 2) + 0.02 * draw.normal(size=count)
    return pd.DataFrame(
        {
            "number": range(count),
            "status": "finished",
            "objective": value,
            "param.lr": lr,
            "param.noise": draw.random(count),
            "param.order": draw.choice(["easy", "random"], count),
            **columns,
        }
    )


def epochs(trials: pd.DataFrame, last: dict[int, int]) -> pd.DataFrame:
    rows = [
        {"number": n, "epoch": e, "val_accuracy": v + e}
        for n, v in zip(trials["number"], trials["objective"], strict=True)
        for e in range(1, last.get(n, 6) + 1)
    ]
    return pd.DataFrame(rows, columns=["number", "epoch", "val_accuracy"])


def of(trials: pd.DataFrame) -> pd.DataFrame:
    found = compared(trials, epochs(trials, {}), "val_accuracy")
    return importance(found).set_index("dimension")


def number(found: pd.DataFrame, dimension: str, column: str) -> float:
    return float(found[column][dimension])


def test_what_decides_is_first_and_noise_is_not_above_chance() -> None:
    found = of(table())
    assert found.index[0] == "lr"
    assert list(found["above_chance"]) == [True, False, False]
    assert number(found, "lr", "importance") > 0.5
    assert number(found, "noise", "importance") < 0.15
    assert 0 < number(found, "lr", "spread") < 0.2


def test_of_pure_noise_nothing_is_above_chance() -> None:
    noise = np.random.default_rng(0).random(60)
    assert not of(table(objective=noise))["above_chance"].any()


def test_the_same_tables_give_the_same_numbers() -> None:
    pd.testing.assert_frame_equal(of(table()), of(table()), check_exact=True)


def test_a_choice_with_null_is_a_group_like_another_and_constants_are_left_out() -> None:
    trials = table().assign(**{"param.constant": 3}).assign(**{"param.one": "a"})
    end = np.where(trials["objective"] > trials["objective"].median(), 2.0, np.nan)
    found = of(trials.assign(**{"param.end": end}))
    assert set(found.index) == {"lr", "noise", "order", "end"}
    assert number(found, "end", "importance") > 0.6


def test_infeasible_failed_and_running_trials_are_ignored() -> None:
    whole = table()
    extra = table(30, status=["infeasible", "failed", "running"] * 10, objective=9.0)
    extra["number"] += 60
    pd.testing.assert_frame_equal(of(pd.concat([whole, extra], ignore_index=True)), of(whole))


def test_where_most_were_stopped_all_are_compared_at_the_last_common_epoch() -> None:
    trials = table()
    trials.loc[10:, "status"] = "stopped"
    last = {n: 2 if n < 50 else 1 for n in range(10, 60)}
    found = compared(trials, epochs(trials, last), "val_accuracy")
    assert (found.epoch, len(found.values)) == (2, 50)
    assert found.values == pytest.approx(trials["objective"][:50] + 2)
    assert importance(found)["dimension"][0] == "lr"
    ended = compared(table(), epochs(table(), {}), "val_accuracy")
    assert (ended.epoch, len(ended.values)) == (None, 60)


def test_too_few_trials_say_nothing_and_few_say_so() -> None:
    assert importance(Compared(table(7), table(7)["objective"].to_numpy(), None)).empty
    assert caveat(16, 8) == (
        "16 trials are few for 8 dimensions (80 are wanted): another sweep may rank them otherwise"
    )
    assert caveat(19, 1) is not None
    assert caveat(20, 2) is None
