"""Cross entropy over a vocabulary of 16,384, forward and backward: chunked (ours) against whole logits.

    python bench/masked_cross_entropy_cpu.py [--threads 2] [--repeats 10] [--out FILE.json]

600 masked rows; widths of the tiny, mini and small model. The least time of all repeats counts; the ways take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.machine import cpu_name, set_threads
from encodery.model.ops.masked_cross_entropy import chunked

VOCAB, ROWS = 16_384, 600


def whole(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The plain way: all logits, then the library's cross entropy."""
    return F.cross_entropy(F.linear(features, weight, bias), targets, reduction="sum")


def ways() -> dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]:
    """Whole logits, and chunks of several sizes in rows."""
    found: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {"whole": whole}
    for limit in (64, 128, 256, 600):

        def cut(f: Tensor, w: Tensor, b: Tensor, t: Tensor, limit: int = limit) -> Tensor:
            chunked.LOGITS_CPU = limit * VOCAB
            return chunked.masked_cross_entropy(f, w, b, t).total

        found[f"at most {limit} rows"] = cut
    return found


def measure(width: int, repeats: int) -> dict[str, float]:
    """Least milliseconds, forward and backward, of each way."""
    features = torch.randn(ROWS, width, requires_grad=True)
    weight = (torch.randn(VOCAB, width) * 0.05).requires_grad_()
    bias = torch.zeros(VOCAB, requires_grad=True)
    targets = torch.randint(0, VOCAB, (ROWS,))
    times: dict[str, list[float]] = {name: [] for name in ways()}
    for _ in range(repeats):
        for name, loss in ways().items():
            features.grad = weight.grad = bias.grad = None
            start = time.perf_counter()
            loss(features, weight, bias, targets).backward()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(min(found), 1) for name, found in times.items()}


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    set_threads(given.threads)
    rows = []
    for width in (128, 256, 512):
        found = measure(width, given.repeats)
        rows.append({"width": width, "milliseconds": found})
        print(f"width {width}", "   ".join(f"{name} {ms:6.1f}" for name, ms in found.items()))
    if given.out:
        report = {"cpu": cpu_name(), "threads": given.threads, "torch": torch.__version__, "rows": rows}
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
