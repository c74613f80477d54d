"""Image classification: one categorical head over pictures of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.config.task import TaskConfig
from pdo_search.store import Store
from pdo_search.tasks.base import (
    LABELLED,
    Batch,
    Dropped,
    Examples,
    Head,
    HeadKind,
    LeftOut,
    Outputs,
    Split,
    target_of,
)
from pdo_search.tasks.contents import content_hashes
from pdo_search.tasks.images.augment import augmented, mixed, mixing
from pdo_search.tasks.images.data import load_pictures
from pdo_search.tasks.images.pictures import Labelled, Pictures
from pdo_search.tasks.inputs import PIXELS, PictureInputs
from pdo_search.tasks.splitting import TRANSFER_IDS, Part, Told, divide, part_of
from pdo_search.tasks.task import BaseTask

__all__ = ["HEAD", "ImageClassification", "build_image_classification", "class_labels"]

HEAD = "class"
FIRST_IDS = {Split.TRAIN: 0, Split.TEST: 1 << 40, Split.VALIDATION: 3 << 40}
"""Of the splits that a source may have of its own."""
BYTE = 255.0
NORMALIZATION_SAMPLE = 50_000
NORMALIZATION_CHUNK = 1_024


class ImageClassification(BaseTask):
    """The task over loaded pictures. Build it with ``build_image_classification``.

    Attributes:
        config: what was asked for.
        input_shape: (C, H, W).
        class_names: by label.
        normalization: mean and standard deviation per channel of the raw train inputs.
    """

    teachers_need = (
        "`teacher.normalization` as it was trained, the order of classes as here (they are sorted"
        " by name)"
    )

    def __init__(
        self,
        config: TaskConfig,
        splits: dict[Split, Examples],
        class_names: tuple[str, ...],
        *,
        train_inputs: Examples,
        dropped: tuple[Dropped, ...],
        left_out: tuple[LeftOut, ...] = (),
    ) -> None:
        super().__init__(
            splits,
            (Head(HEAD, HeadKind.CATEGORICAL, len(class_names)),),
            seed=config.seed,
            fingerprint=_digest(config, splits, class_names, len(train_inputs)),
            train_inputs=train_inputs,
            dropped=dropped,
            left_out=left_out,
        )
        self.config = config
        self.varies = config.augment.varies
        channels, height, width = train_inputs.inputs[PIXELS].values.shape[1:]
        self.input_shape = (channels, height, width)
        self.class_names = class_names
        self.normalization = _normalization(train_inputs)
        mean, std = self.normalization
        self._mean = torch.tensor(mean).repeat(width)
        self._scale = 1 / torch.tensor(std).repeat(width)

    def draw(self, raw: Batch, ids: Tensor, view: int) -> Batch:
        """Raw augmented pictures: a pure function of (task seed, id, view)."""
        return {PIXELS: augmented(raw[PIXELS], ids, view, self.config.augment, self.seed)}

    def partners(
        self, ids: Tensor, view: int, num_partners: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Whom mixup mixes each picture with, and its own share; None without mixup."""
        alpha = self.config.augment.mixup
        return mixing(ids, view, num_partners, alpha, self.seed) if alpha else None

    def mix(self, raw: Batch, partners: Batch, shares: Tensor) -> Batch:
        """Pictures mixed with their partners', in the source's type."""
        return {PIXELS: mixed(raw[PIXELS], partners[PIXELS], shares)}

    def prepare(self, raw: Batch) -> Batch:
        """Normalised float32 pictures (B, C, H, W), channels last."""
        inputs = raw[PIXELS]
        mean, scale = self._mean.to(inputs.device), self._scale.to(inputs.device)
        # By lines of W·C numbers: by the C of a pixel, torch's loops take four times as long.
        pixels = inputs.permute(0, 2, 3, 1)
        lines = torch.sub(pixels.flatten(2), mean).mul_(scale)
        return {PIXELS: lines.view(pixels.shape).permute(0, 3, 1, 2)}

    def forward(self, model: nn.Module, prepared: Batch) -> Outputs:
        """The class logits (B, K)."""
        return {HEAD: model(prepared[PIXELS])}

    def inputs(self) -> PictureInputs:
        """Pictures that are normalised by the train split."""
        bytes_ = self.train_inputs.inputs[PIXELS].values.dtype is torch.uint8
        unit = BYTE if bytes_ else 1.0
        return PictureInputs(self.input_shape, self.class_names, *self.normalization, unit=unit)

    def example(self) -> Batch:
        """A picture of zeros, channels last: what a model costs does not hang on it."""
        zeros = torch.zeros(1, *self.input_shape)
        return {PIXELS: zeros.contiguous(memory_format=torch.channels_last)}


