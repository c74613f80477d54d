"""WordNet's files as rows: definitions of words, and the class of things that each belongs to.

The files are those of Princeton's WordNet 3, as Debian's package ``wordnet-base`` has them: one
line per sense, its class as a number, its definition behind a bar (manual pages ``wndb`` and
``lexnames``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pdo_search.base.errors import InputError
from pdo_search.config.texts import TextDataConfig
from pdo_search.tasks.base import Split
from pdo_search.tasks.records import Origin, Table

__all__ = ["WORDNET", "wordnet"]

WORDNET = "wordnet"
USUAL = Path("/usr/share/wordnet")
NAMES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event",
    "noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object",
    "noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process",
    "noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time",
    "verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition",
    "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion",
    "verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl",
)  # fmt: skip
"""By number."""
FILES = {
    "nouns": ("data.noun",),
    "verbs": ("data.verb",),
    "all": ("data.noun", "data.verb", "data.adj", "data.adv"),
}
TEXT, LABEL = "text", "label"


def wordnet(config: TextDataConfig, folder: Path, path: str) -> dict[Split, Table]:
    """Definitions, without the examples that follow them, and their classes: columns ``text`` and
    ``label``.

    Args:
        config: which part; its ``path`` is the folder of the files.
        folder: what a relative path refers to.
        path: where the source stands in the experiment, for messages.

    Raises:
        InputError: the files are not there, or are none of WordNet's.
    """
    place = USUAL if config.path is None else folder / str(config.path)
    texts: list[str] = []
    labels: list[str] = []
    parts = []
    for name in FILES[config.part or "nouns"]:
        before = len(texts)
        for text, label in _senses(place / name, path):
            texts.append(text)
            labels.append(label)
        parts.append((str(place / name), len(texts) - before))
    columns: dict[str, Any] = {TEXT: texts, LABEL: labels}
    return {Split.TRAIN: Table(pa.table(columns), (TEXT, LABEL), Origin(tuple(parts)), {})}


def _senses(file: Path, path: str) -> list[tuple[str, str]]:
    """The definitions of a file and their classes.

    Raises:
        InputError: it is not there, or a line is none of WordNet's.
    """
    try:
        lines = file.read_text(encoding="latin-1").splitlines()
    except OSError:
        raise InputError(
            f"WordNet's file {file} is not there",
            path=f"{path}.path",
            remedy="install Debian's package wordnet-base, or name the folder of its files, such as"
            " path: data/wordnet",
        ) from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("  ") or not line:  # The licence.
            continue
        head, bar, gloss = line.partition("|")
        fields = head.split()
        if not bar or len(fields) < 2 or not fields[1].isdigit() or int(fields[1]) >= len(NAMES):
            raise InputError(
                f"line {number:,} of {file} is none of WordNet's",
                path=f"{path}.path",
                value=line[:60],
                remedy="name a folder with the files data.noun, data.verb, … of WordNet 3",
            )
        definition = gloss.partition('"')[0].strip().rstrip(";").strip()
        if definition:
            found.append((definition, NAMES[int(fields[1])]))
    return found
