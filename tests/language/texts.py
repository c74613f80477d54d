"""Real texts that every checkout has: sections of its own documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdo_search.config import TrialConfig, parse_experiment, resolve

ROOT = Path(__file__).parents[2]


def sections(
    file: str = "LICENSE", mark: str = "\n\n   ", least: int = 300
) -> list[tuple[str, str]]:
    """(Name, text) of a file's paragraphs, short ones together with those before them."""
    found: list[str] = []
    for part in (ROOT / file).read_text("utf-8").split(mark):
        if found and len(found[-1]) < least:
            found[-1] += mark + part
        else:
            found.append(part)
    return [(f"{file} {number}", text) for number, text in enumerate(found)]


TASK: dict[str, Any] = {
    "kind": "language_model",
    "data": {"source": "tests.language.texts:sections"},
    "tokenizer": {"train": 320, "length": 32},
    "splits": {"transfer": 0.2, "validation": 0.15, "test": 0.15},
}
"""About 150 windows, a few of them in transfer, validation and test."""
SMALL: dict[str, Any] = {"arch": "small_transformer", "args": {"causal": True, "num_heads": 4}}


def config_of(task: dict[str, Any] | None = None, **sections_: Any) -> TrialConfig:
    """A trial of seconds; sections are replaced, those of ``trial`` one by one."""
    trial = {
        "epochs": 3, "init_epochs": 0, "num_stages": 1, "temperature": 1.0,
        "loss": {"reduce": "position"},
        "optimizer": {"kind": "adamw", "lr": 0.01, "batch_size": 16},
        **sections_.pop("trial", {}),
    }  # fmt: skip
    tree = {
        "name": "language",
        "task": TASK | (task or {}),
        "teacher": {
            **SMALL, "width": 32, "depth": 2,
            "train": {"kind": "adamw", "lr": 0.01, "epochs": 4, "batch_size": 16},
        },
        "student": {**SMALL, "width": 16, "depth": 1},
        "trial": trial,
        **sections_,
    }  # fmt: skip
    loaded = parse_experiment(tree, file=Path("language.yaml"), base_dir=ROOT)
    return resolve(loaded.experiment, {})
