"""Texts from every kind of source become the same task; bad ones are refused with their place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from pdo_search.base.errors import InputError
from pdo_search.config import parse_experiment
from pdo_search.config.texts import TextTaskConfig
from pdo_search.store import Store
from pdo_search.tasks import build_task
from pdo_search.tasks.base import LABELLED, Split, target_of
from pdo_search.tasks.texts.task import TextClassification

from .conftest import ROOT, made
from .made import rows

pytest.importorskip("tokenizers")
COUNT = 200


def task_of(folder: Path = ROOT, store: Store | None = None, **task: Any) -> TextClassification:
    section = {**made()["task"], **task}
    tree = made(task=section)
    config = parse_experiment(tree, file=folder / "t.yaml", base_dir=folder).experiment.task
    assert isinstance(config, TextTaskConfig)
    found = build_task(config, folder, store)
    assert isinstance(found, TextClassification)
    return found


def _csv(file: Path) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "review", "kind"])
        writer.writerows([k, row["text"], row["label"]] for k, row in enumerate(rows(COUNT)))


def _json_lines(file: Path) -> None:
    lines = [json.dumps({"review": r["text"], "kind": r["label"]}) for r in rows(COUNT)]
    file.write_text("\n".join(lines))


def _parquet(file: Path) -> None:
    pd.DataFrame(rows(COUNT)).rename(columns={"text": "review", "label": "kind"}).to_parquet(file)


def _saved(folder: Path) -> None:
    """As Hugging Face's ``datasets`` saves a data set, its classes as numbers."""
    names = sorted({row["label"] for row in rows(COUNT)})
    columns = {
        "review": [row["text"] for row in rows(COUNT)],
        "kind": [names.index(row["label"]) for row in rows(COUNT)],
    }
    folder.mkdir()
    table = pa.table(columns)
    with (
        pa.OSFile(str(folder / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    features = {"kind": {"_type": "ClassLabel", "names": names}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.csv", _csv), ("a.jsonl", _json_lines), ("a.parquet", _parquet), ("saved", _saved)],
)
def test_files_of_every_format_make_the_same_task(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    found = task_of(tmp_path, data={"path": name, "text": "review", "label": "kind"})
    plain = task_of(data={"source": "tests.text.made:rows", "args": {"count": COUNT}})
    assert found.fingerprint == plain.fingerprint
    assert found.class_names == ("animal", "food", "place")


def test_a_data_set_of_torch_is_read_by_its_places() -> None:
    found = task_of(data={"source": "tests.text.made:Texts", "args": {"count": COUNT}})
    plain = task_of(data={"source": "tests.text.made:rows", "args": {"count": COUNT}})
    assert found.fingerprint == plain.fingerprint
    columns = {"text": 0, "label": 1}
    again = task_of(
        data={"source": "tests.text.made:Texts", "args": {"count": COUNT}, "columns": columns}
    )
    assert again.fingerprint == plain.fingerprint


def test_splits_keep_the_shares_of_classes_and_few_labels_those_of_train() -> None:
    found = task_of(splits={"labels": 50, "transfer": 0.0, "validation": 0.2, "test": 0.2})
    train, transfer = (found.examples(split) for split in (Split.TRAIN, Split.TRANSFER))
    assert len(train) == 50
    assert train.labelled.all()
    assert not transfer.labelled.any()
    assert len(train) + len(transfer) == found.epoch_examples
    shares = [
        torch.bincount(part.labels()[target_of("class")], minlength=3) / len(part)
        for part in (train, found.examples(Split.VALIDATION), found.test_examples())
    ]
    for own in shares[1:]:
        assert (own - shares[0]).abs().max() < 0.03


def test_splits_may_be_balanced_by_nothing_and_a_class_may_then_be_rare(tmp_path: Path) -> None:
    lines = [*rows(120), {"text": "the only one of its class", "label": "rare"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match="class 'rare' has no example"):
        task_of(tmp_path, data={"files": "a.jsonl"})
    found = task_of(tmp_path, data={"files": "a.jsonl"}, splits={"stratify": False})
    assert found.class_names == ("animal", "food", "place", "rare")


def test_the_last_texts_of_each_group_may_be_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows()).assign(author=[k % 30 for k in range(300)], when=range(300))
    frame.to_parquet(tmp_path / "a.parquet")
    splits = {"group": "author", "leave_one_out": "when"}
    found = task_of(
        tmp_path, data={"path": "a.parquet"}, splits=splits,
        tokenizer={"train": 300, "max_length": 128},
    )  # fmt: skip
    raw = found.test_examples().raw_inputs()
    ids = zip(raw["tokens"], raw["tokens.mask"], strict=True)
    texts = {found.tokenizer.decode(row[mask].tolist()) for row, mask in ids}
    assert texts == {row["text"] for row in rows()[270:]}


def test_rows_without_a_label_join_transfer() -> None:
    data = {"source": "tests.text.made:rows", "args": {"labelled": 0.7}}
    found = task_of(data=data)
    transfer = found.examples(Split.TRANSFER)
    unlabelled = sum(row["label"] is None for row in rows(labelled=0.7))
    assert int((~transfer.labelled).sum()) == unlabelled
    assert found.examples(Split.TRAIN).labels()[LABELLED].all()


def test_other_texts_as_transfer_keep_their_labels_where_the_classes_are_ours(
    tmp_path: Path,
) -> None:
    lines = [
        {"text": "a dog with fur and a very long tail", "label": "animal"},
        {"text": "prices of shares fell again", "label": "business"},
        {"text": rows()[0]["text"], "label": rows()[0]["label"]},
    ]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, lines)))
    other = {"path": str(tmp_path / "other.jsonl")}
    found = task_of(transfer_data=other, splits={"transfer": 0.0})
    transfer = found.examples(Split.TRANSFER)
    assert transfer.labelled.tolist() == [True, False]
    assert transfer.labels()[target_of("class")].tolist() == [0, -1]
    assert sum(d.count for d in found.dropped if d.split is Split.TRANSFER) == 1


def test_groups_stay_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows()).assign(author=[k % 30 for k in range(300)])
    frame.to_parquet(tmp_path / "a.parquet")
    found = task_of(
        tmp_path,
        data={"path": "a.parquet"},
        splits={"group": "author"},
        tokenizer={"train": 300, "max_length": 128},
    )
    texts = {row["text"]: k % 30 for k, row in enumerate(rows())}
    authors = [
        {texts[found.tokenizer.decode(row[mask].tolist())] for row, mask in zip(*own, strict=True)}
        for part in (found.examples(Split.TRAIN), found.test_examples())
        if (raw := part.raw_inputs()) and (own := (raw["tokens"], raw["tokens.mask"]))
    ]
    assert not authors[0] & authors[1]


