"""Documents from files and functions, their splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from pdo_search.base.errors import InputError
from pdo_search.config.language import LanguageTaskConfig
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Split
from pdo_search.tasks.inputs import TextInputs
from pdo_search.tasks.language.task import LanguageModel

from .texts import ROOT, TASK, sections

pytest.importorskip("tokenizers")

DOCUMENTS = sections()


def built(folder: Path, **task: Any) -> LanguageModel:
    found = build_task(LanguageTaskConfig.model_validate(TASK | task), folder)
    assert isinstance(found, LanguageModel)
    return found


def refused(folder: Path, **task: Any) -> str:
    with pytest.raises(InputError) as caught:
        built(folder, **task)
    return str(caught.value)


def texts_of(task: LanguageModel, split: Split) -> str:
    """The text of a split's windows, one after the other."""
    examples = task.test_examples() if split is Split.TEST else task.examples(split)
    batch = examples.batch()
    return task.tokenizer.decode(batch["target.token"][batch["tokens.mask"]].tolist())


def written(folder: Path, documents: list[tuple[str, str]] = DOCUMENTS) -> Path:
    (folder / "texts").mkdir()
    for name, text in documents:
        (folder / "texts" / f"{name}.txt").write_text(text, "utf-8")
    return folder


def test_text_files_are_documents_that_stay_whole(tmp_path: Path) -> None:
    task = built(written(tmp_path), data={"files": "texts/*.txt"})
    whole = {split: texts_of(task, split) for split in Split}
    for _, text in DOCUMENTS:
        assert sum(text in part for part in whole.values()) == 1
    assert sum(map(len, whole.values())) == sum(len(text) for _, text in DOCUMENTS)
    found = task.inputs()
    assert isinstance(found, TextInputs)
    assert found.max_length == 32


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "function", "columns"])
def test_all_sources_of_the_same_documents_make_the_same_task(form: str, tmp_path: Path) -> None:
    names, texts = zip(*DOCUMENTS, strict=True)
    table = pa.table({"document": names, "body": texts})
    data: dict[str, Any] = {"path": f"all.{form}", "columns": {"text": "body"}}
    if form == "jsonl":
        lines = [json.dumps(row) for row in table.to_pylist()]
        (tmp_path / "all.jsonl").write_text("\n".join(lines))
    elif form == "csv":
        pa.csv.write_csv(table, tmp_path / "all.csv")
    elif form == "parquet":
        pa.parquet.write_table(table, tmp_path / "all.parquet")
    else:
        body = {
            "function": "return " + repr(DOCUMENTS),
            "columns": "return " + repr({"body": list(texts), "document": list(names)}),
        }
        (tmp_path / "my_texts.py").write_text(f"def all():\n    {body[form]}\n")
        data = {"source": "my_texts:all"}
        if form == "columns":
            data["columns"] = {"text": "body"}
    expected = build_task(LanguageTaskConfig.model_validate(TASK), ROOT)
    assert built(tmp_path, data=data).fingerprint == expected.fingerprint


def test_every_row_without_a_name_is_a_document(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for _, text in DOCUMENTS]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    task = built(tmp_path, data={"path": "all.jsonl"})
    assert all(len(task.examples(split)) for split in (Split.TRAIN, Split.TRANSFER))


