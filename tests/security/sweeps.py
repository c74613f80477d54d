"""A sweep as a stranger could send it: tables, sweep.json, a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pdo_search.config.load import parse_experiment
from pdo_search.config.model import ModelConfig
from pdo_search.models.modelfile import save_model
from pdo_search.results.schema import param_types, trial_id
from pdo_search.results.sweepfile import SweepInfo, write_sweep_file
from pdo_search.results.writer import TableWriter

from ..conftest import TINY
from ..pictures import build_model, picture_spec


def trial(number: int, **columns: Any) -> dict[str, Any]:
    """A finished trial of the tiny experiment."""
    values: dict[str, Any] = {
        "trial_id": trial_id(number),
        "number": number,
        "status": "finished",
        "method": "progressive",
        "decision": "completed",
        "attempt": 1,
        "seed": 0,
        "param.num_stages": 1 + number % 3,
        "param.temperature": 2.0 + number,
        "param.optimizer.lr": 0.05,
        "epochs_done": 4,
        "objective": 0.5 + number / 100,
        "val_accuracy": 0.5 + number / 100,
        "params": 1000 + number,
        "flops": 1e6 + number,
        "model": f"models/{trial_id(number)}/student",
        "teacher_score": 0.9,
        "teacher_params": 100_000,
        "end_index": number,
    }
    return {**values, **columns}


def write_sweep(folder: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    """Write a sweep of the tiny experiment below a folder; its directory."""
    given = {**TINY, **changes.pop("given", {})}
    loaded = parse_experiment(given, file=folder / "tiny.yaml", base_dir=folder)
    values: dict[str, Any] = {
        "name": "tiny",
        "given": given,
        "resolved": loaded.experiment.model_dump(mode="json"),
        "file": str(folder / "tiny.yaml"),
        "base_dir": str(folder),
        "metric": "val_accuracy",
        "mode": "max",
        "num_trials": 6,
        "store": str(folder / "store"),
    }
    sweep = folder / "sweep"
    write_sweep_file(sweep, SweepInfo(**{**values, **changes}))
    writer = TableWriter(sweep, param_types(loaded.space))
    for row in rows or (trial(0), trial(1)):
        writer.upsert("trials", row)
        identity = {"number": row["number"], "trial_id": row["trial_id"]}
        for epoch in (1, 2):
            writer.upsert("epochs", {**identity, "epoch": epoch, "val_accuracy": 0.4})
    writer.flush()
    return sweep


def write_model(directory: Path) -> Path:
    """Save a small model; its directory."""
    config = ModelConfig(arch="small_convnet", width=4)
    spec = picture_spec(config, (1, 8, 8), "abc")
    save_model(directory, build_model(config, (1, 8, 8), 3, seed=0), spec)
    return directory


PICTURES = torch.zeros(2, 1, 8, 8)
