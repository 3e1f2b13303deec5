"""Pre-training on one GPU: tokens per second and model-FLOP utilisation, encodery against `transformers`, in one run.

    python bench/pretrain_gpu.py --text FILES [--sizes 17M 32M 68M 150M] [--lengths 512 1024] [--seconds 90]
    python bench/pretrain_gpu.py --text FILES --long 32M          # one real run of 20 minutes, with its report
    python bench/pretrain_gpu.py --text FILES --smoke             # everything tiny, on whatever device there is

ModernBERT's architecture at the sizes of Ettin (arXiv 2507.11412), vocabulary 50,368, real text, 30 % masks. Both sides
learn in bfloat16 from the same tokenizer's ids without padding: encodery keeps documents apart (`train.compile`: one
compiled graph, with its kernels recorded or not, or also in 8 bits; the fastest of `--ways` counts), the peer gets rows
of full length cut from documents run together. The peer is a bare loop around `ModernBertForMaskedLM`
(`pretrain_gpu_peer.py`): SDPA, fused AdamW, its rows on the device before the clock starts; of torch.compile and of
logits at masked tokens only, the faster counts.

Utilisation is (6 N + 12 layers x width x length) x tokens/s over the measured matmul ceiling of the device in bf16, N
being all parameters, for both sides alike. `mfu` is encodery's own count, of matrix products alone.

Not run on a GPU yet: where a figure of it stands nowhere, there is none.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pretrain_data import rows

HERE = Path(__file__).resolve().parent
# layers, width, heads, inner
SIZES = {
    "17M": (7, 256, 4, 384),
    "32M": (10, 384, 6, 576),
    "68M": (19, 512, 8, 768),
    "150M": (22, 768, 12, 1152),
    "smoke": (2, 64, 1, 96),
}
GOALS = {"150M": 0.45, "32M": 0.30}  # share of the ceiling; and three times the peer's tokens per second


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True)


def prepare(options: argparse.Namespace) -> None:
    """Corpus, tokenizer, tokens, and the peer's rows of each length; what exists is kept."""
    from encodery.tokens.tokenizer import Tokenizer

    work = options.work
    if not (work / "corpus").exists():
        encodery("corpus", "build", *options.text, "--out", work / "corpus")
    if not (work / "tokenizer").exists():
        encodery(
            "tokens", "train", work / "corpus", "--out", work / "tokenizer", "kind=bpe", f"vocab_size={options.vocab}"
        )
    if not (work / "tokens").exists():
        encodery("tokens", "encode", work / "corpus", "--tokenizer", work / "tokenizer", "--out", work / "tokens")
    tokenizer = Tokenizer.load(work / "tokenizer")
    for length in options.lengths:
        if not (work / f"rows_{length}.npy").exists():
            ids, _ = rows(work / "corpus", "train", tokenizer, "chunks", length)
            np.save(work / f"rows_{length}.npy", ids.reshape(-1, length))


def settings(size: str, length: int, options: argparse.Namespace, way: str) -> list[str]:
    """The settings of encodery at one size; `way`: a setting of train and a precision, as in compile-bf16."""
    depth, width, heads, inner = SIZES[size]
    execution, precision = way.split("-")
    fixed = [] if execution == "plain" else [f"train.{execution}=true"]
    return [
        f"model.depth={depth}", f"model.width={width}", f"model.heads={heads}", f"model.intermediate_size={inner}",
        f"model.max_length={length}", f"feed.max_length={length}", *fixed,
        "objective.corruption.fixed_predictions=true", f"train.precision={precision}",
        f"train.micro_batch_tokens={options.micro}", f"train.batch_tokens={options.batch}",
        f"train.seed={options.seed}",
    ]  # fmt: skip


def ours(size: str, length: int, options: argparse.Namespace, pair: int, way: str) -> dict[str, Any]:
    """One encodery run of so many seconds."""
    out = options.work / "runs" / f"{size}-{length}-{pair}-{way}"
    shutil.rmtree(out, ignore_errors=True)
    encodery(
        "pretrain", options.work / "tokens", "--recipe", "modernbert", "--out", out, "--budget", f"{options.seconds}s",
        *settings(size, length, options, way), "train.evals=0", *options.ours,
    )  # fmt: skip
    keep = ("tokens_per_s", "mfu", "precision", "tokens", "steps", "heldout_loss", "bottleneck", "data_fraction")
    metrics = json.loads((out / "metrics.json").read_text())
    return {"way": way, "parameters": metrics["parameters"]} | {key: metrics[key] for key in keep if key in metrics}


