"""Heads with positions, and every way in which a bank keeps a head, against loops over examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pdo_search.base.columns import Taught
from pdo_search.base.errors import PdoError
from pdo_search.base.sparse import sampled_kl
from pdo_search.store import Store
from pdo_search.store import plan as module
from pdo_search.store.bank import Bank, Compute, bank, in_process
from pdo_search.store.encoding import (
    Arrays,
    Foreground,
    Sampled,
    StoredHead,
    Top,
    Whole,
)
from pdo_search.store.plan import Outputs, Plan

EXAMPLES, LONGEST = 60, 9
TOKENS, PLACES = "tokens.mask", "places.mask"
HEADS = {
    "label": StoredHead(4),
    "char": StoredHead(5, TOKENS),
    "span": StoredHead(2, PLACES),
    "word": StoredHead(1500, TOKENS, Top(8)),
    "item": StoredHead(70_000, None, Sampled(6)),
    "next": StoredHead(1500, TOKENS, Sampled(6)),
}
WHOLE = ("label", "char", "span")


def world(seed: int = 0) -> dict[str, Tensor]:
    """Outputs of all heads on all examples, and masks, which begin and end anywhere; masked outputs
    are not even numbers."""
    generator = torch.Generator().manual_seed(seed)
    said: dict[str, Tensor] = {}
    for mask in (TOKENS, PLACES):
        said[mask] = torch.rand(EXAMPLES, LONGEST, generator=generator) < 0.6
        said[mask][7] = False
    for name, head in HEADS.items():
        shape = (EXAMPLES,) if head.positions is None else (EXAMPLES, LONGEST)
        said[name] = torch.randn(*shape, head.size, generator=generator) * 3
        if head.positions is not None:
            said[name][~said[head.positions]] = math.nan
    return said


SAID = world()
PLAN = Plan(HEADS, EXAMPLES, {m: SAID[m].sum(1) for m in (TOKENS, PLACES)})


def in_batches(size: int, said: Mapping[str, Tensor] = SAID) -> Outputs:
    def outputs(rows: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part in torch.split(rows, size):
            yield part, {name: values[part] for name, values in said.items()}

    return outputs


def opened(
    root: Path, compute: Compute, plan: Plan = PLAN, view: int = 0, teacher: str = "t"
) -> Bank:
    return bank(
        Store(root),
        plan,
        teacher_key=teacher,
        task_fingerprint="f",
        split_name="train",
        view=view,
        compute=compute,
    )


def counted(computed: list[int], die_after: int | None = None, reverse: bool = False) -> Compute:
    """Notes which chunks it computes, and breaks after so many."""

    def compute(plan: Plan, chunks: Sequence[slice]) -> Iterator[tuple[slice, Arrays]]:
        for number, chunk in enumerate(reversed(chunks) if reverse else chunks):
            if number == die_after:
                raise KeyboardInterrupt
            computed.append(chunk.start)
            yield chunk, plan.encoded(in_batches(7), chunk)

    return compute


def own(name: str, example: int) -> Tensor:
    """Outputs (S, K) of an example at its unmasked positions; (1, K) of a head without."""
    positions = HEADS[name].positions
    values = SAID[name][example]
    return values[None] if positions is None else values[SAID[positions][example]]


def parts(taught: Taught, name: str, place: int, length: int) -> list[Tensor]:
    """What a batch has of its example at a place, as (S, …): values, index, rest."""
    found = [p for p in (taught.values, taught.index, taught.rest) if p is not None]
    ragged = HEADS[name].positions is not None
    return [p[place, :length] if ragged else p[place][None] for p in found]


def files(root: Path) -> dict[str, bytes]:
    found = [f for f in root.rglob("*") if f.suffix in (".npy", ".jsonl")]
    return {f.name: f.read_bytes() for f in found}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First examples of chunks of at most 50 positions."""
    monkeypatch.setattr(module, "CHUNK_POSITIONS", 50)
    return [chunk.start for chunk in PLAN.chunks()]


@pytest.mark.parametrize("index", [range(EXAMPLES), [59, 0, 17], [7], [8], [3, 3, 7]])
def test_what_is_taken_is_what_a_loop_finds(
    tmp_path: Path, small_chunks: list[int], index: Sequence[int]
) -> None:
    assert len(small_chunks) > 5
    found, rows = opened(tmp_path, in_process(in_batches(7))), torch.tensor(index)
    for name, head in HEADS.items():
        taught = found.take(name, rows)
        if head.positions is not None:
            longest = max(len(own(name, example)) for example in index)
            assert taught.values.shape[:2] == (len(index), longest)
        for place, example in enumerate(index):
            wanted = own(name, example)
            values, *others = parts(taught, name, place, len(wanted))
            if name in WHOLE:
                assert torch.equal(values, wanted.half().float())
            elif name == "word":
                top = wanted.topk(8, dim=1)
                assert torch.equal(values, top.values.half().float())
                assert torch.equal(others[0], top.indices)
                rest = wanted.scatter(1, top.indices, -math.inf).logsumexp(1) - math.log(1492)
                assert torch.allclose(others[1][:, 0], rest, atol=5e-3)
            else:
                logp = F.log_softmax(wanted, 1).gather(1, others[0])
                assert torch.allclose(values, logp, atol=2e-2)


