"""Dimensions: what is accepted, what is refused, and how points fill a tree."""

from __future__ import annotations

from typing import Any

import pytest

from pdo_search.base.errors import InputError
from pdo_search.config.space import fill, find_dimensions, parse_dimension

TREE: dict[str, Any] = {
    "epochs": 12,
    "num_stages": {"int": [1, 4]},
    "loss": {"kl": {"float": [0.1, 1.0]}, "avg": 0.2},
    "curriculum": {"order": {"choice": ["easy_first", "random"]}},
}


def test_finds_leaves_in_the_order_of_the_file() -> None:
    found = find_dimensions({**TREE, "args": {"x": {"int": [1, 2]}, "y": {"z": 3}}})
    assert [d.path for d in found] == ["num_stages", "loss.kl", "curriculum.order", "args.x"]


def test_fill_puts_values_where_dimensions_were() -> None:
    filled = fill(TREE, {"num_stages": 3, "loss.kl": 0.5, "curriculum.order": "random"})
    assert filled == {
        "epochs": 12,
        "num_stages": 3,
        "loss": {"kl": 0.5, "avg": 0.2},
        "curriculum": {"order": "random"},
    }


def test_sections_in_a_list_are_searched_by_their_places() -> None:
    hints = [{"kind": "pooled"}, {"kind": "cosine", "weight": {"float": [0.0, 1.0]}}]
    tree = {"loss": {"hints": hints}, "modes": ["student"], "none": []}
    assert [d.path for d in find_dimensions(tree)] == ["loss.hints.1.weight"]
    filled = fill(tree, {"loss.hints.1.weight": 0.5})
    assert filled["loss"] == {"hints": [hints[0], {"kind": "cosine", "weight": 0.5}]}
    assert (filled["modes"], filled["none"]) == (["student"], [])


def test_the_upper_bound_moves_down_to_the_grid() -> None:
    dimension = parse_dimension("prune_ratio", {"float": [0.1, 0.55], "step": 0.1})
    assert dimension.high == pytest.approx(0.5)
    assert dimension.contains(0.30000000000000004)
    assert not dimension.contains(0.55)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"float": [2, 1]}, "low is above high"),
        ({"float": ["1e-3", 1]}, "write 1.0e-3"),
        ({"float": [1]}, "two finite"),
        ({"float": [0, float("inf")]}, "two finite"),
        ({"int": [0.5, 2]}, "two finite whole"),
        ({"int": [True, 2]}, "two finite whole"),
        ({"float": [0, 1], "log": True}, "above 0"),
        ({"float": [1, 2], "log": True, "step": 0.1}, "exclude each other"),
        ({"float": [1, 2], "step": 0}, "positive"),
        ({"float": [1, 2], "setp": 1}, "unknown option"),
        ({"int": [1, 2], "float": [1, 2]}, "exactly one"),
        ({"choice": []}, "at least one"),
        ({"choice": [1, 1]}, "twice"),
        ({"choice": [[1]]}, "a number, a string"),
        ({"choice": [1], "log": True}, "unknown option"),
    ],
)
def test_refuses(node: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_dimension("temperature", node)
    assert caught.value.path == "trial.temperature"


def test_thousands_of_dimensions_are_refused() -> None:
    tree = {f"x{number}": {"int": [1, 2]} for number in range(20_000)}
    with pytest.raises(InputError, match="more than 1,000 dimensions"):
        find_dimensions(tree)