def peer(size: str, length: int, options: argparse.Namespace, variant: str) -> dict[str, Any]:
    """One run of the peer of so many seconds."""
    out = options.work / "peer.json"
    command = [
        sys.executable, HERE / "pretrain_gpu_peer.py", "--rows", options.work / f"rows_{length}.npy", "--tokenizer",
        options.work / "tokenizer", "--shape", *SIZES[size], "--seconds", options.seconds, "--micro", options.micro,
        "--variant", variant, "--out", out,
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True)
    metrics: dict[str, Any] = json.loads(out.read_text())
    return metrics


def compare(size: str, length: int, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """All pairs of one size and length, in turns."""
    depth, width, _, _ = SIZES[size]
    results: dict[str, Any] = {"size": size, "length": length, "encodery": [], "peer": []}
    for pair in range(options.pairs):
        mine = [ours(size, length, options, pair, way) for way in options.ways]
        theirs = [peer(size, length, options, variant) for variant in options.variants]
        results["parameters"] = mine[0]["parameters"]
        per_token = 6 * results["parameters"] + 12 * depth * width * length
        for side, all_of in (("encodery", mine), ("peer", theirs)):
            fastest = max(all_of, key=lambda one: one["tokens_per_s"])
            results[side].append({**fastest, "mfu": per_token * fastest["tokens_per_s"] / peak, "all": all_of})
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(results["encodery"], results["peer"], strict=True)]
    results |= {
        "speedup": float(np.median(ratios)),
        "mfu": float(np.median([one["mfu"] for one in results["encodery"]])),
    }
    if size in GOALS:
        results["goal"] = {"mfu": GOALS[size], "speedup": 3.0}
    print(f"{size} at {length}: {results['speedup']:.2f} x, {100 * results['mfu']:.1f} % of the ceiling", flush=True)
    return results


def long_run(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Twenty minutes of one size: trained, exported, scored; the folder holds its report."""
    out = options.work / f"long-{size}"
    shutil.rmtree(out, ignore_errors=True)
    recipe = [*settings(size, max(options.lengths), options, options.ways[0]), *options.ours]
    encodery(
        "pretrain", options.work / "tokens", "--recipe", "modernbert", "--out", out, "--budget", options.budget, *recipe
    )
    encodery("model", "export", out, "--format", "hf", "--out", out / "export")
    metrics = json.loads((out / "metrics.json").read_text())
    size_mb = sum(p.stat().st_size for p in (out / "export").rglob("*") if p.is_file()) / 1e6
    return {"size": size, "budget": options.budget, "folder": str(out), "export_mb": round(size_mb, 1), **metrics}


def parsed() -> argparse.Namespace:
    """The options; `--smoke` makes everything tiny."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/bench_pretrain_gpu"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["17M", "32M", "68M", "150M"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=50_368)
    parser.add_argument("--micro", type=int, default=65_536, help="tokens at once through either model")
    parser.add_argument("--batch", type=int, default=131_072, help="tokens of a step of encodery")
    parser.add_argument("--variants", nargs="+", default=["compiled", "sparse"], help="of the peer; the faster counts")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["compile-bf16", "cuda_graphs-bf16", "cuda_graphs-fp8"],
        help="of encodery; the fastest counts; the first is that of --long",
    )
    parser.add_argument("--long", choices=SIZES, help="one real run of --budget instead of the comparison")
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours", nargs="*", default=[], help="settings for encodery, path=value")
    parser.add_argument("--smoke", action="store_true", help="tiny and short, on any device: only shows that it works")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pretrain_gpu.json")
    options = parser.parse_args()
    if options.smoke:
        options.sizes, options.lengths, options.seconds, options.pairs = ["smoke"], [64], 4, 1
        options.vocab, options.micro, options.batch, options.variants = 1024, 512, 1024, ["sparse"]
        options.ways = ["static_shapes-fp32", "plain-fp32"]
        options.long, options.budget = options.long and "smoke", "4s"
        options.out = options.work / "smoke.json"
    return options


def main() -> None:
    import torch
    import transformers

    from encodery.base import machine

    options = parsed()
    if not torch.cuda.is_available() and not options.smoke:
        raise SystemExit("No CUDA device is there. --smoke runs everything tiny without one.")
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options)
    peak = machine.matmul_peak(torch.float32 if options.smoke else torch.bfloat16)
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "matmul_peak": peak,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {key: value for key, value in vars(options).items() if key not in ("text", "work", "out")},
        "when": time.strftime("%Y-%m-%d"),
        "rows": [],
    }
    if options.long:
        result["long"] = long_run(options.long, options)
    for size in () if options.long else options.sizes:
        for length in options.lengths:
            result["rows"].append(compare(size, length, options, peak))
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    out = options.out.with_stem(f"{options.out.stem}_long") if options.long else options.out
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{out}: written")


if __name__ == "__main__":
    main()
