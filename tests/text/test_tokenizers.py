"""Tokenizers: trained on texts, loaded from folders, kept in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.base.errors import InputError
from pdo_search.config.texts import TokenizerConfig
from pdo_search.store import Store
from pdo_search.tasks.tokenizers import Tokenizer, load_tokenizer, tokenizer_for

from .made import rows

pytest.importorskip("tokenizers")
TEXTS = [row["text"] for row in rows(200)]


def trained(
    size: int = 320, texts: list[str] | None = None, store: Store | None = None
) -> Tokenizer:
    own = TEXTS if texts is None else texts
    return tokenizer_for(
        TokenizerConfig(train=size), lambda: own, source="made", base_dir=None, store=store
    )


def test_a_trained_one_gives_texts_back() -> None:
    found = trained()
    assert found.size == 320
    texts = ["the cat of the hill", "Größe: 🐈, and \t tabs", "  two  spaces "]
    encoded = found.encode(texts, 64)
    assert [found.decode(row) for row in encoded.rows] == texts
    assert all(row[-1] == found.end for row in encoded.rows)
    assert encoded.num_cut == 0


def test_a_text_of_nothing_has_one_position() -> None:
    assert [len(row) for row in trained().encode(["", "c"], 8).rows] == [1, 2]


def test_a_long_text_is_cut_and_counted() -> None:
    found = trained()
    encoded = found.encode(["cat " * 50, "c"], 8)
    assert [len(row) for row in encoded.rows] == [8, 2]
    assert encoded.num_cut == 1
    assert encoded.rows[0][-1] == found.end
    assert len(found.encode(["cat " * 50]).rows[0]) > 40
    assert found.end not in found.encode(["cat"], marks=False).rows[0]


def test_the_same_texts_make_the_same_one_and_the_store_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = trained(store=store)
    assert trained(texts=[], store=store).digest == first.digest == trained().digest
    assert len(list(tmp_path.rglob("tokenizer.json"))) == 1


def test_too_few_texts_for_its_size_are_refused_with_a_size_that_serves() -> None:
    with pytest.raises(InputError, match="entries at most") as caught:
        trained(5000)
    remedy = str(caught.value.remedy)
    assert trained(int(remedy.split()[1])).size == int(remedy.split()[1])


def test_a_folder_without_one_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no tokenizer\.json"):
        load_tokenizer(tmp_path, "task.tokenizer.path")
    with pytest.raises(InputError, match="no such folder"):
        load_tokenizer(tmp_path / "none", "task.tokenizer.path")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is no tokenizer"):
        load_tokenizer(tmp_path, "task.tokenizer.path")


def test_one_of_a_model_says_the_same_as_the_library_of_its_model(minilm: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = load_tokenizer(minilm, "task.tokenizer.path")
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    assert (found.size, found.padding, found.unknown) == (30522, 0, theirs.unk_token_id)
    texts = ["a small domesticated animal", "", "Ünïcode, and 漢字", "word " * 60]
    expected = theirs(texts, truncation=True, max_length=24)["input_ids"]
    assert found.encode(texts, 24).rows == expected


def test_a_folder_of_vocabulary_files_is_converted(minilm: Path, tmp_path: Path) -> None:
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    texts = ["a small domesticated animal", "Ünïcode"]
    whole = load_tokenizer(minilm, "task.tokenizer.path").encode(texts, 24)
    assert load_tokenizer(tmp_path, "task.tokenizer.path").encode(texts, 24) == whole
