"""Images per second of student distillation, all sides in one go, at equal models and batches.

    python experiments/benchmarks/step.py                      # both pairs on one CPU thread
    python experiments/benchmarks/step.py --pair large --device cuda --batch 128

Sides: the *bound* is the student's own forward, backward and update on a batch that stays where it
is; *bank* and *online* are this package's training loop with stored teacher outputs and with the
teacher in every step; *plain* is a hand-written PyTorch loop over a DataLoader; *torchdistill* is
its DistillationBox with KDLoss (`pip install torchdistill==1.1.5`; left out where it is missing).
Rounds go round all sides, so that a busy machine hits all alike; the median round counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pictures import classes, prepared
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.epochs import Epochs
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.loop import initial_state
from pdo_search.distill.optim import make_optimizer
from pdo_search.distill.protocol import LocalWorker
from pdo_search.distill.teacher import trained_teacher
from pdo_search.distill.teaching import Teaching
from pdo_search.distill.timing import PhaseClock
from pdo_search.models.build import build_for, placed
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split, Task

CLASSES = 10
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Pair:
    """Teacher and student with the pictures they see."""

    teacher: dict[str, Any]
    student: dict[str, Any]
    edge: int
    batch: int
    steps: int


PAIRS = {
    "small": Pair(
        {"arch": "small_resnet", "width": 32, "depth": 2},
        {"arch": "small_convnet", "width": 16, "depth": 2},
        edge=32,
        batch=128,
        steps=16,
    ),
    "large": Pair({"arch": "resnet50"}, {"arch": "mobilenet_v2"}, edge=64, batch=32, steps=8),
}


def pictures(count: int, edge: int) -> tuple[Any, Any]:
    """Noise: what is on a picture does not change how long it takes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, edge, edge), generator=generator, dtype=torch.uint8)
    return inputs.numpy(), torch.arange(count).remainder(CLASSES).numpy()


def configured(pair: Pair, batch: int) -> TrialConfig:
    """A trial whose epoch is `pair.steps` steps."""
    count = round(batch * pair.steps / 0.7) + CLASSES * 10
    tree = {
        "name": "step",
        "task": {
            "data": {
                "source": "step:pictures",
                "args": {"count": count, "edge": pair.edge},
            },
            "splits": {"transfer": 0.1, "validation": 0.1, "test": 0.1},
            "augment": {"crop": 4, "flip": True},
        },
        "teacher": {**pair.teacher, "train": {"epochs": 1, "lr": 1e-6}},
        "student": pair.student,
        "trial": {
            "epochs": 100,
            "init_epochs": 0,
            "num_stages": 1,
            "temperature": TEMPERATURE,
            "optimizer": {"batch_size": batch},
        },
    }
    loaded = parse_experiment(tree, file=Path(__file__), base_dir=Path(__file__).parent)
    return resolve(loaded.experiment, {})


def ours(config: TrialConfig, ladder: Ladder, outputs: str) -> Callable[[], int]:
    """The loop's epochs, with the teacher's outputs stored, or online: run in every step."""
    recipe = config.recipe.model_copy(update={"teacher_outputs": outputs})
    config = config.model_copy(update={"recipe": recipe})
    student = placed(fresh(config, ladder.task), ladder.on.device)
    teaching, state = Teaching(ladder, recipe), initial_state(config)
    worker = LocalWorker(device=ladder.on.device)
    epochs = Epochs(config, teaching, student, worker, state, PhaseClock())

    def epoch() -> int:
        epochs.train(state.stage)
        return epochs.steps * epochs.batch_size

    return epoch


def fresh(config: TrialConfig, task: Task) -> nn.Module:
    return build_for(task, config.student, seed=0)


def bound(config: TrialConfig, task: Task, steps: int, device: torch.device) -> Callable[[], int]:
    """The student alone on a resident batch."""
    student = placed(fresh(config, task), device).train()
    batch = config.recipe.optimizer.batch_size
    train = task.examples(Split.TRAIN).select(torch.arange(batch)).to(device)
    inputs, targets = prepared(task, train), classes(train)
    return alone(config, student, lambda: F.cross_entropy(student(inputs), targets), steps)


def alone(
    config: TrialConfig, student: nn.Module, loss_of: Callable[[], Tensor], steps: int
) -> Callable[[], int]:
    """A student's updates, whatever its loss reads."""
    optimizer = make_optimizer(student, config.recipe.optimizer)

    def epoch() -> int:
        for _ in range(steps):
            loss = loss_of()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return steps * config.recipe.optimizer.batch_size

    return epoch


