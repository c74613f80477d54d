"""Tokenizers: loaded from a folder, or trained on a task's own texts.

Owns how a tokenizer is found, made and kept; teacher and student have the same one. It is one text,
its definition in the form of the ``tokenizers`` library (extra ``text``), so that a stored model
has it inside. Knows no task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pdo_search.base.errors import InputError
from pdo_search.base.safefile import read_regular
from pdo_search.config.texts import TokenizerConfig
from pdo_search.store import Store

__all__ = [
    "MAX_DEFINITION",
    "Encoded",
    "Tokenizer",
    "load_tokenizer",
    "tokenizer_for",
    "tokenizer_of",
]

MAX_DEFINITION = 48 << 20
"""Bytes of a definition; those of vocabularies of 260,000 entries have half of them."""
FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
PADDING, UNKNOWN, END = "<pad>", "<unk>", "<end>"
"""Entries of our own tokenizers, numbered from 0."""
OF_PADDING = (PADDING, "[PAD]")
OF_UNKNOWN = (UNKNOWN, "[UNK]")
OF_ENDS = (END, "<|endoftext|>", "</s>", "[SEP]")
EXTRA = "pip install 'pdo-search[text]'"


@dataclass(frozen=True)
class Encoded:
    """Texts as numbers.

    Attributes:
        rows: ids of each text.
        num_cut: how many texts were longer than what was asked for.
    """

    rows: list[list[int]]
    num_cut: int


@dataclass(frozen=True)
class Tokenizer:
    """Texts to ids and back.

    Attributes:
        definition: JSON, as the library has it.
    """

    definition: str

    @cached_property
    def _library(self) -> Any:
        """The library's tokenizer, which pads nothing.

        Raises:
            InputError: the library is not installed, or the definition is none of its.
        """
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            raise InputError(
                "texts need the package tokenizers, which is not installed",
                path="task.tokenizer",
                remedy=EXTRA,
            ) from None
        try:
            found = Library.from_str(self.definition)
        except Exception as error:  # The library raises plain ones.
            raise InputError(
                f"is no tokenizer: {error}",
                path="task.tokenizer",
                remedy="give a folder with a tokenizer.json of Hugging Face's tokenizers library",
            ) from None
        found.no_padding()
        found.no_truncation()
        return found

    @cached_property
    def _ids(self) -> dict[str, int]:
        known: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        return known

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._ids.values()) + 1

    @cached_property
    def padding(self) -> int:
        """The id that fills batches up; 0 where there is none of its own, since it is masked."""
        return self._first(OF_PADDING, 0)

    @cached_property
    def unknown(self) -> int:
        """The id of what is not known; that of padding where nothing is unknown."""
        own = json.loads(self.definition)["model"].get("unk_token")
        names = OF_UNKNOWN if not isinstance(own, str) else (own, *OF_UNKNOWN)
        return self._first(names, self.padding)

    @cached_property
    def end(self) -> int | None:
        """The id that ends a text; None where there is none."""
        found = self._first(OF_ENDS, -1)
        return None if found < 0 else found

    def _first(self, names: Sequence[str], otherwise: int) -> int:
        return next((self._ids[name] for name in names if name in self._ids), otherwise)

    @cached_property
    def digest(self) -> str:
        """Of the definition."""
        return hashlib.blake2b(self.definition.encode(), digest_size=16).hexdigest()

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, *, marks: bool = True
    ) -> Encoded:
        """Texts as ids.

        Args:
            texts: of any length.
            max_length: most ids of a text, marks included; what comes later is cut off.
            marks: whether the marks of beginning and end that belong to the tokenizer are added.
                With them, a text of nothing is one unknown id.
        """
        if max_length is None:
            self._library.no_truncation()
        else:
            self._library.enable_truncation(max_length)
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=marks)
        empty = [self.unknown] if marks else []
        return Encoded([f.ids or empty for f in found], sum(bool(f.overflowing) for f in found))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks."""
        text: str = self._library.decode(list(ids), skip_special_tokens=True)
        return text


@lru_cache(maxsize=8)
def tokenizer_of(definition: str) -> Tokenizer:
    """A tokenizer, read once per process."""
    return Tokenizer(definition)


def load_tokenizer(folder: Path, path: str) -> Tokenizer:
    """The tokenizer of a folder, such as that of a model of the transformers library.

    Args:
        folder: with ``tokenizer.json``; others are converted by the transformers library.
        path: where it stands in the experiment, for messages.

    Raises:
        InputError: it holds none that can be read.
    """
    try:
        if (folder / FILE).is_file():
            definition = read_regular(folder / FILE, MAX_DEFINITION).decode("utf-8")
        elif (folder / SETTINGS).is_file() or any(folder.glob("vocab.*")):
            definition = _converted(folder)
        else:
            raise ValueError(f"it has no {FILE}" if folder.is_dir() else "there is no such folder")
        found = tokenizer_of(definition)
        _ = found.size
    except InputError as error:
        raise error.at(file=folder) from None
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"holds no tokenizer that can be read: {str(error).strip().splitlines()[0]}",
            path=path,
            value=str(folder),
            remedy=f"give a folder with a {FILE}, relative to the experiment file; or train one:"
            " tokenizer: {train: 4000}",
        ) from None
    return found


def _converted(folder: Path) -> str:
    """The definition of an older folder, of vocabulary files."""
    import transformers

    found = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    definition: str = found.backend_tokenizer.to_str()
    return definition


def tokenizer_for(
    config: TokenizerConfig,
    texts: Callable[[], Iterable[str]],
    *,
    source: str,
    base_dir: Path | None,
    store: Store | None,
    path: str = "task.tokenizer",
) -> Tokenizer:
    """The tokenizer of a task.

    Args:
        config: a folder, or the size of one that is trained.
        texts: those of the train split, asked for if one is trained now.
        source: digest of the texts.
        base_dir: folder that relative paths refer to.
        store: keeps a trained one, so that all processes and sweeps have the same; None does not.
        path: where it stands in the experiment, for messages.

    Raises:
        InputError: there is none, or the texts are too few for one of that size.
    """
    if config.path is not None:
        return load_tokenizer((base_dir or Path.cwd()) / config.path, f"{path}.path")
    assert config.train is not None
    size = config.train
    if store is None:
        return _trained(texts(), size, path)

    def build(folder: Path) -> None:
        (folder / FILE).write_text(_trained(texts(), size, path).definition, encoding="utf-8")

    key = {"version": 1, "kind": "byte-level BPE", "texts": source, "size": size}
    folder = store.get_or_build("tokenizer", key, build).path
    return tokenizer_of((folder / FILE).read_text(encoding="utf-8"))


def _trained(texts: Iterable[str], size: int, path: str) -> Tokenizer:
    """A byte-level BPE (Radford et al. 2019, section 2.2), whose texts end with a mark.

    Raises:
        InputError: the library is not installed, or the texts have too few pairs of bytes.
    """
    try:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    except ImportError:
        raise InputError(
            "training a tokenizer needs the package tokenizers, which is not installed",
            path=path,
            remedy=EXTRA,
        ) from None
    made = Library(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PADDING, UNKNOWN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, made.token_to_id(END))]
    )
    found = tokenizer_of(made.to_str())
    if found.size < size:
        raise InputError(
            f"the train split's texts give {found.size:,} entries at most",
            path=f"{path}.train",
            value=size,
            remedy=f"write {found.size} or less, or give more texts",
        )
    return found
