"""Pool and banks: same pictures for teacher and student, no view computed twice, labels mixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill import feed
from pdo_search.distill import teaching as module
from pdo_search.distill.context import Context
from pdo_search.distill.teaching import Pool, Teaching, planned_views
from pdo_search.tasks import cached_task
from pdo_search.trial.worker import prepare, teaching_of

from ..pictures import class_task, classes, labels_of, pixels

CPU = torch.device("cpu")
MIXED = {"crop": 1, "color": 0.2, "mixup": 0.5}


def config_with(augment: dict[str, Any], **trial: Any) -> TrialConfig:
    tree = {
        "name": "tiny",
        "task": {"data": {"source": "digits", "limit": 600}, "augment": augment},
        "teacher": {"arch": "small_convnet", "width": 4, "train": {"epochs": 1}},
        "student": {"arch": "small_convnet", "width": 4},
        "trial": trial,
    }
    return resolve(parse_experiment(tree, file=Path("x.yaml"), base_dir=Path.cwd()).experiment, {})


def opened(config: TrialConfig, store: Path) -> Teaching:
    on = Context(str(store), CPU)
    return teaching_of(config, prepare(config, on), on)


def banks(store: Path) -> list[Path]:
    return sorted(store.glob("bank/??/*/manifest.json"))


def test_a_trial_with_more_views_uses_those_of_one_with_fewer(tmp_path: Path) -> None:
    everything = torch.arange(100)
    two = opened(config_with({"crop": 1}, num_views=2), tmp_path)
    seen = [two.pool_bank(0, view).rows("class", everything) for view in range(2)]
    built = {path: path.stat().st_mtime_ns for path in banks(tmp_path)}
    assert len(built) == 2
    four = opened(config_with({"crop": 1}, num_views=4), tmp_path)
    again = [four.pool_bank(0, view).rows("class", everything) for view in range(4)]
    assert len(banks(tmp_path)) == 4
    assert built.items() <= {path: path.stat().st_mtime_ns for path in banks(tmp_path)}.items()
    assert torch.equal(torch.stack(seen), torch.stack(again[:2]))
    assert not torch.equal(again[0], again[2])


@pytest.mark.parametrize("augment", [{"crop": 1}, MIXED])
def test_the_stored_outputs_are_of_the_pictures_that_the_student_sees(
    tmp_path: Path, augment: dict[str, Any]
) -> None:
    teaching = opened(config_with(augment, num_views=2), tmp_path)
    rows = torch.tensor([500, 3, 0, 77, 420])[: len(teaching.pool)]
    rows = rows[rows < len(teaching.pool)]
    batch = next(teaching.pool.batches(1, [rows]))
    with torch.inference_mode():
        said = teaching.task.forward(teaching.ladder.model(0), batch)["class"]
    stored = teaching.taught(teaching.pool_bank(0, 1), rows, batch)["class"].values
    assert torch.allclose(said, stored, atol=2e-2)
    assert torch.equal(said.argmax(1), stored.argmax(1))


@pytest.mark.parametrize("augment", [{"crop": 1, "flip": True}, MIXED])
def test_a_picture_is_the_same_kept_or_drawn_in_any_batch(
    augment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = cached_task(config_with(augment).task, None)
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    kept = shown(Pool(task, CPU), [rows])
    monkeypatch.setattr(module, "LARGEST_VIEWS", 0)
    pool = Pool(task, CPU)
    assert torch.equal(kept, torch.cat([shown(pool, [part]) for part in torch.split(rows, 7)]))
    monkeypatch.setattr(feed, "LARGEST_ON_CPU", 0)
    assert torch.equal(kept, shown(Pool(task, CPU), torch.split(rows, 7)))


def shown(pool: Pool, batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """Prepared pictures of view 1."""
    return torch.cat([batch["pixels"] for batch in pool.batches(1, batches)])


def test_partners_are_of_the_same_split_and_their_labels_come_along() -> None:
    task = cached_task(config_with({"mixup": 1.0}).task, None)
    pool = Pool(task, CPU)
    rows = torch.arange(len(pool))
    found = pool._partners(0, rows)
    assert found is not None
    partners, shares = found
    assert torch.equal(partners < pool.num_train, rows < pool.num_train)
    batch = next(pool.batches(0, [rows]))
    assert torch.equal(batch["partner.target.class"], classes(pool.examples)[partners])
    assert torch.equal(batch["share"], shares)
    own, other = pixels(pool.examples).float(), pixels(pool.examples, partners).float()
    weights = shares.view(-1, 1, 1, 1)
    exact = own * weights + other * (1 - weights)
    assert float((next(pool.drawn(0, [rows]))["pixels"].float() - exact).abs().max()) <= 0.501
    plain = Pool(cached_task(config_with({}).task, None), CPU)
    assert "share" not in next(plain.batches(0, [rows]))


def test_mixed_labels_weigh_as_their_pictures_and_unknown_ones_do_not_count() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    own, partners = torch.tensor([0, 1, 2, -1]), torch.tensor([1, 1, -1, 0])
    task, outputs = class_task(3), {"class": logits}
    mixed = labels_of(own) | {f"partner.{k}": v for k, v in labels_of(partners).items()}
    loss, known = task.label_loss(outputs, mixed | {"share": torch.full((4,), 0.7)})["class"]
    one, other = (task.label_loss(outputs, labels_of(x))["class"][0] for x in (own, partners))
    assert torch.allclose(loss[:2], (0.7 * one + 0.3 * other)[:2])
    assert known.tolist() == [True, True, False, False]
    _, known = task.label_loss(outputs, labels_of(own))["class"]
    assert known.tolist() == [True, True, True, False]


def test_the_fingerprint_changes_with_every_augmentation() -> None:
    kinds: list[dict[str, Any]] = [{}, {"color": 0.1}, {"color": 0.2}, {"mixup": 0.1}, {"crop": 1}]
    assert len({cached_task(config_with(k).task, None).fingerprint for k in kinds}) == len(kinds)


def test_difficulty_is_judged_on_pictures_that_are_not_mixed(tmp_path: Path) -> None:
    teaching = opened(config_with({"mixup": 1.0}), tmp_path)
    examples = teaching.pool.examples
    with torch.inference_mode():
        batch = teaching.task.prepare(examples.raw_inputs())
        plain = teaching.task.forward(teaching.ladder.model(0), batch)["class"]
    unsure = 1 - plain.softmax(1).amax(1)
    assert torch.allclose(teaching.difficulty("teacher_confidence"), unsure, atol=2e-2)


@pytest.mark.parametrize(
    ("trial", "views"),
    [
        ({"epochs": 9, "init_epochs": 1, "num_stages": 4, "num_views": 8}, [1, 2]),
        ({"epochs": 9, "num_stages": 1, "num_views": 3}, [0, 1, 2]),
        ({"epochs": 9, "num_stages": 4, "num_views": 8, "teacher_order": "ascending"}, [0, 7]),
        ({"epochs": 9, "num_stages": 4, "num_views": 8, "curriculum": {"start": 0.5}}, [0, 1, 2]),
    ],
)
def test_what_the_full_teacher_is_asked_about(trial: dict[str, Any], views: list[int]) -> None:
    recipe = config_with({"crop": 1}, **trial).recipe
    assert planned_views(recipe, recipe.num_views)[0] == views
