"""The suite of ``distill.protocol.Worker``: what a loop may ask of the processes of a trial."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pdo_search.distill.protocol import Report, Worker

__all__ = ["WorkerContract", "exercise"]

Seen = Sequence[dict[str, Any]]


def exercise(worker: Worker) -> dict[str, Any]:
    """Ask a worker all that a loop asks; every rank calls this once.

    Returns:
        What was found, JSON-able: what ``WorkerContract`` judges.
    """
    import torch

    rank = worker.rank
    given = torch.tensor([rank, 10.0 * rank], dtype=torch.float64, device=worker.device)
    found = {
        "rank": rank,
        "world_size": worker.world_size,
        "told": worker.broadcast({"from": rank, "what": [1, None, "text"]}),
        "mean": worker.mean(given).tolist(),
        "mean_of_one": worker.mean(given[1]).tolist(),
        "dtype": str(worker.mean(given).dtype),
        "given": given.tolist(),
        **_gradients(worker),
        "should_stop": worker.should_stop(),
    }
    for epoch in (1, 2):
        worker.report(_report(rank, epoch))
    return found


def _report(rank: int, epoch: int) -> Report:
    metrics: dict[str, Any] = {
        "epoch": epoch, "stage": 0, "phase": "init", "stage_end": epoch == 2,
        "stages_done": epoch - 1, "val_loss": 1.0 / epoch, "done": epoch == 2,
    }  # fmt: skip
    if metrics["done"]:
        metrics["decision"] = "completed"
    return Report(metrics, {"trials": [{"epochs_done": epoch}], "epochs": [{"rank": rank}]})


def _gradients(worker: Worker) -> dict[str, Any]:
    """A backward pass on a rank's own data, through the wrapper and without it."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(worker.device)
    alone = copy.deepcopy(model)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1 + worker.rank))
    inputs = inputs.to(worker.device)
    for one in (alone, worker.wrap_model(model)):
        one(inputs).square().mul(torch.arange(2, device=worker.device)).mean().backward()
    return {
        "gradient": [p.grad.flatten().tolist() for p in model.parameters() if p.grad is not None],
        "own_gradient": [
            p.grad.flatten().tolist() for p in alone.parameters() if p.grad is not None
        ],
        "buffers": [b.tolist() for b in model.buffers()],
        "own_buffers": [b.tolist() for b in alone.buffers()],
    }


class WorkerContract:
    """Tests of the workers of a trial.

    The fixture ``seen`` gives what ``exercise`` returned, by rank; ``reported`` the reports that
    arrived at the search. Both are best made once for a class: starting workers takes seconds.
    """

    def test_ranks_count_from_zero_to_the_world_size(self, seen: Seen) -> None:
        """Each knows how many they are."""
        assert [one["rank"] for one in seen] == list(range(len(seen)))
        assert {one["world_size"] for one in seen} == {len(seen)}

    def test_every_rank_is_told_what_rank_0_says(self, seen: Seen) -> None:
        """Of any value that can be pickled."""
        assert [one["told"] for one in seen] == [{"from": 0, "what": [1, None, "text"]}] * len(seen)

    def test_a_mean_is_over_ranks_and_of_the_same_shape_and_type(self, seen: Seen) -> None:
        """What was given is not changed by it."""
        mean = sum(range(len(seen))) / len(seen)
        for one in seen:
            assert one["mean"] == [mean, 10 * mean]
            assert one["mean_of_one"] == 10 * mean
            assert one["dtype"] == "torch.float64"
            assert one["given"] == [one["rank"], 10.0 * one["rank"]]

    def test_gradients_are_means_over_ranks(self, seen: Seen) -> None:
        """They are the model's own, also where its wrapper computed them."""
        import pytest

        assert len(seen[0]["gradient"]) == 4
        for layer, found in enumerate(seen[0]["gradient"]):
            own = zip(*(one["own_gradient"][layer] for one in seen), strict=True)
            assert found == pytest.approx([sum(values) / len(seen) for values in own], abs=1e-6)
        assert all(one["gradient"] == seen[0]["gradient"] for one in seen)

    def test_statistics_of_norms_stay_each_ranks_own(self, seen: Seen) -> None:
        """They are those that the rank's data gave."""
        import pytest

        for one in seen:
            for found, own in zip(one["buffers"], one["own_buffers"], strict=True):
                assert found == pytest.approx(own, abs=1e-6)

    def test_nobody_is_asked_to_stop_from_the_start(self, seen: Seen) -> None:
        """A worker that always stops trains nothing."""
        assert [one["should_stop"] for one in seen] == [False] * len(seen)

    def test_the_reports_of_rank_0_arrive_in_order_and_as_they_were_made(
        self, reported: Sequence[Report]
    ) -> None:
        """Those of other ranks do not count."""
        assert list(reported) == [_report(0, 1), _report(0, 2)]
