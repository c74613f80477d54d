"""What suites look at: some of a task's examples, and outputs as a model could have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdo_search.tasks.base import Batch, Examples, Outputs, Split, Task, mask_of

__all__ = ["FEW", "assert_same", "batch_of", "few", "outputs_like", "own_of", "splits_of"]

FEW = 24
"""Examples that most tests look at."""


def splits_of(task: Task) -> dict[Split, Examples]:
    """Examples of all splits."""
    return {s: task.test_examples() if s is Split.TEST else task.examples(s) for s in Split}


def few(examples: Examples, count: int = FEW) -> Tensor:
    """Indices of some examples, from all over a split."""
    return torch.linspace(0, len(examples) - 1, min(count, len(examples))).long()


def batch_of(task: Task, examples: Examples, index: Tensor) -> Batch:
    """Prepared examples and their labels."""
    return examples.batch(index) | task.prepare(examples.raw_inputs(index))


def own_of(batch: Batch, row: int) -> dict[str, Tensor]:
    """What a batch holds of one example, without padding."""
    found = {}
    for name, values in batch.items():
        mask = batch.get(mask_of(name))
        found[name] = values[row] if mask is None else values[row][mask[row]]
    return {name: values for name, values in found.items() if not name.endswith(mask_of(""))}


def assert_same(found: Batch, expected: Batch, tolerance: float = 0.0) -> None:
    """Two batches hold the same, up to a tolerance, relative and absolute."""
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance, equal_nan=True
        )


def outputs_like(task: Task, model: nn.Module, batch: Batch, seed: int = 0) -> Outputs:
    """Arbitrary outputs of the form that a model's have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        plain = task.forward(model.eval(), batch)
    return {
        name: torch.randn(found.shape, generator=generator).to(found.dtype) * 3
        for name, found in plain.items()
    }
