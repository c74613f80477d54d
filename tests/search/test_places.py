"""Places that cannot be made or written are refused, and nothing is left where they can."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdo_search.base.errors import InputError
from pdo_search.search.places import free_bytes, refuse_places, unusable


def test_a_place_that_can_be_made_is_left_as_it_is(tmp_path: Path) -> None:
    assert unusable(str(tmp_path / "a" / "b")) is None
    assert unusable(f"file://{tmp_path}/a") is None
    assert not list(tmp_path.iterdir())
    assert (free_bytes(str(tmp_path / "a" / "b")) or 0) > 0
    assert free_bytes("s3://bucket/x") is None


@pytest.mark.parametrize(
    "place",
    ["/proc/nope", "file/x", "file", "link", "a" * 300, "a\0b", "no-such://x", "/dev/null/x"],
)
def test_a_place_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    problem = unusable(place)
    assert problem
    with pytest.raises(InputError) as caught:
        refuse_places(place, "store", Path("e.yaml"))
    assert (caught.value.file, caught.value.path) == ("e.yaml", "output.root")
    with pytest.raises(InputError) as caught:
        refuse_places("root", place, Path("e.yaml"))
    assert caught.value.path == "output.store"
