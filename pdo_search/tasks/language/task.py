"""Language models: one categorical head over the tokens, at every position of a window, tied to the
embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pdo_search.config.language import LanguageTaskConfig
from pdo_search.config.texts import TokenizerConfig
from pdo_search.store import Store
from pdo_search.store.encoding import NUM_DRAWS, TOP_K, Keep, Sampled, Top, Whole
from pdo_search.tasks.base import (
    Batch,
    Examples,
    Head,
    HeadKind,
    LeftOut,
    Meter,
    Split,
    Vocabulary,
    mask_of,
)
from pdo_search.tasks.inputs import TOKENS, TextInputs
from pdo_search.tasks.language.documents import Documents, divided, read_documents
from pdo_search.tasks.language.meter import BitsMeter
from pdo_search.tasks.language.windows import NEXT, Windows, windows_of
from pdo_search.tasks.splitting import (
    TRANSFER_IDS,
    Divided,
    Part,
    Told,
    divide,
    examples_of,
    own_parts,
)
from pdo_search.tasks.task import BaseTask
from pdo_search.tasks.tokenizers import Tokenizer, tokenizer_for

__all__ = ["LanguageModel", "build_language_model"]

TOLERANCE = 1e-3
"""How far outputs may move that must stay: what is computed beside them may round otherwise."""


class LanguageModel(BaseTask):
    """The task over windows. Build it with ``build_language_model``.

    Attributes:
        config: what was asked for.
        tokenizer: of teacher and student.
    """

    uncombined = "a text that one model has begun is not passed on to another"

    def __init__(
        self,
        config: LanguageTaskConfig,
        parts: Divided,
        tokenizer: Tokenizer,
        left_out: tuple[LeftOut, ...] = (),
    ) -> None:
        positions = mask_of(TOKENS)
        head = Head(NEXT, HeadKind.CATEGORICAL, tokenizer.size, positions, tied=TOKENS)
        super().__init__(
            parts.splits,
            (head,),
            seed=config.seed,
            fingerprint=_digest(config, parts, tokenizer),
            train_inputs=parts.train_inputs,
            dropped=parts.dropped,
            left_out=left_out,
        )
        self.config = config
        self.tokenizer = tokenizer
        self.metrics = BitsMeter.names
        self.kept = _kept(config)

    def meter(self) -> Meter:
        """A meter that has counted nothing."""
        return BitsMeter(self.heads[0])

    def objection(self, model: nn.Module, batch: Batch) -> tuple[str, str] | None:
        """A model that sees what it is to predict has no use."""
        tokens = batch[TOKENS]
        half = tokens.shape[1] // 2
        if half == 0:
            return None
        later = tokens.clone()
        later[:, half:] = (tokens[:, half:] + 1) % self.tokenizer.size
        before, after = (
            self.forward(model, {**batch, TOKENS: given})[NEXT][:, :half]
            for given in (tokens, later)
        )
        if torch.allclose(before, after, rtol=TOLERANCE, atol=TOLERANCE):
            return None
        return (
            "its outputs at a position hang on the tokens behind it, which are what it is to"
            " predict",
            "build it causal: args: {causal: true} of small_transformer, or a decoder of the"
            " transformers library, such as GPT-2 or Llama",
        )

    def inputs(self) -> TextInputs:
        """Texts, by the tokenizer, of which a model sees no more than a window."""
        length = self.config.tokenizer.length
        return TextInputs((), self.tokenizer.definition, length, continues=True)

    def vocabulary(self) -> Vocabulary | None:
        """None: every token may be the next one."""
        return None


def _kept(config: LanguageTaskConfig) -> dict[str, Keep]:
    """How much of a teacher's outputs is stored, where that is said."""
    if config.bank == "whole":
        return {NEXT: Whole()}
    if config.bank == "top":
        return {NEXT: Top(config.bank_tokens or TOP_K)}
    if config.bank == "sampled":
        return {NEXT: Sampled(config.bank_tokens or NUM_DRAWS)}
    return {}


