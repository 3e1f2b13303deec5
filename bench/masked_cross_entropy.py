"""Time the cross entropy over the vocabulary, forward and backward: our chunks against all logits and fused kernels.

    python bench/masked_cross_entropy.py [--device cpu] [--threads 2] [--repeats 10] [--out FILE.json]
    python bench/masked_cross_entropy.py --device cuda --vocab 50368 --rows 4915 --widths 256 384 512 768

On a CPU: fp32, all logits by torch, and chunks of several sizes. On a GPU: bfloat16 products; besides chunks also all
logits with `torch.compile` and, if they are installed, `liger-kernel` and `cut-cross-entropy` (the package requires
neither). `--rows` is the number of masked positions: 600 and 4,915 are 15 % of a step. The reported time is the minimum
over all repeats; the implementations alternate. `difference` is the largest absolute difference of a gradient from that
of all logits in fp32, relative to the largest absolute value of that gradient. The part for GPUs has not been run on
one yet.
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

LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def full_logits(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Compute all logits, then the cross entropy of torch."""
    return F.cross_entropy(F.linear(features, weight, bias).float(), targets, reduction="sum")


def in_chunks(rows: int, vocab: int) -> LossFunction:
    """Return our loss, computed in chunks of at most `rows` positions."""

    def loss(f: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        chunked.LOGITS_CPU = chunked.LOGITS_ELSEWHERE = rows * vocab
        return chunked.masked_cross_entropy(f, w, b, t).total

    return loss


def implementations(device: str, rows: int, vocab: int) -> dict[str, LossFunction]:
    """Return the implementations that run on a device, by name."""
    results: dict[str, LossFunction] = {"whole": full_logits}
    sizes = (64, 128, 256, rows) if device == "cpu" else (256, 1024, chunked.LOGITS_ELSEWHERE // vocab, rows)
    results |= {f"at most {size} rows": in_chunks(size, vocab) for size in dict.fromkeys(min(s, rows) for s in sizes)}
    if device == "cuda":
        results["whole, compiled"] = torch.compile(full_logits, dynamic=False)
        if importlib.util.find_spec("liger_kernel"):
            from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

            results["liger"] = lambda f, w, b, t: liger_fused_linear_cross_entropy(f, w, t, bias=b, reduction="sum")
        if importlib.util.find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy

            results["cut"] = lambda f, w, b, t: linear_cross_entropy(f, w, t, bias=b, reduction="sum")
    return results


def measure(width: int, inputs: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return, for each implementation, the minimum milliseconds (forward and backward), the largest difference of a
    gradient, and on a GPU the peak of the memory that it allocates in MiB.
    """
    cuda = inputs.device == "cuda"
    features = torch.randn(inputs.rows, width, device=inputs.device, requires_grad=True)
    weight = (torch.randn(inputs.vocab, width, device=inputs.device) * 0.05).requires_grad_()
    bias = torch.zeros(inputs.vocab, device=inputs.device, requires_grad=True)
    targets = torch.randint(0, inputs.vocab, (inputs.rows,), device=inputs.device)
    params = (features, weight, bias)
    full_logits(*params, targets).backward()
    exact = [part.grad.clone() for part in params]
    losses = implementations(inputs.device, inputs.rows, inputs.vocab)
    results: dict[str, dict[str, float]] = {name: {"ms": float("inf")} for name in losses}
    for repeat in range(inputs.repeats + 2 * cuda):  # On a GPU the first two compile and warm up.
        for name, loss in losses.items():
            for part in params:
                part.grad = None
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            operands = tuple(part.to(torch.bfloat16) for part in params) if cuda else params
            loss(*operands, targets).backward()
            if cuda:
                torch.cuda.synchronize()
                results[name]["MiB"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
            if repeat >= 2 * cuda:
                results[name]["ms"] = min(results[name]["ms"], round((time.perf_counter() - start) * 1e3, 3))
            pairs = zip((part.grad for part in params), exact, strict=True)
            differences = [float((grad - reference).abs().max() / reference.abs().max()) for grad, reference in pairs]
            results[name]["difference"] = round(max(differences), 6)
    return results


def main() -> None:
    """Measure, print, and write JSON if `--out` is set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="The device to measure on.")
    parser.add_argument("--vocab", type=int, default=16_384, help="The size of the vocabulary.")
    parser.add_argument("--rows", type=int, default=600, help="The number of masked positions.")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[128, 256, 512], help="The widths of the hidden states."
    )
    parser.add_argument("--threads", type=int, default=2, help="The number of CPU threads.")
    parser.add_argument("--repeats", type=int, default=10, help="The number of timed calls per implementation.")
    parser.add_argument("--out", type=Path, help="The JSON file to write [default: none is written].")
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