def test_a_tokenizer_is_trained_on_the_train_split_alone(tmp_path: Path) -> None:
    """Texts of other splits may say what they want."""
    texts = [row["text"] for row in rows()]
    test = [f"zzzyx qqqwv {text}" for text in texts[:60]]
    for name, own in (("train", texts[60:]), ("test", test)):
        labels = [row["label"] for row in (rows()[60:] if name == "train" else rows()[:60])]
        pd.DataFrame({"text": own, "label": labels}).to_parquet(tmp_path / f"{name}.parquet")
    found = task_of(tmp_path, data={"path": "."}, tokenizer={"train": 330, "max_length": 64})
    entries = [found.tokenizer.decode([k]) for k in range(found.tokenizer.size)]
    assert not any("zz" in entry or "qq" in entry for entry in entries)
    assert any("cat" in entry for entry in entries)


def test_wordnet_gives_definitions_by_their_class(wordnet: Path, minilm: Path) -> None:
    data = {"source": "wordnet", "path": str(wordnet), "part": "verbs", "limit": 1000}
    found = task_of(data=data, tokenizer={"path": str(minilm), "max_length": 32})
    assert len(found.class_names) == 15
    assert found.class_names[0] == "verb.body"
    row = found.examples(Split.TRAIN).raw_inputs(slice(0, 1))
    text = found.tokenizer.decode(row["tokens"][0].tolist())
    assert text.replace(" ", "") in (wordnet / "data.verb").read_text().replace(" ", "").lower()
    kept = [rows_ for rows_ in found.left_out if "more than 32 tokens" in rows_.what]
    assert kept


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such column": (
        {"data": {"path": "a.csv", "text": "reviews", "label": "kind"}}, "no column 'reviews'",
        "review",
    ),
    "an empty text": (
        {"data": {"path": "gap.csv", "text": "review", "label": "kind"}},
        r"row 3 of .*gap\.csv", "on_error: skip",
    ),
    "numbers": (
        {"data": {"path": "a.jsonl", "text": "number", "label": "kind"}}, "no texts",
        "column of texts",
    ),
    "one class": (
        {"data": {"path": "a.jsonl", "text": "review", "label": "same"}}, "needs two classes",
        "label",
    ),
    "no such file": ({"data": {"path": "b.csv"}}, "is not there", "path"),
    "an unknown source": ({"data": {"source": "wordnett"}}, "unknown data source", "wordnet"),
    "no wordnet": (
        {"data": {"source": "wordnet", "path": "."}}, r"data\.noun is not there", "wordnet-base",
    ),
    "a broken wordnet": (
        {"data": {"source": "wordnet", "path": "broken"}}, r"line 2 of .*data\.noun", "WordNet 3",
    ),
    "too few labels": ({"splits": {"labels": 2}}, "too few", "3"),
    "no tokenizer": ({"tokenizer": {"path": "none"}}, "no such folder", "tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_its_place_and_a_remedy(case: str, tmp_path: Path) -> None:
    _csv(tmp_path / "a.csv")
    (tmp_path / "gap.csv").write_text("review,kind\na cat,x\na dog,y\n,x\n")
    lines = [json.dumps({"review": f"cat {k}", "kind": "xy"[k % 2], "number": k, "same": "z"})
             for k in range(40)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.noun").write_text("  1 licence\nno sense\n")
    task, problem, remedy = REFUSED[case]
    with pytest.raises(InputError, match=problem) as caught:
        task_of(tmp_path, **({"data": {"path": "a.csv", "text": "review", "label": "kind"}} | task))
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"tokenizer": {"train": 400, "path": "x"}}, "{path: FOLDER}, or {train: SIZE}"),
        ({"tokenizer": {}}, "{path: FOLDER}, or {train: SIZE}"),
        ({"data": {"text": "a", "columns": {"text": "b"}}}, "give it once"),
        ({"data": {"part": "nouns"}}, "source wordnet"),
        ({"data": {"labelled": False}}, "transfer_data"),
        ({"splits": {"transfer": 0.0}}, "give one of them"),
        ({"datas": {}}, "did you mean 'data'"),
    ],
)
def test_a_section_that_says_two_things_is_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        task_of(**task)
    assert said in str(caught.value)
