"""Time attention on the CPU, forward and backward: ours against two plain uses of `scaled_dot_product_attention`.

    python bench/attention_cpu.py [--threads 2] [--repeats 12] [--out bench/results/attention_cpu.json]

Each measurement is one layer with heads of size 64 on about 4,096 tokens: 32 sequences of 128 tokens, or documents of 8
to 128 tokens. The reported time is the minimum over all repeats. The implementations alternate, so that other load on
the machine affects all of them equally.
Shapes: T tokens, N heads, D = 64, L length.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.machine import cpu_name, set_threads
from encodery.model.ops.attention import AttentionSpec, grouped, naive, padded
from encodery.model.shape import Batch, Layout


def sdpa_by_length(qkv: Tensor, layout: Layout, needs: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """Call SDPA once for each group of sequences of equal length, on views."""
    parts = []
    for group, part in zip(
        layout.groups, torch.split(qkv, [g.sequences * g.length for g in layout.groups]), strict=True
    ):
        q, k, v = part.view(group.sequences, group.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


IMPLEMENTATIONS = {
    "grouped (ours)": grouped.attend,
    "sdpa by runs": sdpa_by_length,
    "sdpa padded": padded.attend,
    "naive": naive.attend,
}


def measure(heads: int, lengths: list[int], repeats: int) -> dict[str, float]:
    """Return the minimum time in milliseconds, forward and backward, of each implementation."""
    batch = Batch.from_sequences([[0] * n for n in lengths])
    qkv = torch.randn(batch.tokens, 3, heads, 64, requires_grad=True)
    grad_output = torch.randn(batch.tokens, heads, 64)
    layouts = {name: Batch.from_sequences([[0] * n for n in lengths]).layout for name in IMPLEMENTATIONS}

    def once(attend: Callable[..., Tensor], layout: Layout) -> float:
        qkv.grad = None
        start = time.perf_counter()
        attend(qkv, layout, AttentionSpec(), None).backward(grad_output)
        return (time.perf_counter() - start) * 1e3

    times: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(repeats):
        for name, attend in IMPLEMENTATIONS.items():
            times[name].append(once(attend, layouts[name]))
    return {name: round(min(results), 2) for name, results in times.items()}


def documents(seed: int = 0) -> list[int]:
    """Return log-normal lengths from 8 to 128, longest first, that sum to about 4,000 tokens, as lines of text have."""
    rng = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < 4000:
        lengths.append(min(128, max(8, int(rng.lognormvariate(3.4, 0.7)))))
    return sorted(lengths, reverse=True)


def main() -> None:
    """Measure, print, and write JSON if `--out` is set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="The number of CPU threads.")
    parser.add_argument("--repeats", type=int, default=12, help="The number of timed calls per implementation.")
    parser.add_argument("--out", type=Path, help="The JSON file to write [default: none is written].")
    inputs = parser.parse_args()
    set_threads(inputs.threads)
    rows = []
    for heads in (2, 4, 8):
        for kind, lengths in (("equal", [128] * 32), ("documents", documents())):
            results = measure(heads, lengths, inputs.repeats)
            rows.append({"heads": heads, "lengths": kind, "milliseconds": results})
            print(f"{heads} heads, {kind:9}", "   ".join(f"{name} {ms:6.1f}" for name, ms in results.items()))
    if inputs.out:
        report = {"cpu": cpu_name(), "threads": inputs.threads, "torch": torch.__version__, "rows": rows}
        inputs.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
