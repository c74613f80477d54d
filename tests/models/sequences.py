"""Sequence models and batches that tests of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pdo_search.config.model import ModelConfig
from pdo_search.models.build import build_model
from pdo_search.models.units import Surgery
from pdo_search.tasks.base import Batch, Head, HeadKind, Outputs
from pdo_search.tasks.inputs import Inputs

VOCAB = 60
CLASSES = Head("class", HeadKind.CATEGORICAL, 5)
SPAN = Head("span", HeadKind.POINTER, 2, positions="tokens.mask")
TOKEN = Head("token", HeadKind.CATEGORICAL, VOCAB, positions="tokens.mask", tied="tokens")
IDS = Inputs({"tokens": ()})


def texts(lengths: Sequence[int] = (7, 4, 9, 2), seed: int = 0) -> Batch:
    """Token ids of examples of some lengths, padded with 0, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, VOCAB, mask.shape, generator=generator)
    return {"tokens": ids * mask, "tokens.mask": mask}


def made(
    arch: str, heads: Sequence[Head], inputs: Inputs = IDS, seed: int = 0, **more: Any
) -> nn.Module:
    """A model in evaluation mode."""
    return build_model(ModelConfig(arch=arch, **more), tuple(heads), inputs, seed=seed).eval()


@torch.inference_mode()
def outputs_of(model: nn.Module, batch: Batch) -> Outputs:
    found: Outputs = model(batch)
    return found


def apart(first: Outputs, second: Outputs, own: Tensor | None = None) -> float:
    """The largest difference of outputs, of heads with positions at an example's own."""
    gaps = [0.0]
    for name, one in first.items():
        gap = (one - second[name]).abs()
        gaps.append((gap if own is None or gap.dim() == 2 else gap[own]).max().item())
    return max(gaps)


def surgery(heads: Sequence[Head], batches: Sequence[Batch], **more: Any) -> Surgery:
    return Surgery(tuple(heads), lambda model, batch: model(batch), batches, **more)


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
