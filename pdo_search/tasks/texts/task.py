"""Text classification: one categorical head over the tokens of a text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pdo_search.base.columns import Column
from pdo_search.base.errors import InputError
from pdo_search.config.texts import TextDataConfig, TextTaskConfig
from pdo_search.store import Store
from pdo_search.tasks.base import (
    LABELLED,
    Examples,
    Head,
    HeadKind,
    LeftOut,
    Meter,
    Split,
    Vocabulary,
    target_of,
)
from pdo_search.tasks.convert import (
    class_column,
    group_values,
    text_batches,
    time_values,
    token_column,
    unknown_column,
)
from pdo_search.tasks.inputs import TOKENS, TextInputs
from pdo_search.tasks.records import Raw, Records
from pdo_search.tasks.sources import read_records
from pdo_search.tasks.splitting import (
    TRANSFER_IDS,
    Divided,
    Part,
    Told,
    balanced_head,
    divide,
    examples_of,
    own_parts,
)
from pdo_search.tasks.task import BaseTask
from pdo_search.tasks.texts.meter import TextMeter, rare_half
from pdo_search.tasks.texts.wordnet import WORDNET, wordnet
from pdo_search.tasks.tokenizers import Tokenizer, tokenizer_for

__all__ = ["HEAD", "TextClassification", "build_text_classification"]

HEAD = "class"
TEXT, LABEL, GROUP, TIME = "text", "label", "group", "time"
NAMED = {WORDNET: wordnet}
"""Sources by name, beside files and functions."""


class TextClassification(BaseTask):
    """The task over tokenized texts. Build it with ``build_text_classification``.

    Attributes:
        class_names: by label.
        tokenizer: of teacher and student.
        max_length: most ids of a text.
    """

    def __init__(
        self,
        config: TextTaskConfig,
        divided: Divided,
        class_names: tuple[str, ...],
        tokenizer: Tokenizer,
        left_out: tuple[LeftOut, ...],
    ) -> None:
        super().__init__(
            divided.splits,
            (_head(class_names),),
            seed=config.seed,
            fingerprint=_digest(config, divided, class_names, tokenizer),
            train_inputs=divided.train_inputs,
            dropped=divided.dropped,
            left_out=left_out,
        )
        self.class_names = class_names
        self.tokenizer = tokenizer
        self.max_length = config.tokenizer.max_length
        self.metrics = TextMeter.names
        self._rare = rare_half(_class_counts(divided.train_inputs, len(class_names)))

    def meter(self) -> Meter:
        """A meter that has counted nothing."""
        return TextMeter(self.heads[0], self._rare)

    def inputs(self) -> TextInputs:
        """Texts by the tokenizer, and the classes' names."""
        return TextInputs(self.class_names, self.tokenizer.definition, self.max_length)

    def vocabulary(self) -> Vocabulary:
        """How often the tokenizer's ids occur in train and transfer."""
        counts = torch.zeros(self.tokenizer.size, dtype=torch.int64)
        for split in (Split.TRAIN, Split.TRANSFER):
            ids = _own(self.examples(split)).values
            counts += torch.bincount(ids, minlength=len(counts))
        return Vocabulary(counts, self.tokenizer.unknown)


def build_text_classification(
    config: TextTaskConfig, base_dir: Path | None, store: Store | None
) -> TextClassification:
    """Read, tokenize, split and check the data.

    Args:
        config: the task.
        base_dir: folder that relative paths and factories refer to.
        store: keeps a tokenizer that is trained, for all processes; None trains it in this one.

    Raises:
        InputError: names the source, the row, the class or the split that cannot be used.
    """
    rows, other = _read(config, config.data, "task.data", base_dir), None
    if config.transfer_data is not None:
        other = _read(config, config.transfer_data, "task.transfer_data", base_dir)
    labels, class_names = class_column(rows.columns[LABEL])
    if len(class_names) < 2:
        raise InputError(
            f"a classifier needs two classes, and column {rows.columns[LABEL].name!r} has"
            f" {len(class_names)}",
            path="task.data",
            value=list(class_names),
            remedy="name the column of the labels: task.data: {label: …}",
        )

    balanced = balanced_head((_head(class_names),), config.splits.stratify)

    def divided(column_of: Callable[[Raw], Column]) -> Divided:
        examples = examples_of({TOKENS: column_of(rows.columns[TEXT])}, {HEAD: labels})
        groups = group_values(rows.columns[GROUP]) if GROUP in rows.columns else None
        times = time_values(rows.columns[TIME]) if TIME in rows.columns else None
        parts = own_parts(examples, rows.splits, balanced, groups, times)
        if other is not None:
            tokens = column_of(other.columns[TEXT])
            parts[Split.TRANSFER] = _as_transfer(other, tokens, labels, class_names)
        names = class_names if balanced else ()
        return divide(parts, config.splits, config.seed, names, _told(config))

    tokenizer = _tokenizer(config, rows.columns[TEXT], divided, base_dir, store)
    reading = _Reading(tokenizer, config.tokenizer.max_length)
    found = divided(reading.tokens)
    left_out = rows.left_out
    if other is not None:
        left_out += (*other.left_out, *_not_used(other))
    return TextClassification(
        config, found, class_names, tokenizer, (*left_out, *reading.left_out())
    )


