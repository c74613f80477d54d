"""Bits per byte and what stands beside it, against formulas in double precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pdo_search.base.columns import Column, Taught
from pdo_search.distill.evaluate import metrics_of
from pdo_search.models.build import build_for
from pdo_search.store.encoding import Found, StoredHead, Top
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Outputs, Split, Task

from .texts import ROOT, config_of, sections

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(config_of().task, ROOT)


def whole(task: Task) -> dict[str, torch.Tensor]:
    return task.examples(Split.VALIDATION).batch()


def noise(task: Task, batch: dict[str, torch.Tensor], seed: int = 0) -> Outputs:
    shape = (*batch["tokens"].shape, task.heads[0].size)
    generator = torch.Generator().manual_seed(seed)
    return {"token": 2 * torch.randn(shape, generator=generator)}


def test_bits_per_byte_are_those_of_the_text_itself(task: Task) -> None:
    batch = whole(task)
    outputs, meter = noise(task, batch), task.meter()
    for rows in torch.split(torch.arange(len(batch["ids"])), 3):
        meter.update({"token": outputs["token"][rows]}, {k: v[rows] for k, v in batch.items()})
    found = meter.compute()
    mask = batch["tokens.mask"]
    logp = outputs["token"].double().log_softmax(-1)[mask]
    wanted = batch["target.token"][mask]
    nats = -logp.gather(1, wanted[:, None]).sum().item()
    # The documents of the split, byte by byte, and not what tokens say of them.
    tokenizer = task.inputs().read_by  # type: ignore[union-attr]
    texts = tokenizer.decode(wanted.tolist())
    documents = [text for _, text in sections() if text in texts]
    num_bytes = sum(len(text.encode()) for text in documents)
    assert len(texts) == sum(map(len, documents))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert found["loss"] == pytest.approx(nats / len(wanted), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(wanted)), rel=1e-5)
    assert found["accuracy"] == (logp.argmax(1) == wanted).double().mean().item()


def test_who_knows_nothing_needs_the_bits_of_the_alphabet(task: Task) -> None:
    batch = whole(task)
    outputs = {"token": torch.zeros(*batch["tokens"].shape, task.heads[0].size)}
    meter = task.meter()
    meter.update(outputs, batch)
    found = meter.compute()
    assert found["perplexity"] == pytest.approx(320)
    tokens, num_bytes = batch["tokens.mask"].sum(), batch["target.bytes"].double().sum()
    assert found["bits_per_byte"] == pytest.approx(math.log2(320) * tokens / num_bytes)


@pytest.mark.parametrize("k", [None, 64])
def test_a_teacher_is_compared_by_position_however_it_is_stored(task: Task, k: int | None) -> None:
    batch = whole(task)
    outputs, teacher = noise(task, batch), noise(task, batch, 1)["token"]
    mask, size = batch["tokens.mask"], task.heads[0].size
    taught = Taught(teacher)
    if k is not None:
        head = StoredHead(size, "tokens.mask", Top(k))
        arrays = Top(k).encoded(
            "token", head, {"token": teacher, "tokens.mask": mask}, lambda _: teacher
        )
        lengths = mask.sum(1)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        columns = {
            n: Column(torch.from_numpy(a.view("int16") if a.dtype == "uint16" else a), offsets)
            for n, a in arrays.items()
        }
        rows = torch.arange(len(mask))
        taught = Top(k).taught("token", head, Found(columns, {"tokens.mask": lengths}, rows), 1.0)
        taught = taught.placed(mask)
        teacher = taught.dense(size)
    meter = task.meter()
    meter.update(outputs, batch, {"token": taught})
    found = meter.compute()
    log_s, log_t = (x.double().log_softmax(-1)[mask] for x in (outputs["token"], teacher))
    kl = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True).item()
    assert found["kl"] == pytest.approx(kl, rel=1e-5)
    same = (log_s.argmax(1) == log_t.argmax(1)).double().mean().item()
    assert found["agreement"] == pytest.approx(same)


def test_an_untrained_model_is_no_better_than_guessing(task: Task, tmp_path: Path) -> None:
    model = build_for(task, config_of().student, seed=0, base_dir=ROOT)
    found = metrics_of(task, model, task.examples(Split.VALIDATION), torch.device("cpu"))
    assert found["perplexity"] == pytest.approx(320, rel=0.05)
