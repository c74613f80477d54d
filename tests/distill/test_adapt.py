"""Adaptation decides from recorded metrics, within bounds, and says what it did."""

from __future__ import annotations

from dataclasses import replace

from pdo_search.config.recipe import AdaptConfig
from pdo_search.distill.adapt import Hyperparameters, adapt

START = Hyperparameters(lr_scale=1.0, weight_decay=5e-4, label_smoothing=0.0, dropout=0.0)
CONFIG = AdaptConfig()


def decide(now: Hyperparameters, gain: float, gap: float) -> tuple[Hyperparameters, str]:
    return adapt(now, START, CONFIG, gain=gain, gap=gap)


def test_nothing_changes_while_all_is_well() -> None:
    assert decide(START, gain=0.1, gap=0.03) == (START, "kept")


def test_a_plateau_lowers_the_learning_rate_down_to_its_bound() -> None:
    now = START
    for _ in range(20):
        now, said = decide(now, gain=0.0, gap=0.03)
        assert "plateau" in said
    assert now.lr_scale == CONFIG.lr_min_scale


def test_overfitting_regularises_more_and_underfitting_takes_it_back() -> None:
    more, said = decide(START, gain=0.1, gap=0.2)
    assert "more regularisation" in said
    assert more.weight_decay == 1e-3
    assert more.label_smoothing == CONFIG.smoothing_step
    assert more.dropout == CONFIG.dropout_step
    back, _ = decide(more, gain=0.1, gap=-0.1)
    assert back == START
    assert decide(START, gain=0.1, gap=-0.1)[0] == START


def test_regularisation_stops_at_its_bounds() -> None:
    now = START
    for _ in range(20):
        now, _ = decide(now, gain=0.1, gap=0.5)
    assert now.weight_decay == CONFIG.weight_decay_max
    assert now.label_smoothing == CONFIG.smoothing_max
    assert now.dropout == CONFIG.dropout_max


def test_a_value_configured_above_the_bound_stays() -> None:
    strong = replace(START, dropout=0.5)
    tuned, _ = adapt(strong, strong, CONFIG, gain=0.1, gap=0.5)
    assert tuned.dropout == 0.5


def test_switched_off_keeps_everything() -> None:
    off = AdaptConfig(enabled=False)
    assert adapt(START, START, off, gain=0, gap=1) == (START, "off")