def _head(class_names: tuple[str, ...]) -> Head:
    return Head(HEAD, HeadKind.CATEGORICAL, len(class_names))


def _told(config: TextTaskConfig) -> Told:
    """What messages call the sources."""
    other = config.transfer_data
    return Told(config.data.path or config.data.source, other and (other.path or other.source),
                "texts")  # fmt: skip


class _Reading:
    """Texts as ids, and how many of them were cut."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._num_cut = 0

    def tokens(self, texts: Raw) -> Column:
        """The ids of texts."""
        return token_column(texts, self._rows, self._tokenizer.padding)

    def _rows(self, some: list[str]) -> list[list[int]]:
        found = self._tokenizer.encode(some, self._max_length)
        self._num_cut += found.num_cut
        return found.rows

    def left_out(self) -> tuple[LeftOut, ...]:
        """What a user should know of it."""
        what = f"texts of more than {self._max_length} tokens: cut there"
        return (LeftOut("", what, self._num_cut),) if self._num_cut else ()


def _read(
    config: TextTaskConfig, data: TextDataConfig, path: str, base_dir: Path | None
) -> Records:
    """Rows with columns text and label, and with those that splits are made by."""
    columns, inputs, splits = dict(data.named_columns), [TEXT], config.splits
    if path == "task.data":
        by = {GROUP: splits.group, TIME: splits.leave_one_out or None}
        columns |= {name: own for name, own in by.items() if own is not None}
        inputs += [name for name, own in by.items() if own is not None]
    return read_records(
        data.model_copy(update={"columns": columns}),
        inputs,
        (LABEL,),
        path=path,
        base_dir=base_dir,
        seed=config.seed,
        named=NAMED,
    )


def _tokenizer(
    config: TextTaskConfig,
    texts: Raw,
    divided: Callable[[Callable[[Raw], Column]], Divided],
    base_dir: Path | None,
    store: Store | None,
) -> Tokenizer:
    """The given tokenizer, or one that is trained on the train split: as it is by its texts, of
    which no copy is in another split."""
    if config.tokenizer.path is not None:
        return tokenizer_for(
            config.tokenizer, lambda: (), source="", base_dir=base_dir, store=store
        )
    train = divided(_bytes_of).train_inputs
    assert train.rows is not None
    chosen = texts.take(train.rows.numpy())

    def in_order() -> Iterator[str]:
        for some in text_batches(chosen):
            yield from some

    digest = hashlib.blake2b(digest_size=16)
    for text in in_order():
        digest.update(f"{len(text)} {text}".encode())
    return tokenizer_for(
        config.tokenizer, in_order, source=digest.hexdigest(), base_dir=base_dir, store=store
    )


def _bytes_of(texts: Raw) -> Column:
    """Texts as their bytes, (S,) uint8."""
    parts = [text.encode() for some in text_batches(texts) for text in some]
    offsets = np.cumsum([0, *map(len, parts)])
    values = np.frombuffer(b"".join(parts), np.uint8).copy()
    return Column(torch.from_numpy(values), torch.from_numpy(offsets))


def _not_used(other: Records) -> list[LeftOut]:
    """The validation and test split that a transfer source has of its own."""
    return [
        LeftOut("", f"texts of {split.value} in task.transfer_data: not used", len(rows))
        for split, rows in other.splits.items()
        if split in (Split.VALIDATION, Split.TEST)
    ]


def _as_transfer(
    other: Records, tokens: Column, like: Column, class_names: tuple[str, ...]
) -> Part:
    """Another source's texts; labels only where the classes are ours."""
    labels = unknown_column(like, len(other))
    if LABEL in other.columns:
        labels, _ = class_column(other.columns[LABEL], class_names)
    examples = examples_of({TOKENS: tokens}, {HEAD: labels}, TRANSFER_IDS)
    parts = own_parts(examples, other.splits, HEAD)
    found = parts[Split.TRAIN]
    return found.followed_by(parts[Split.TRANSFER]) if Split.TRANSFER in parts else found


def _own(examples: Examples) -> Column:
    """The ids of these examples alone."""
    column = examples.inputs[TOKENS]
    return column if examples.rows is None else column.select(examples.rows)


def _class_counts(examples: Examples, num_classes: int) -> Tensor:
    """(K,) labelled examples of each class."""
    return torch.bincount(class_labels(examples).clamp(min=-1) + 1, minlength=num_classes + 1)[1:]


def class_labels(examples: Examples) -> Tensor:
    """(N,) int64 class indices, -1 where no label may be used."""
    labels = examples.labels()
    return labels[target_of(HEAD)].masked_fill(~labels[LABELLED], -1)


def _digest(
    config: TextTaskConfig, divided: Divided, class_names: tuple[str, ...], tokenizer: Tokenizer
) -> str:
    """Of all that a model's training sees of the task."""
    digest = hashlib.blake2b(digest_size=16)
    settings = [config.kind, config.seed, config.tokenizer.max_length, tokenizer.digest]
    digest.update(f"{settings}{class_names}{len(divided.train_inputs)}".encode())
    for split in Split:
        examples = divided.splits[split]
        column = _own(examples)
        assert column.offsets is not None
        for part in (column.values, column.offsets, class_labels(examples), examples.ids):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()
