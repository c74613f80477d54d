"""The suite of ``base.storage.Storage``: what disks and object stores have in common."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from pdo_search.base.storage import Storage

__all__ = ["StorageContract", "started_together"]

LARGE = 20 << 20
"""Bytes of a file that is copied in several blocks."""
WRITER = """
import sys
from pdo_search.base.storage import Storage
root, mark = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(30):
    Storage(root).write("shared", mark.encode() * (100_000 + 50_000 * (turn % 3)))
"""
"""A process that replaces a file again and again, by versions of one letter each."""


class StorageContract:
    """Tests of a storage; the fixture ``place`` gives one in which nothing was written."""

    def test_what_was_never_written_is_not_there(self, place: Storage) -> None:
        """Reading, listing and deleting need no folder to be there."""
        import pytest

        assert place.read_if_there("a/b") is None
        assert place.info("a/b") is None
        assert place.files("a") == []
        assert place.objects() == {}
        place.delete("a/b")
        with pytest.raises(FileNotFoundError):
            place.read("a/b")

    def test_a_file_is_what_was_written_last(self, place: Storage) -> None:
        """Also where that is shorter than before, or nothing; whoever opens the place sees it."""
        for data in (b"longest", b"one", b"three", b""):
            place.write("a/b", data)
            assert Storage(place.root).read("a/b") == data
            info = place.info("a/b")
            assert info is not None
            assert info.bytes == len(data)
            assert abs(info.changed_at - time.time()) < 60

    def test_names_may_have_blanks_and_letters_of_any_language(self, place: Storage) -> None:
        """They are listed as they were given."""
        place.write("a folder/größe 漢字", b"kept")
        assert place.files("a folder") == ["größe 漢字"]
        assert place.read("a folder/größe 漢字") == b"kept"

    def test_files_are_listed_in_order_and_hidden_ones_are_not(self, place: Storage) -> None:
        """``objects`` names all, wherever below."""
        for name in ("a/c.parquet", "a/b", "a/.hidden", "a/_hidden", "z"):
            place.write(name, b"")
        assert place.files("a") == ["b", "c.parquet"]
        assert place.files("a", ".parquet") == ["c.parquet"]
        below = ["a/.hidden", "a/_hidden", "a/b", "a/c.parquet"]
        assert list(place.objects("a")) == below
        assert list(place.objects()) == [*below, "z"]

    def test_a_deleted_file_is_gone_and_may_be_deleted_again(self, place: Storage) -> None:
        """Its neighbours stay."""
        place.write("a/b", b"one")
        place.write("a/c", b"two")
        place.delete("a/b")
        place.delete("a/b")
        assert list(place.objects()) == ["a/c"]

    def test_a_file_is_moved_and_set_aside(self, place: Storage) -> None:
        """What is set aside is no part of a table, and takes nobody's place."""
        place.write("a/b", b"one")
        place.move("a/b", "d/e")
        assert list(place.objects()) == ["d/e"]
        assert place.set_aside("d/e") == ".damaged-d-e"
        place.write("d/e", b"two")
        second = place.set_aside("d/e")
        assert place.read(".damaged-d-e") == b"one"
        assert place.read(second) == b"two"
        assert place.files("d") == []
        assert not {".damaged-d-e", second} & set(place.files())

    def test_no_more_is_read_than_the_limit(self, place: Storage) -> None:
        """A file of just the limit is read."""
        import pytest

        place.write("a", b"three")
        assert place.read("a", limit=5) == b"three"
        with pytest.raises(OSError, match="larger than 4 bytes"):
            place.read("a", limit=4)

    def test_a_large_file_comes_back_whole(self, place: Storage) -> None:
        """Its checksum is that of its bytes."""
        data = os.urandom(LARGE)
        place.write("large", data)
        assert place.read("large") == data
        assert place.sha256_of("large") == hashlib.sha256(data).hexdigest()

    def test_a_folder_is_published_and_fetched(self, place: Storage, tmp_path: Path) -> None:
        """Twice, as a trial that is tried again does."""
        source = tmp_path / "source"
        (source / "inner").mkdir(parents=True)
        (source / "inner" / "small").write_bytes(b"small")
        (source / "large").write_bytes(os.urandom(LARGE))
        place.publish(source, "models/t0000")
        place.publish(source, "models/t0000")
        names = ["models/t0000/inner/small", "models/t0000/large"]
        assert list(place.objects("models")) == names
        assert place.objects("models")[names[1]].bytes == LARGE
        place.fetch("models/t0000", ("large", "inner/small"), tmp_path / "copy")
        for name in ("large", "inner/small"):
            assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()

    def test_files_are_put_one_by_one(self, place: Storage, tmp_path: Path) -> None:
        """As the store does, whose manifest comes last."""
        for name, data in (("small", b"small"), ("large", os.urandom(LARGE))):
            (tmp_path / name).write_bytes(data)
        place.put(tmp_path, "bank/a", ("large", "small"))
        assert list(place.objects()) == ["bank/a/large", "bank/a/small"]
        for name in ("large", "small"):
            assert place.read(f"bank/a/{name}") == (tmp_path / name).read_bytes()

    def test_two_processes_replace_a_file_and_no_reader_sees_a_part(self, place: Storage) -> None:
        """Every version that is read was written whole by one of them; nothing is left beside."""
        place.write("shared", b"0")
        command = [sys.executable, "-c", WRITER, place.root]
        writers = started_together([*command, mark] for mark in "AB")
        seen = set()
        while any(writer.poll() is None for writer in writers):
            found = place.read("shared")
            seen.add((found[:1], len(found)))
            assert found == found[:1] * len(found)
        assert [writer.returncode for writer in writers] == [0, 0]
        whole = {(mark, 100_000 + 50_000 * k) for mark in (b"A", b"B") for k in range(3)}
        assert seen <= whole | {(b"0", 1)}
        assert list(place.objects()) == ["shared"]
        for writer in writers:
            writer.communicate()


def started_together(commands: Iterable[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Processes that say ``ready`` and wait for a line of their input; all are let go at once."""
    found = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in found:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in found:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return found
