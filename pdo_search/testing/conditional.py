"""The suite of ``base.conditional.Conditional``: what leases rely on."""

from __future__ import annotations

import sys

from pdo_search.base.conditional import Conditional, conditional_on
from pdo_search.base.storage import Storage
from pdo_search.testing.storage import started_together

__all__ = ["ConditionalContract"]

TURNS = 25
COUNTER = """
import sys
from pdo_search.base.conditional import conditional_on
from pdo_search.base.storage import Storage
place = conditional_on(Storage(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < int(sys.argv[2]):
    found = place.read("count")
    one_more = str(int(found.data) + 1 if found else 1).encode()
    done += place.write("count", one_more, instead_of=found) is not None
"""
"""A process that counts on from what it finds, with others."""


class ConditionalContract:
    """Tests of conditional writes; the fixture ``place`` gives a storage without objects."""

    def test_what_is_there_is_not_written_anew(self, place: Storage) -> None:
        """Only one of those who found nothing writes."""
        one, other = _on(place), _on(place)
        assert one.read("a/b") is None
        written = one.write("a/b", b"one", instead_of=None)
        assert written is not None
        assert other.write("a/b", b"other", instead_of=None) is None
        assert one.read("a/b") == other.read("a/b") == written
        assert place.read("a/b") == b"one"

    def test_what_was_replaced_is_not_replaced_again(self, place: Storage) -> None:
        """Also by one who has just written it."""
        one, other = _on(place), _on(place)
        first = one.write("a", b"one", instead_of=None)
        second = other.write("a", b"other", instead_of=first)
        assert second is not None
        assert one.write("a", b"late", instead_of=first) is None
        assert place.read("a") == b"other"
        assert one.write("a", b"last", instead_of=second) is not None
        assert place.read("a") == b"last"

    def test_what_is_gone_is_not_replaced(self, place: Storage) -> None:
        """It can be written anew."""
        one = _on(place)
        written = one.write("a", b"one", instead_of=None)
        place.delete("a")
        assert one.write("a", b"two", instead_of=written) is None
        assert place.read_if_there("a") is None
        assert one.write("a", b"three", instead_of=None) is not None

    def test_only_the_version_that_was_meant_is_deleted(self, place: Storage) -> None:
        """Deleting what is not there any more is nothing."""
        one = _on(place)
        first = one.write("a", b"one", instead_of=None)
        second = one.write("a", b"two", instead_of=first)
        assert first is not None
        assert second is not None
        one.delete("a", first)
        assert place.read("a") == b"two"
        one.delete("a", second)
        one.delete("a", second)
        assert list(place.objects()) == []

    def test_the_condition_is_kept(self, place: Storage) -> None:
        """Trying it changes nothing."""
        one = _on(place)
        written = one.write("a", b"one", instead_of=None)
        assert written is not None
        assert one.is_kept("a", written)
        assert one.read("a") == written

    def test_of_processes_that_count_together_none_is_lost(self, place: Storage) -> None:
        """The object is made by one of them, too."""
        command = [sys.executable, "-c", COUNTER, place.root, str(TURNS)]
        counting = started_together([command] * 2)
        assert [process.wait(timeout=60) for process in counting] == [0, 0]
        assert place.read("count") == str(2 * TURNS).encode()
        for process in counting:
            process.communicate()


def _on(place: Storage) -> Conditional:
    found = conditional_on(place)
    assert found is not None
    return found
