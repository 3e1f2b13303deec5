"""Attention on the CPU, forward and backward: ours against `scaled_dot_product_attention` used in two plain ways.

    python bench/attention_cpu.py [--threads 2] [--repeats 12] [--out bench/results/attention_cpu.json]

Per layer, heads of 64, about 4096 tokens: 32 sequences of 128, and documents of 8 to 128 tokens. The least time of
all repeats counts; the ways take turns, so that a busy machine treats them alike.
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


def runs(qkv: Tensor, layout: Layout, needs: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """One call of SDPA for each run of equal lengths, on views."""
    parts = []
    for group, own in zip(
        layout.groups, torch.split(qkv, [g.sequences * g.length for g in layout.groups]), strict=True
    ):
        q, k, v = own.view(group.sequences, group.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


WAYS = {"grouped (ours)": grouped.attend, "sdpa by runs": runs, "sdpa padded": padded.attend, "naive": naive.attend}


def measure(heads: int, lengths: list[int], repeats: int) -> dict[str, float]:
    """Least milliseconds, forward and backward, of each way."""
    batch = Batch.from_sequences([[0] * n for n in lengths])
    qkv = torch.randn(batch.tokens, 3, heads, 64, requires_grad=True)
    above = torch.randn(batch.tokens, heads, 64)
    layouts = {name: Batch.from_sequences([[0] * n for n in lengths]).layout for name in WAYS}

    def once(attend: Callable[..., Tensor], layout: Layout) -> float:
        qkv.grad = None
        start = time.perf_counter()
        attend(qkv, layout, AttentionSpec(), None).backward(above)
        return (time.perf_counter() - start) * 1e3

    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, attend in WAYS.items():
            times[name].append(once(attend, layouts[name]))
    return {name: round(min(results), 2) for name, results in times.items()}


def documents(seed: int = 0) -> list[int]:
    """Lengths of about 4000 tokens of text in lines: log-normal, 8 to 128, longest first."""
    source = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < 4000:
        lengths.append(min(128, max(8, int(source.lognormvariate(3.4, 0.7)))))
    return sorted(lengths, reverse=True)


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path)
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