def _digest(
    config: TaskConfig,
    splits: Mapping[Split, Examples],
    class_names: tuple[str, ...],
    epoch_examples: int,
) -> str:
    """Of all that a model's training sees of the task."""
    digest = hashlib.blake2b(digest_size=16)
    settings = config.model_dump_json(include={"kind", "augment", "seed"})
    digest.update(f"{settings}{class_names}".encode())
    if config.splits.labels is not None:
        digest.update(f"{epoch_examples}".encode())
    for split in Split:
        examples = splits[split]
        known = examples.digest
        pixels = known.encode() if known else _bytes(examples.raw_inputs()[PIXELS])
        for part in (pixels, _bytes(class_labels(examples)), _bytes(examples.ids)):
            digest.update(part)
    return digest.hexdigest()


def class_labels(examples: Examples) -> Tensor:
    """(N,) int64 class indices, -1 where no label may be used."""
    labels = examples.labels()
    return labels[target_of(HEAD)].masked_fill(~labels[LABELLED], -1)


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
    if not config.data.labelled:
        raise InputError(
            "classes are learnt from this source, which needs labels",
            path="task.data.labelled",
            value=False,
            remedy="leave it out; pictures without classes belong into task.transfer_data",
        )
    pictures = load_pictures(
        config.data, path="task.data", base_dir=base_dir, seed=config.seed, store=store
    )
    if len(pictures.class_names) < 2:
        raise InputError(
            "a classifier needs two classes",
            path="task.data",
            value=pictures.class_names,
            remedy="give examples of a second one",
        )
    if unlabelled := int((pictures.train.labels < 0).sum()):
        raise InputError(
            f"{unlabelled:,} examples of the labelled source have no label",
            path="task.data",
            value=config.data.source,
            remedy="leave them out; or return them from a function of their own, which"
            " `task.transfer_data: {source: …, labelled: false}` names",
        )
    parts, left_out = _own_parts(pictures), pictures.left_out
    transfer = config.transfer_data
    if transfer is not None:
        like = parts[Split.TRAIN].examples
        edge = transfer.size or _pixels(like).shape[-1]
        other = load_pictures(
            transfer.model_copy(update={"size": edge}),
            path="task.transfer_data",
            base_dir=base_dir,
            seed=config.seed,
            store=store,
        )
        left_out += (*other.left_out, *_not_used(other))
        parts[Split.TRANSFER] = _as_transfer(other, like, pictures.class_names)
    told = Told(config.data.path or config.data.source, transfer and transfer.source, "pictures")
    divided = divide(parts, config.splits, config.seed, pictures.class_names, told)
    return ImageClassification(
        config,
        divided.splits,
        pictures.class_names,
        train_inputs=divided.train_inputs,
        dropped=divided.dropped,
        left_out=left_out,
    )


def _own_parts(pictures: Pictures) -> dict[Split, Part]:
    """The labelled source: what is to be divided, and the splits that it has of its own."""
    return {
        split: _part(pictures.parts[split], first_id, pictures.digest)
        for split, first_id in FIRST_IDS.items()
        if split in pictures.parts
    }


def _part(own: Labelled, first_id: int, digest: str | None) -> Part:
    """Examples of a source, and their hashes: given ones, or those of the inputs."""
    inputs, targets = _tensor(own.inputs), torch.from_numpy(own.labels)
    ids = torch.arange(len(targets)) + first_id
    columns = {PIXELS: Column(inputs)}, {HEAD: Column(targets)}
    examples = Examples(*columns, None, ids, targets >= 0, digest)
    hashes = content_hashes(inputs.numpy()) if own.hashes is None else own.hashes
    return part_of(examples, HEAD, hashes=hashes)


def _not_used(other: Pictures) -> list[LeftOut]:
    """The validation and test split that a transfer source has of its own."""
    return [
        LeftOut("", f"pictures of {split.value} in task.transfer_data: not used", len(part.labels))
        for split in (Split.VALIDATION, Split.TEST)
        if (part := other.parts.get(split)) is not None
    ]


def _as_transfer(other: Pictures, like: Examples, class_names: tuple[str, ...]) -> Part:
    """Another source's pictures in the shape of ours; labels only where the classes are ours."""
    inputs, wanted = _tensor(other.train.inputs), _pixels(like)
    digest, hashes, channels = other.digest, other.train.hashes, wanted.shape[1]
    if inputs.shape[1] != channels:
        grey = inputs.float().mean(dim=1, keepdim=True).to(inputs.dtype)
        inputs, digest, hashes = grey.expand(-1, channels, -1, -1).contiguous(), None, None
    if inputs.shape[1:] != wanted.shape[1:] or inputs.dtype != wanted.dtype:
        raise InputError(
            "the transfer source's pictures do not fit the task's",
            path="task.transfer_data",
            value=(tuple(inputs.shape[1:]), str(inputs.dtype)),
            remedy=f"they must be {tuple(wanted.shape[1:])}, {wanted.dtype}",
        )
    labels, same = other.train.labels, other.class_names == class_names
    labels = labels if same else np.full_like(labels, -1)
    return _part(Labelled(inputs.numpy(), labels, hashes), TRANSFER_IDS, digest)


def _pixels(examples: Examples) -> Tensor:
    """(M, C, H, W) all pictures of the source."""
    return examples.inputs[PIXELS].values


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
        values = train.raw_inputs(rows)[PIXELS].transpose(0, 1).flatten(1).double()
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
