"""Metrics of a classifier of texts, against those of other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

from pdo_search.tasks.base import IDS, LABELLED, Head, HeadKind, target_of
from pdo_search.tasks.texts.meter import TextMeter, rare_half

K = 7
HEAD = Head("class", HeadKind.CATEGORICAL, K)


def measured(outputs: torch.Tensor, labels: torch.Tensor, rare: torch.Tensor) -> dict[str, float]:
    meter = TextMeter(HEAD, rare)
    for rows in torch.split(torch.arange(len(labels)), 13):
        batch = {
            target_of("class"): labels[rows],
            LABELLED: torch.ones(len(rows), dtype=torch.bool),
            IDS: rows,
        }
        meter.update({"class": outputs[rows]}, batch)
    return meter.compute()


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(K, 200, p=np.arange(1, K + 1) / 28))
    noise = torch.from_numpy(rng.normal(size=(200, K))).float()
    outputs = noise + torch.nn.functional.one_hot(labels, K)
    rare = rare_half(torch.bincount(labels, minlength=K))
    found = measured(outputs, labels, rare)
    true, said = labels.numpy(), outputs.argmax(dim=1).numpy()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(true, said, average="macro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(true, said))
    chosen = rare.nonzero().flatten().tolist()
    assert chosen == [0, 1, 2]
    recall = metrics.recall_score(true, said, labels=chosen, average="macro")
    assert found["rare_recall"] == pytest.approx(recall)


def test_a_constant_answer_correlates_with_nothing() -> None:
    outputs = torch.zeros(20, K)
    outputs[:, 2] = 1
    found = measured(outputs, torch.arange(20) % K, rare_half(torch.ones(K)))
    assert found["mcc"] == 0
    assert found["rare_recall"] == pytest.approx(1 / 3)


def test_the_rare_half_is_half_of_the_classes_and_of_equal_ones_the_first() -> None:
    assert rare_half(torch.tensor([5, 1, 5, 1, 5])).tolist() == [False, True, False, True, False]
    assert rare_half(torch.tensor([2, 2, 2, 2])).tolist() == [True, True, False, False]


def test_rare_classes_that_are_not_among_the_examples_do_not_count() -> None:
    rare = rare_half(torch.arange(K))  # Classes 0, 1, 2.
    labels = torch.tensor([2, 2, 5])
    outputs = torch.nn.functional.one_hot(torch.tensor([2, 5, 5]), K).float()
    assert measured(outputs, labels, rare)["rare_recall"] == 0.5
