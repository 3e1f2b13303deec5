"""Cross entropy over the vocabulary, forward and backward: chunked (ours) against whole logits and fused kernels.

    python bench/masked_cross_entropy.py [--device cpu] [--threads 2] [--repeats 10] [--out FILE.json]
    python bench/masked_cross_entropy.py --device cuda --vocab 50368 --rows 4915 --widths 256 384 512 768

On a CPU: fp32, whole logits by the library and chunks of several sizes. On a GPU: bfloat16 products and, beside
chunks, whole logits through `torch.compile` and, where they are installed, `liger-kernel` and `cut-cross-entropy`
(neither is a requirement of the package). 600 or 4,915 rows are what 15 % of a step hide. The least time of all repeats
counts; the ways take turns. `difference` is the largest of a gradient's from that of whole logits in fp32, as a share
of its largest. The GPU's part was not run on one yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.machine import describe, set_threads
from encodery.model.ops.masked_cross_entropy import chunked

Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def whole(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The plain way: all logits, then the library's cross entropy."""
    return F.cross_entropy(F.linear(features, weight, bias).float(), targets, reduction="sum")


def in_chunks(rows: int, vocab: int) -> Way:
    """Ours, with at most so many rows at once."""

    def cut(f: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        chunked.LOGITS_CPU = chunked.LOGITS_ELSEWHERE = rows * vocab
        return chunked.masked_cross_entropy(f, w, b, t).total

    return cut


def ways(device: str, rows: int, vocab: int) -> dict[str, Way]:
    """All ways of a device, by name."""
    results: dict[str, Way] = {"whole": whole}
    sizes = (64, 128, 256, rows) if device == "cpu" else (256, 1024, chunked.LOGITS_ELSEWHERE // vocab, rows)
    results |= {f"at most {size} rows": in_chunks(size, vocab) for size in dict.fromkeys(min(s, rows) for s in sizes)}
    if device == "cuda":
        results["whole, compiled"] = torch.compile(whole, dynamic=False)
        if importlib.util.find_spec("liger_kernel"):
            from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

            results["liger"] = lambda f, w, b, t: liger_fused_linear_cross_entropy(f, w, t, bias=b, reduction="sum")
        if importlib.util.find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy

            results["cut"] = lambda f, w, b, t: linear_cross_entropy(f, w, t, bias=b, reduction="sum")
    return results


def measure(width: int, inputs: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Least milliseconds, forward and backward, of each way; most memory above what is held on a GPU; and exactness."""
    cuda = inputs.device == "cuda"
    features = torch.randn(inputs.rows, width, device=inputs.device, requires_grad=True)
    weight = (torch.randn(inputs.vocab, width, device=inputs.device) * 0.05).requires_grad_()
    bias = torch.zeros(inputs.vocab, device=inputs.device, requires_grad=True)
    targets = torch.randint(0, inputs.vocab, (inputs.rows,), device=inputs.device)
    held = (features, weight, bias)
    whole(*held, targets).backward()
    exact = [part.grad.clone() for part in held]
    all_ways = ways(inputs.device, inputs.rows, inputs.vocab)
    results: dict[str, dict[str, float]] = {name: {"ms": float("inf")} for name in all_ways}
    for turn in range(inputs.repeats + 2 * cuda):  # the first two on a GPU compile and warm up
        for name, loss in all_ways.items():
            for part in held:
                part.grad = None
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            operands = tuple(part.to(torch.bfloat16) for part in held) if cuda else held
            loss(*operands, targets).backward()
            if cuda:
                torch.cuda.synchronize()
                results[name]["MiB"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
            if turn >= 2 * cuda:
                results[name]["ms"] = min(results[name]["ms"], round((time.perf_counter() - start) * 1e3, 3))
            pairs = zip((part.grad for part in held), exact, strict=True)
            apart = [float((grad - right).abs().max() / right.abs().max()) for grad, right in pairs]
            results[name]["difference"] = round(max(apart), 6)
    return results


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    inputs = parser.parse_args()
    set_threads(inputs.threads)
    rows = []
    for width in inputs.widths:
        results = measure(width, inputs)
        rows.append({"width": width, "ways": results})
        print(f"width {width}")
        for name, metrics in results.items():
            print(f"  {name:24}", "   ".join(f"{key} {value:g}" for key, value in metrics.items()))
    if inputs.out:
        settings = {"device": inputs.device, "vocab": inputs.vocab, "rows": inputs.rows, "repeats": inputs.repeats}
        report = {"machine": describe(), "settings": settings, "rows": rows}
        inputs.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
