"""What stored outputs of a language model cost: bytes of a million and of a hundred million tokens,
as the bank encodes them, and how fast it does.

``python experiments/benchmarks/vocabulary.py``: half a minute. Logits are drawn; sizes do not hang
on them.
"""

from __future__ import annotations

import argparse
import time

import torch

from pdo_search.store.encoding import Keep, Sampled, StoredHead, Top, Whole
from pdo_search.store.plan import Plan

KEEPS: dict[str, Keep] = {
    "whole": Whole(), "top 128": Top(128), "top 32": Top(32), "sampled 12": Sampled(12),
}  # fmt: skip
WINDOW = 1_024
MILLION = 1_000_000


def bytes_per_position(plan: Plan, logits: torch.Tensor) -> tuple[float, float]:
    """Bytes and seconds of each position that is encoded."""
    mask = torch.ones(logits.shape[:2], dtype=torch.bool)
    started = time.process_time()
    arrays = plan.encoded(
        lambda rows: [(rows, {"token": logits[rows], "mask": mask[rows]})],
        slice(0, plan.num_examples),
    )
    seconds = time.process_time() - started
    # Beside the files one number per window says where it begins.
    size = sum(array.nbytes for array in arrays.values()) + 8 * plan.num_examples
    assert abs(size + 8 - plan.nbytes) <= 8
    return size / mask.sum().item(), seconds / mask.sum().item()


def main() -> None:
    """Print a line for each vocabulary and encoding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[1_024, 32_000, 50_257])
    parser.add_argument("--windows", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'vocabulary':>10}  {'stored':<11}{'B/token':>9}{'1M tokens':>12}{'100M tokens':>13}"
          f"{'tokens/s of one CPU':>21}")  # fmt: skip
    for size in given.vocabularies:
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(given.windows, WINDOW, size, generator=generator)
        for name, keep in KEEPS.items():
            lengths = {"mask": torch.full((given.windows,), WINDOW)}
            plan = Plan({"token": StoredHead(size, "mask", keep)}, given.windows, lengths)
            each, seconds = bytes_per_position(plan, logits)
            print(f"{size:>10,}  {name:<11}{each:>9,.0f}{_short(each * MILLION):>12}"
                  f"{_short(100 * each * MILLION):>13}{1 / seconds:>21,.0f}")  # fmt: skip


def _short(size: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


if __name__ == "__main__":
    main()