def dataset(task: Task) -> TensorDataset:
    """The train split as a torch user would hold it: floats, already normalised."""
    train = task.examples(Split.TRAIN)
    return TensorDataset(prepared(task, train).contiguous(), classes(train))


def plain(
    config: TrialConfig, task: Task, ladder: Ladder, device: torch.device
) -> Callable[[], int]:
    """What one writes by hand."""
    student = fresh(config, task).to(device).train()
    teacher = build_for(task, config.teacher, seed=0, path="teacher").to(device).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    batch = config.recipe.optimizer.batch_size
    loader = DataLoader(dataset(task), batch, shuffle=True, drop_last=True)

    def epoch() -> int:
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            with torch.no_grad():
                taught = teacher(inputs)
            loss = by_hand(student(inputs), taught, targets, TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(loader) * batch

    return epoch


def by_hand(logits: Tensor, taught: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The usual loss of outputs (N, K) and classes (N,)."""
    soft = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.softmax(taught / temperature, 1),
        reduction="batchmean",
    )
    return 0.7 * temperature**2 * soft + 0.5 * F.cross_entropy(logits, targets)


def torchdistill(config: TrialConfig, task: Task, device: torch.device) -> Callable[[], int]:
    """Its DistillationBox, forward-and-distil, as its examples drive it."""
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import DistillationBox

    batch = config.recipe.optimizer.batch_size
    logits = {"student_module_path": ".", "student_module_io": "output",
              "teacher_module_path": ".", "teacher_module_io": "output"}  # fmt: skip
    kd = {"key": "KDLoss", "kwargs": {**logits, "temperature": TEMPERATURE, "alpha": 0.5}}
    settings = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": batch, "drop_last": True},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "nesterov": True}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }
    teacher = build_for(task, config.teacher, seed=0, path="teacher")
    box = DistillationBox(
        teacher, fresh(config, task), {"train": dataset(task)}, settings, device, None, False, 1.0
    )

    def epoch() -> int:
        box.pre_epoch_process(epoch=0)
        for inputs, targets, extra in box.train_data_loader:
            loss = box.forward_process(inputs.to(device), targets.to(device), extra)
            box.post_forward_process(loss=loss)
        return len(box.train_data_loader) * batch

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pair", choices=[*PAIRS, "both"], default="both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="another batch size than the pair's")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in PAIRS if given.pair == "both" else (given.pair,):
        measure(name, given.batch or PAIRS[name].batch, given.rounds, torch.device(given.device))


def measure(name: str, batch: int, rounds: int, device: torch.device) -> None:
    pair = PAIRS[name]
    config = configured(pair, batch)
    task = build_task(config.task, Path(__file__).parent)
    with tempfile.TemporaryDirectory(prefix="pdo-step-") as folder:
        on = Context(folder, device)
        full = trained_teacher(task, config.teacher, on, seed=0)
        ladder = Ladder(task, full, config.recipe, on, seed=0)
        sides = {
            "bound": bound(config, task, pair.steps, device),
            "bank": ours(config, ladder, "stored"),
            "online": ours(config, ladder, "online"),
            "plain": plain(config, task, ladder, device),
        }
        if importlib.util.find_spec("torchdistill"):
            sides["torchdistill"] = torchdistill(config, task, device)
        median = medians({side: timed(sides[side], device) for side in sides}, rounds)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    print(f"\n{name}: {config.teacher.arch} to {config.student.arch}, {pair.edge} pixels,"
          f" batch {batch}, {where}\n")  # fmt: skip
    print("| side | images/s | bank is faster by | of the bound |\n|---|---|---|---|")
    for side, value in median.items():
        faster, share = median["bank"] / value, value / median["bound"]
        print(f"| {side} | {value:,.0f} | {faster:.2f} | {share:.0%} |")


def timed(epoch: Callable[[], int], device: torch.device) -> Callable[[], float]:
    """How many an epoch counts in a second."""

    def speed() -> float:
        started = time.perf_counter()
        count = epoch()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count / (time.perf_counter() - started)

    return speed


def medians(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Each side's median speed, of rounds that go round all sides, after one that warms up."""
    turns = [{side: speed() for side, speed in sides.items()} for _ in range(rounds + 1)]
    return {side: statistics.median(turn[side] for turn in turns[1:]) for side in sides}


if __name__ == "__main__":
    main()
