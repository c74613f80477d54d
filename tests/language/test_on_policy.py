"""The student goes on by itself, and the teacher judges what it has drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pdo_search.base.errors import InputError
from pdo_search.cli.check import check_experiment
from pdo_search.config import parse_experiment
from pdo_search.distill.protocol import LocalWorker
from pdo_search.tasks import build_task
from pdo_search.tasks.base import LABELLED, Batch, Split
from pdo_search.tasks.kinds import categorical_kl, jensen_shannon
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

from ..conftest import TINY
from .texts import ROOT, config_of

pytest.importorskip("tokenizers")


class Weighted(nn.Module):
    """The same probabilities at every position, of three tokens alone."""

    shares = torch.tensor([0.5, 0.3, 0.2])

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        logits = torch.full((320,), -50.0)
        logits[7:10] = self.shares.log()
        return {"token": logits.expand(*batch["tokens"].shape, 320)}


def test_the_second_half_is_drawn_by_the_models_probabilities() -> None:
    task = build_task(config_of().task, ROOT)
    batch = task.examples(Split.TRAIN).batch()
    found = task.continued(Weighted(), batch, 5)
    assert found is not None
    drawn, masks = found
    mask = batch["tokens.mask"]
    given = (mask.sum(1, keepdim=True) + 1) // 2
    place = torch.arange(mask.shape[1])
    old, new = mask & (place < given), mask & (place >= given)
    assert torch.equal(drawn["tokens"][old], batch["tokens"][old])
    own = drawn["tokens"][new]
    shares = own.bincount(minlength=10)[7:10] / len(own)
    assert torch.isin(own, torch.arange(7, 10)).all()
    assert torch.allclose(shares, Weighted.shares, atol=4 * (0.25 / len(own)) ** 0.5)
    assert not drawn[LABELLED].any()
    assert torch.equal(masks["tokens.mask"], mask & (place >= given - 1))
    # Whoever is in the batch beside it: of its own id alone.
    alone = task.continued(Weighted(), task.examples(Split.TRAIN).batch(slice(3, 4)), 5)
    assert alone is not None
    length = int(mask[3].sum())
    assert torch.equal(alone[0]["tokens"][0], drawn["tokens"][3, :length])


def test_the_divergence_is_between_its_two_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(4, 6, 9, generator=generator).double() for _ in range(2))
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]
    forward = jensen_shannon(student, teacher, 1.5, 0.0, mask)
    assert torch.allclose(forward, categorical_kl(student, teacher, 1.5, mask))
    backward = jensen_shannon(student, teacher, 1.5, 1.0, mask)
    assert torch.allclose(backward, categorical_kl(teacher, student, 1.5, mask))
    p, q = (F.softmax(x / 1.5, -1) for x in (teacher, student))
    m = 0.3 * p + 0.7 * q
    sums = 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1)
    expected = 1.5**2 * (sums * mask).sum(1) / mask.sum(1)
    assert torch.allclose(jensen_shannon(student, teacher, 1.5, 0.3, mask), expected)
    same = jensen_shannon(teacher, teacher, 1.5, 0.3, mask)
    assert same.abs().max() < 1e-12


def losses(folder: Path, **loss: Any) -> list[float]:
    torch.set_num_threads(1)
    worker = LocalWorker()
    places = Places(str(folder / "store"), str(folder / "sweep"), str(ROOT), "t0000", 0)
    config = config_of(trial={"loss": {"reduce": "position", **loss}})
    run_trial(config, worker, places=places)
    return [report.metrics["val_loss"] for report in worker.reports]


def test_a_share_of_the_updates_is_the_students_own(tmp_path: Path) -> None:
    """All of them, and a quarter: both learn, and repeat to the bit."""
    plain = losses(tmp_path / "a")
    for share, beta in ((1.0, 0.5), (0.25, 1.0)):
        found = losses(tmp_path / "a" / str(share), on_policy=share, beta=beta)
        assert found[-1] < found[0]
        assert found != plain
    assert found == losses(tmp_path / "b", on_policy=0.25, beta=1.0)


def test_it_is_refused_where_models_make_no_inputs(tmp_path: Path) -> None:
    tree = {**TINY, "trial": {"epochs": 4, "loss": {"on_policy": 0.5}},
            "output": {"store": str(tmp_path)}}  # fmt: skip
    loaded = parse_experiment(tree, file=Path("tiny.yaml"), base_dir=ROOT)
    with pytest.raises(InputError, match=r"trial\.loss\.on_policy: is of tasks whose models make"):
        check_experiment(loaded)
