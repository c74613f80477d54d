"""Image classification: one categorical head over pictures of one size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdo_search.config.schema import TaskConfig
from pdo_search.errors import InputError, PdoError
from pdo_search.store import Store
from pdo_search.tasks.augment import augmented
from pdo_search.tasks.base import Examples, Head, HeadKind, Outputs, Split
from pdo_search.tasks.data import Pictures, load_pictures
from pdo_search.tasks.splits import four_way_split

__all__ = ["ImageClassification", "build_image_classification"]

HEAD = "class"
TEST_IDS = 1 << 40
TRANSFER_IDS = 1 << 41
NORMALIZATION_SAMPLE = 50_000
NORMALIZATION_CHUNK = 1_024


class ImageClassification:
    """The task over loaded pictures. Build it with ``build_image_classification``."""

    def __init__(
        self, config: TaskConfig, splits: dict[Split, Examples], class_names: tuple[str, ...]
    ) -> None:
        self.config = config
        self._splits = splits
        train = splits[Split.TRAIN]
        channels, height, width = train.source.shape[1:]
        self.input_shape = (channels, height, width)
        self.class_names = class_names
        self.heads: tuple[Head, ...] = (Head(HEAD, HeadKind.CATEGORICAL, len(class_names)),)
        self.normalization = _normalization(train)
        mean, std = self.normalization
        self._mean = torch.tensor(mean).repeat(width)
        self._scale = 1 / torch.tensor(std).repeat(width)
        self.fingerprint = self._digest()

    def examples(self, split: Split) -> Examples:
        """Examples of train, transfer or validation.

        Raises:
            PdoError: for the test split, which a search must not read.
        """
        if split is Split.TEST:
            raise PdoError("a search must not read the test split")
        return self._splits[split]

    def test_examples(self) -> Examples:
        """Examples of the test split, for the final confirmation alone."""
        return self._splits[Split.TEST]

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw inputs (N, C, H, W) as normalised float32, channels last."""
        mean, scale = self._mean.to(inputs.device), self._scale.to(inputs.device)
        # By lines of W·C numbers: by the C of a pixel, torch's loops take four times as long.
        pixels = inputs.permute(0, 2, 3, 1)
        lines = torch.sub(pixels.flatten(2), mean).mul_(scale)
        return lines.view(pixels.shape).permute(0, 3, 1, 2)

    def augment(self, inputs: Tensor, ids: Tensor, view: int) -> Tensor:
        """Raw augmented inputs: a pure function of (task seed, id, view)."""
        return augmented(inputs, ids, view, self.config.augment, self.config.seed)

    def view(self, inputs: Tensor, ids: Tensor, view: int) -> Tensor:
        """Augmented and prepared inputs."""
        return self.prepare(self.augment(inputs, ids, view))

    def forward(self, model: nn.Module, prepared: Tensor) -> Outputs:
        """The class logits (N, C)."""
        return {HEAD: model(prepared)}

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        settings = self.config.model_dump_json(include={"kind", "augment", "seed"})
        digest.update(f"{settings}{self.class_names}".encode())
        for split in Split:
            examples = self._splits[split]
            known = examples.digest.encode() if examples.digest else _bytes(examples.inputs())
            for part in (known, _bytes(examples.targets), _bytes(examples.ids)):
                digest.update(part)
        return digest.hexdigest()


def build_image_classification(
    config: TaskConfig, base_dir: Path | None, store: Store | None
) -> ImageClassification:
    """Load, split and check the data.

    Args:
        config: the task.
        base_dir: folder that relative paths and factories refer to.
        store: keeps decoded pictures for all processes; None decodes them in this one.

    Raises:
        InputError: names the source, the class and the split that cannot be used.
    """
    pictures = load_pictures(
        config.data, path="task.data", base_dir=base_dir, seed=config.seed, store=store
    )
    if len(pictures.class_names) < 2:
        raise InputError("a classifier needs two classes", value=pictures.class_names)
    if (pictures.labels < 0).any():
        raise InputError(
            "the labelled source has examples without a label",
            path="task.data",
            remedy="unlabelled pictures belong into task.transfer_data",
        )
    own_test = pictures.test_inputs is not None
    indices = four_way_split(
        pictures.labels,
        config.splits,
        config.seed,
        class_names=pictures.class_names,
        own_test=own_test,
        other_transfer=config.transfer_data is not None,
    )
    inputs, labels = (
        _tensor(pictures.inputs),
        torch.from_numpy(pictures.labels),
    )
    everything = Examples(inputs, None, labels, torch.arange(len(labels)), pictures.digest)
    splits = {split: everything.select(torch.from_numpy(i)) for split, i in indices.items()}
    if pictures.test_inputs is not None and pictures.test_labels is not None:
        test_labels = torch.from_numpy(pictures.test_labels)
        test_inputs = _tensor(pictures.test_inputs)
        ids = torch.arange(len(test_labels)) + TEST_IDS
        splits[Split.TEST] = Examples(test_inputs, None, test_labels, ids, pictures.digest)
    if config.transfer_data is not None:
        other = load_pictures(
            config.transfer_data.model_copy(
                update={"size": config.transfer_data.size or inputs.shape[-1]}
            ),
            path="task.transfer_data",
            base_dir=base_dir,
            seed=config.seed,
            store=store,
        )
        splits[Split.TRANSFER] = _as_transfer(other, everything, pictures.class_names)
    return ImageClassification(config, splits, pictures.class_names)


def _as_transfer(other: Pictures, like: Examples, class_names: tuple[str, ...]) -> Examples:
    """Another source's pictures in the shape of ours; labels only where the classes are ours."""
    inputs, digest = _tensor(other.inputs), other.digest
    channels = like.source.shape[1]
    if inputs.shape[1] != channels:
        grey = inputs.float().mean(dim=1, keepdim=True).to(inputs.dtype)
        inputs, digest = grey.expand(-1, channels, -1, -1).contiguous(), None
    if inputs.shape[1:] != like.source.shape[1:] or inputs.dtype != like.source.dtype:
        raise InputError(
            "the transfer source's pictures do not fit the task's",
            path="task.transfer_data",
            value=(tuple(inputs.shape[1:]), str(inputs.dtype)),
            remedy=f"they must be {tuple(like.source.shape[1:])}, {like.source.dtype}",
        )
    labels = torch.from_numpy(other.labels)
    if other.class_names != class_names:
        labels = torch.full_like(labels, -1)
    return Examples(inputs, None, labels, torch.arange(len(labels)) + TRANSFER_IDS, digest)


def _tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor; one that may not be written, as from a file, is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def _normalization(train: Examples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of a sample of train examples where there are many.

    Sums are of float64 and over chunks: a whole float64 copy would take eight times the memory.
    """
    sample = torch.linspace(0, len(train) - 1, min(len(train), NORMALIZATION_SAMPLE)).long()
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for rows in torch.split(sample, NORMALIZATION_CHUNK):
        values = train.inputs(rows).transpose(0, 1).flatten(1).double()
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
