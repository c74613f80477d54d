"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support
from torch.nn import functional as F

from ..pictures import metrics_of_logits


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_as_scikit_learn_has_them(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(0, classes, (400,), generator=generator)
    logits = torch.randn(400, classes, generator=generator) + 1.5 * F.one_hot(targets, classes)
    found = metrics_of_logits(logits, targets)
    predicted = logits.argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predicted, average="macro", zero_division=0.0
    )
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(f1)
    probabilities = logits.double().softmax(1).numpy()
    expected = log_loss(targets, probabilities, labels=list(range(classes)))
    assert found["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_class_that_is_neither_there_nor_claimed_does_not_count() -> None:
    logits = torch.tensor([[2.0, 0.0, -9.0], [0.0, 2.0, -9.0]])
    assert metrics_of_logits(logits, torch.tensor([0, 1]))["f1"] == 1.0


def test_calibration_error_by_hand() -> None:
    # Four examples at confidence 0.75, two of them right; six at 0.95, all right.
    low, high = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.95, 0.05]).log()
    logits = torch.stack([low] * 4 + [high] * 6)
    targets = torch.tensor([0, 0, 1, 1] + [0] * 6)
    expected = 0.4 * abs(0.5 - 0.75) + 0.6 * abs(1 - 0.95)
    assert metrics_of_logits(logits, targets)["ece"] == pytest.approx(expected, abs=1e-6)


def test_agreement_and_gap_to_a_teacher() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[3.0, 0.0], [2.0, 1.0]])
    found = metrics_of_logits(student, torch.tensor([0, -1]), teacher)
    gap = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    assert found["accuracy"] == 1.0
    assert found["agreement"] == 0.5
    assert found["kl"] == pytest.approx(gap.item(), rel=1e-5)