def build_language_model(
    config: LanguageTaskConfig, base_dir: Path | None, store: Store | None
) -> LanguageModel:
    """Load, split and tokenize the documents.

    Args:
        config: the task.
        base_dir: folder that relative paths and factories refer to.
        store: keeps a trained tokenizer, for all processes; None trains one in this process.

    Raises:
        InputError: names the source, the file and the row, or the split that cannot be used.
    """
    own = read_documents(
        config.data, config.splits.group, path="task.data", base_dir=base_dir, seed=config.seed
    )
    other = None
    if config.transfer_data is not None:
        path = "task.transfer_data"
        other = read_documents(
            config.transfer_data, "document", path=path, base_dir=base_dir, seed=config.seed
        )
    elsewhere = () if other is None else (Split.TRANSFER,)
    rows = divided(own, config.splits, config.seed, elsewhere)
    train = [own.texts[row] for row in rows[Split.TRAIN]]
    tokenizer = tokenizer_for(
        TokenizerConfig(path=config.tokenizer.path, train=config.tokenizer.train),
        lambda: train,
        source=_digest_of_texts(train),
        base_dir=base_dir,
        store=store,
    )
    parts = _parts(own, rows, tokenizer, config.tokenizer.length)
    left_out = own.left_out
    if other is not None:
        assert config.transfer_data is not None
        parts[Split.TRANSFER] = _transfer(
            other, tokenizer, config.tokenizer.length, config.transfer_data.labelled
        )
        left_out += other.left_out
    told = Told(
        config.data.path or config.data.source,
        config.transfer_data and (config.transfer_data.path or config.transfer_data.source),
        "windows",
    )
    found = divide(parts, config.splits, config.seed, (), told)
    return LanguageModel(config, found, tokenizer, left_out)


def _parts(
    documents: Documents,
    rows: Mapping[Split, NDArray[np.int64]],
    tokenizer: Tokenizer,
    length: int,
) -> dict[Split, Part]:
    """Windows of the splits' documents."""
    texts = [documents.texts[row] for split in rows for row in rows[split]]
    cut = windows_of(texts, tokenizer, length)
    bounds = np.cumsum([0, *(len(index) for index in rows.values())])
    first = cut.documents[torch.from_numpy(bounds)].tolist()
    ranges = {split: range(first[k], first[k + 1]) for k, split in enumerate(rows)}
    groups = None
    if len(documents.splits) > 1:  # Which the source itself may have torn apart.
        whole = np.concatenate([documents.groups[index] for index in rows.values()])
        groups = whole.repeat(cut.documents.diff().numpy())
    return own_parts(_examples(cut, tokenizer), ranges, groups=groups)


def _transfer(documents: Documents, tokenizer: Tokenizer, length: int, labelled: bool) -> Part:
    """Windows of another source's train documents."""
    pool = documents.splits[Split.TRAIN]
    cut = windows_of(documents.texts[pool.start : pool.stop], tokenizer, length)
    examples = _examples(cut, tokenizer, TRANSFER_IDS)
    shown = examples if labelled else examples.unlabelled()
    return own_parts(shown, {Split.TRANSFER: range(len(shown))})[Split.TRANSFER]


def _examples(cut: Windows, tokenizer: Tokenizer, first_id: int = 0) -> Examples:
    inputs = {TOKENS: cut.tokens(tokenizer.padding)}
    labelled = torch.ones(len(cut.offsets) - 1, dtype=torch.bool)
    return examples_of(inputs, cut.targets(), first_id, labelled)


def _digest_of_texts(texts: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        part = text.encode()
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _digest(config: LanguageTaskConfig, parts: Divided, tokenizer: Tokenizer) -> str:
    """Of all that a model's training sees of the task."""
    digest = hashlib.blake2b(digest_size=16)
    settings = f"{config.kind} {config.seed} {config.tokenizer.length} {tokenizer.digest}"
    digest.update(settings.encode())
    for split in Split:
        examples = parts.splits[split]
        column = examples.inputs[TOKENS].select(_rows(examples))
        assert column.offsets is not None
        for part in (column.values, column.offsets, examples.ids, examples.labelled):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def _rows(examples: Examples) -> torch.Tensor:
    return torch.arange(len(examples)) if examples.rows is None else examples.rows