def test_positions_are_put_where_the_mask_has_them(tmp_path: Path) -> None:
    rows = torch.tensor([4, 7, 20])
    taught = opened(tmp_path, in_process(in_batches(7))).take("char", rows)
    mask = SAID[TOKENS][rows]
    assert torch.equal(taught.placed(mask).values[mask], SAID["char"][rows][mask].half().float())


def test_chunks_have_about_as_many_positions(small_chunks: list[int]) -> None:
    longest = torch.stack(list(PLAN.lengths.values())).amax(0)
    chunks = PLAN.chunks()
    assert [c.start for c in chunks] == [0, *(c.stop for c in chunks[:-1])]
    assert chunks[-1].stop == EXAMPLES
    for chunk, after in pairwise(chunks):
        size = int(longest[chunk].sum())
        assert size <= 50 < size + int(longest[after.start])


def test_an_example_longer_than_a_chunk_is_one() -> None:
    lengths = torch.tensor([3, module.CHUNK_POSITIONS + 1, 3])
    chunks = Plan({"char": StoredHead(5, TOKENS)}, 3, {TOKENS: lengths}).chunks()
    assert chunks == [slice(0, 1), slice(1, 2), slice(2, 3)]
    dense = Plan({"label": StoredHead(4)}, 2500, {}).chunks()
    assert [c.stop for c in dense] == [1024, 2048, 2500]


def test_the_same_bits_whatever_batches_order_and_deaths(
    tmp_path: Path, small_chunks: list[int]
) -> None:
    opened(tmp_path / "whole", counted([]))
    opened(tmp_path / "backwards", counted([], reverse=True))
    opened(tmp_path / "batches", in_process(in_batches(EXAMPLES)))
    opened(tmp_path / "one by one", in_process(in_batches(1)))
    computed: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cut", counted(computed, die_after=3))
    opened(tmp_path / "cut", counted(computed))
    assert computed == small_chunks
    whole = files(tmp_path / "whole")
    assert len(whole) == 13
    assert files(tmp_path / "backwards") == whole
    assert files(tmp_path / "batches") == whole
    assert files(tmp_path / "one by one") == whole
    assert files(tmp_path / "cut") == whole


@pytest.mark.parametrize("damage", ["flipped", "offsets", "no offsets", "short file"])
def test_a_damaged_chunk_of_positions_is_computed_again(
    tmp_path: Path, small_chunks: list[int], damage: str
) -> None:
    opened(tmp_path / "whole", counted([]))
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cut", counted([], die_after=3))
    stored = next((tmp_path / "cut").rglob("char.npy"))
    offsets = stored.with_name(f"offsets.{TOKENS}.npy")
    content = bytearray(stored.read_bytes())
    if damage == "flipped":
        before = int(PLAN.lengths[TOKENS][: small_chunks[2]].sum())
        content[128 + before * 5 * 2] ^= 1
        stored.write_bytes(content)
    elif damage == "short file":
        stored.write_bytes(content[:200])
    elif damage == "offsets":
        offsets.write_bytes(b"x" * offsets.stat().st_size)
    else:
        offsets.unlink()
    computed: list[int] = []
    opened(tmp_path / "cut", counted(computed))
    again = {"flipped": small_chunks[2:3], "short file": small_chunks[:3]}.get(damage, [])
    assert computed == [*again, *small_chunks[3:]]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_other_lengths_are_another_bank(tmp_path: Path) -> None:
    opened(tmp_path, in_process(in_batches(7)))
    shorter = {**SAID, TOKENS: SAID[TOKENS].clone()}
    shorter[TOKENS][3] = False
    plan = replace(PLAN, lengths={**PLAN.lengths, TOKENS: shorter[TOKENS].sum(1)})
    found = opened(tmp_path, in_process(in_batches(7, shorter)), plan)
    assert found.take("char", torch.tensor([3])).values.shape == (1, 0, 5)


