"""Ladder evidence: what simplification does to a teacher, level by level, as Markdown tables.

First the teacher of an experiment, on its data, with accuracy before and after recovery; then
torchvision models at random weights, for shapes and sizes only.

    python experiments/benchmarks/ladder.py                 # about ten minutes on two cores
    python experiments/benchmarks/ladder.py --skip-trained  # the second table alone: a minute
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from pictures import classifier
from torch import nn

from pdo_search.config import load_experiment
from pdo_search.config.model import ModelConfig
from pdo_search.config.recipe import Recipe, SimplifyConfig
from pdo_search.distill.context import Context
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.teacher import trained_teacher
from pdo_search.models.build import placed
from pdo_search.models.cost import Cost, cost_of_run, measure_cost
from pdo_search.models.prune import prune_channels
from pdo_search.tasks import build_task

CPU = torch.device("cpu")
RATIO = 0.2
LEVELS = 3
PICTURE = (3, 224, 224)
CLASSES = 1000


def trained(file: str, store: str) -> Iterator[str]:
    """Rows of an experiment's teacher, simplified with each ratio."""
    loaded = load_experiment(file)
    experiment = loaded.experiment
    task = build_task(experiment.task, loaded.base_dir)
    on = Context(store, CPU, loaded.base_dir)
    full = trained_teacher(
        task,
        experiment.teacher,
        on,
        seed=experiment.search.seed,
        on_epoch=lambda seen: print(f"  teacher epoch {seen['epoch']:.0f}", flush=True),
    )
    first = Ladder(task, full, Recipe(), on, seed=0)
    whole = measure_cost(task, first.model(0), CPU)
    yield f"| full teacher | 0 | full | {sizes(whole, whole)} |  | {full.value:.4f} |"
    for asked, ratio, blocks in (
        ("15% of channels", 0.15, 0),
        ("30% of channels", 0.3, 0),
        ("a block", 0.0, 1),
    ):
        recipe = Recipe(prune_ratio=ratio, simplify=SimplifyConfig(drop_blocks=blocks))
        ladder = Ladder(task, full, recipe, on, seed=experiment.search.seed)
        for index in range(1, LEVELS + 1):
            level = ladder.level(index)
            cost = measure_cost(task, ladder.model(index), CPU)
            before = "" if level.value_before is None else f"{level.value_before:.4f}"
            yield (
                f"| {asked} | {index} | {level.status.value} | {sizes(cost, whole)}"
                f" | {before} | {level.value:.4f} |"
            )


def untrained(arch: str) -> Iterator[str]:
    """Rows of a torchvision model at random weights, pruned again and again."""
    model = placed(classifier(ModelConfig(arch=arch), PICTURE, CLASSES), CPU)
    full = measured(model)
    yield f"| {arch} | 0 | {sizes(full, full)} |"
    for index in range(1, LEVELS + 1):
        prune_channels(model, torch.zeros(1, *PICTURE), RATIO, 8, timeout_s=600)
        yield f"| {arch} | {index} | {sizes(measured(model), full)} |"


def measured(model: nn.Module) -> Cost:
    return cost_of_run(model, partial(model, torch.zeros(1, *PICTURE)), CPU)


def sizes(cost: Cost, full: Cost) -> str:
    return (
        f"{cost.params:,} ({cost.params / full.params:.0%})"
        f" | {cost.flops / 1e6:,.1f} M ({cost.flops / full.flops:.0%})"
        f" | {cost.latency_ms:.2f} ms ({cost.latency_ms / full.latency_ms:.0%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    experiment = Path(__file__).parents[1] / "fashion_mnist.yaml"
    parser.add_argument("--experiment", default=str(experiment))
    parser.add_argument("--store", default="results/.store", help="where teacher and levels lie")
    parser.add_argument("--skip-trained", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.skip_trained:
        rows = list(trained(given.experiment, given.store))
        print(f"\n{Path(given.experiment).stem}, one thread\n")
        print("| removed per level | level | status | params | FLOPs | latency | before | after |")
        print("|---|---|---|---|---|---|---|---|", *rows, sep="\n")
    print(
        f"\nrandom weights, {PICTURE[-1]} pixels, {RATIO:.0%} of channels per level, one thread\n"
    )
    print("| model | level | params | FLOPs | latency |\n|---|---|---|---|---|")
    for arch in ("resnet50", "vgg16", "mobilenet_v2"):
        print(*untrained(arch), sep="\n", flush=True)


if __name__ == "__main__":
    main()