def test_texts_of_one_author_stay_together(tmp_path: Path) -> None:
    rows = [{"text": text, "author": f"author {k % 5}"} for k, (_, text) in enumerate(DOCUMENTS)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = built(tmp_path, data={"path": "all.jsonl"}, splits={**TASK["splits"], "group": "author"})
    whole = {split: texts_of(task, split) for split in Split}
    for author in range(5):
        own = [row["text"] for row in rows if row["author"] == f"author {author}"]
        assert len({s for s, part in whole.items() for text in own if text in part}) == 1
    assert "no column 'author'" in refused(
        written(tmp_path), data={"files": "texts/*.txt"}, splits={"group": "author"}
    )


def test_one_long_text_is_cut_into_passages(tmp_path: Path) -> None:
    long = "".join(f"Line {k} of one long text.\n" for k in range(8000))
    (tmp_path / "long.txt").write_text(long)
    said = refused(tmp_path, data={"files": "long.txt"})
    assert "there are 1 documents, or groups of them, for 4 splits" in said
    assert "write splits: {group: null}" in said
    task = built(tmp_path, data={"files": "long.txt"}, splits={**TASK["splits"], "group": None})
    whole = {split: texts_of(task, split) for split in Split}
    lines = [line for part in whole.values() for line in part.splitlines()]
    assert sorted(lines) == sorted(long.splitlines())
    assert len(whole[Split.TRAIN]) / len(long) == pytest.approx(0.5, abs=0.1)


def test_the_tokenizer_knows_the_train_split_alone(tmp_path: Path) -> None:
    """Words of the others are no entries, however often they occur there."""
    found = built(ROOT)
    held = texts_of(found, Split.TEST)
    changed = [(n, text + " zyzzyva" * 400 if text in held else text) for n, text in DOCUMENTS]
    task = built(written(tmp_path, changed), data={"files": "texts/*.txt"})
    in_train = "zyzzyva" in texts_of(task, Split.TRAIN)
    (row,) = task.tokenizer.encode([" zyzzyva"], marks=False).rows
    assert in_train == (len(row) < 4)


def test_a_document_shorter_than_a_window_is_an_example(tmp_path: Path) -> None:
    short = [(f"short {k}", f"A short one, {k}.") for k in range(40)]
    task = built(written(tmp_path, [*DOCUMENTS, *short]), data={"files": "texts/*.txt"})
    lengths = task.examples(Split.TRAIN).lengths()
    assert lengths is not None
    assert int(lengths.min()) < 16
    assert int(lengths.max()) == 32


def test_own_splits_of_the_source_are_used(tmp_path: Path) -> None:
    for split, rows in (("train", DOCUMENTS[:-4]), ("test", DOCUMENTS[-4:])):
        lines = [json.dumps({"text": text, "document": name}) for name, text in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    data = {"path": {"train": "train.jsonl", "test": "test.jsonl"}}
    task = built(tmp_path, data=data)
    assert texts_of(task, Split.TEST) == "".join(text for _, text in DOCUMENTS[-4:])


def test_other_texts_may_be_the_transfer_split(tmp_path: Path) -> None:
    other = sections("CONTRIBUTING.md", "\n## ")
    folder = written(tmp_path, other)
    task = built(
        folder,
        data={"source": "tests.language.texts:sections"},
        transfer_data={"files": "texts/*.txt", "labelled": False},
    )
    transfer = task.examples(Split.TRANSFER)
    assert not transfer.labelled.any()
    assert all(text in texts_of(task, Split.TRANSFER) for _, text in other)
    # It has seen none of that text's words.
    assert "pre-commit" not in texts_of(task, Split.TRAIN)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("texts/odd.txt", b"", ["has no text in 1 rows", "row 1 of", "odd.txt", "on_error: skip"]),
        ("texts/odd.txt", b"   \n", ["has no text in 1 rows", "odd.txt"]),
        ("texts/odd.txt", "café".encode("latin-1"), ["odd.txt cannot be read", "save it as UTF-8"]),
        ("texts/odd.md", b"text", ["files of several formats"]),
    ],
)
def test_a_file_that_is_no_text_is_named(
    file: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    (written(tmp_path) / file).write_bytes(content)
    said = refused(tmp_path, data={"files": "texts/*"})
    assert all(word in said for word in words), said


def test_rows_without_text_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [{"text": text} for _, text in DOCUMENTS] + [{"text": ""}, {"text": None}]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = refused(tmp_path, data={"path": "all.jsonl"})
    assert f"row {len(rows):,} of" in said
    task = built(tmp_path, data={"path": "all.jsonl", "on_error": "skip"})
    assert [one.count for one in task.left_out] == [1, 1]


def test_numbers_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    assert "holds int64, no texts" in refused(tmp_path, data={"path": "all.jsonl"})


def test_windows_of_copied_documents_are_in_one_split(tmp_path: Path) -> None:
    rows = [*DOCUMENTS, *((f"copy of {name}", text) for name, text in DOCUMENTS[::2])]
    lines = [json.dumps({"text": text, "document": name}) for name, text in rows]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    task = built(tmp_path, data={"path": "all.jsonl"})
    assert sum(one.count for one in task.dropped) > 0
    windows = {split: set(texts_of(task, split).split("\n\n")) for split in Split}
    long = {split: {part for part in found if len(part) > 300} for split, found in windows.items()}
    assert not long[Split.TEST] & long[Split.TRAIN]


def test_a_tokenizer_comes_back_with_every_byte_of_a_text() -> None:
    task = built(ROOT)
    text = "Größe 漢字 🎭\r\n\ttabs, and\x00 nothing"
    (row,) = task.tokenizer.encode([text], marks=False).rows
    assert task.tokenizer.decode(row) == text
    assert torch.tensor(row).max() < task.heads[0].size == 320