def test_a_mask_that_was_not_announced_is_refused(tmp_path: Path) -> None:
    plan = replace(PLAN, lengths={**PLAN.lengths, PLACES: PLAN.lengths[PLACES] + 1})
    with pytest.raises(PdoError, match=r"mask 'places\.mask' leaves other numbers"):
        opened(tmp_path, in_process(in_batches(7)), plan)


def test_outputs_at_unmasked_positions_must_be_finite(tmp_path: Path) -> None:
    said = {**SAID, "char": SAID["char"].clone()}
    said["char"][3, int(SAID[TOKENS][3].nonzero()[0])] = math.nan
    with pytest.raises(PdoError, match="not finite"):
        opened(tmp_path, in_process(in_batches(7, said)))


def test_bytes_are_known_before(tmp_path: Path) -> None:
    heads = {**HEADS, "char": StoredHead(5, TOKENS, Foreground(3, "char"))}
    plan = replace(PLAN, heads=heads)
    opened(tmp_path, in_process(in_batches(7)), plan)
    found = [f.stat().st_size - 128 for f in tmp_path.rglob("*.npy")]
    assert plan.nbytes == sum(found)


def test_sampled_classes_depend_on_teacher_view_and_position_alone(tmp_path: Path) -> None:
    rows = torch.arange(EXAMPLES)

    def drawn(view: int, teacher: str) -> Tensor:
        root = tmp_path / f"{view}{teacher}"
        index = (
            opened(root, in_process(in_batches(5)), view=view, teacher=teacher)
            .take("item", rows)
            .index
        )
        assert index is not None
        return index

    first = drawn(0, "t")
    (tmp_path / "0t").rename(tmp_path / "moved")
    assert torch.equal(first, drawn(0, "t"))
    for other in (drawn(1, "t"), drawn(0, "u")):
        assert (first != other).float().mean() > 0.3


def test_sampled_classes_are_unbiased(tmp_path: Path) -> None:
    """Each of 40,000 examples says the same: the mean over them is over 40,000 times 4 draws."""
    count, size = 40_000, 30
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(size, generator=generator) * s for s in (2.0, 1.0))

    def outputs(rows: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        yield rows, {"item": teacher.expand(len(rows), -1)}

    plan = Plan({"item": StoredHead(size, keep=Sampled(4))}, count, {})
    taught = opened(tmp_path, in_process(outputs), plan).take("item", torch.arange(count))
    logp, log_s = (F.log_softmax(x.double(), 0) for x in (teacher, student))
    assert taught.index is not None
    share = taught.index.flatten().bincount(minlength=size) / taught.index.numel()
    error = (logp.exp() * (1 - logp.exp()) / taught.index.numel()).sqrt()
    assert float(((share - logp.exp()).abs() / error).max()) < 4.5
    estimate = sampled_kl(student.expand(count, -1), taught)
    exact = float((logp.exp() * (logp - log_s)).sum())
    assert abs(float(estimate.double().mean()) - exact) < 0.005
    ratio = logp - log_s
    independent = float((logp.exp() * (ratio - exact) ** 2).sum()) / 4
    assert float(estimate.var()) < independent


@pytest.mark.parametrize("background", [None, 2])
def test_positions_of_the_foreground_are_kept_and_the_others_are_level(
    tmp_path: Path, background: int | None
) -> None:
    keep = Foreground(3, "char", background)
    heads = {
        "char": StoredHead(5, TOKENS, keep),
        "box": StoredHead(4, TOKENS, keep),
        "plain": StoredHead(5, TOKENS, Whole()),
    }
    generator = torch.Generator().manual_seed(3)
    box = torch.randn(EXAMPLES, LONGEST, 4, generator=generator)
    said = {"char": SAID["char"], "plain": SAID["char"], "box": box, TOKENS: SAID[TOKENS]}
    plan = Plan(heads, EXAMPLES, {TOKENS: PLAN.lengths[TOKENS]})
    found = opened(tmp_path, in_process(in_batches(7, said)), plan)
    rows = torch.randperm(EXAMPLES, generator=generator)[:20]
    for name, values in (("char", SAID["char"]), ("box", box)):
        taught = found.take(name, rows).values
        assert taught.shape[1] == found.take("plain", rows).values.shape[1]
        for place, example in enumerate(rows.tolist()):
            mask = SAID[TOKENS][example]
            scores, wanted = SAID["char"][example][mask].double(), values[example][mask].clone()
            foreground = scores.sigmoid().amax(1)
            if background is not None:
                foreground = 1 - scores.softmax(1)[:, background]
            others = foreground.argsort(descending=True)[3:]
            wanted[others] = wanted[others].mean(0, keepdim=True)
            assert torch.allclose(taught[place, : len(wanted)], wanted, atol=4e-3)
