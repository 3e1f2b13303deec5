"""Compare pre-training on one GPU with encodery and `transformers`: tokens per second and model-FLOP utilisation.

    python bench/pretrain_gpu.py --text FILES [--sizes 17M 32M 68M 150M] [--lengths 512 1024] [--seconds 90]
    python bench/pretrain_gpu.py --text FILES --long 32M          # one run of 20 minutes, with its report
    python bench/pretrain_gpu.py --text FILES --smoke             # a tiny comparison on any device

ModernBERT's architecture at the sizes of Ettin (arXiv 2507.11412), vocabulary 50,368, real text, 30 % masks. Both train
in bfloat16 on ids of the same tokenizer without padding. encodery keeps documents apart; its modes are one compiled
graph (`train.compile`), the same with recorded kernels (`train.cuda_graphs`), and that in 8 bits; the fastest of
`--modes` counts. The peer gets sequences of full length, divided from joined documents. It is a bare loop around
`ModernBertForMaskedLM` (`pretrain_gpu_peer.py`): SDPA, fused AdamW, its data on the device before the clock starts; the
faster of torch.compile and of logits at masked tokens only counts.

Utilisation is (6 N + 12 layers x width x length) x tokens/s divided by the measured bf16 matmul peak of the device,
where N is the number of all parameters, for both alike. The `mfu` of a run is encodery's own count, of matrix products
alone.

This has not been run on a GPU yet, so there is no results file.
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

from pretrain_data import peer_sequences

HERE = Path(__file__).resolve().parent
# Layers, width, heads, intermediate size.
SIZES = {
    "17M": (7, 256, 4, 384),
    "32M": (10, 384, 6, 576),
    "68M": (19, 512, 8, 768),
    "150M": (22, 768, 12, 1152),
    "smoke": (2, 64, 1, 96),
}
TARGETS = {"150M": 0.45, "32M": 0.30}  # Target utilisation; the target speed is 3 times the peer's.


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True)


def prepare(options: argparse.Namespace) -> None:
    """Write the corpus, the tokenizer, the tokens, and the peer's sequences of each length, unless they exist."""
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
            ids, _ = peer_sequences(work / "corpus", "train", tokenizer, "chunks", length)
            np.save(work / f"rows_{length}.npy", ids.reshape(-1, length))


def settings(size: str, length: int, options: argparse.Namespace, mode: str) -> list[str]:
    """Return the settings of encodery. `mode`: a setting of `train` and a precision, such as compile-bf16."""
    depth, width, heads, intermediate_size = SIZES[size]
    execution, precision = mode.split("-")
    fixed = [] if execution == "plain" else [f"train.{execution}=true"]
    return [
        f"model.depth={depth}", f"model.width={width}", f"model.heads={heads}",
        f"model.intermediate_size={intermediate_size}",
        f"model.max_length={length}", f"feed.max_length={length}", *fixed,
        "objective.corruption.fixed_predictions=true", f"train.precision={precision}",
        f"train.micro_batch_tokens={options.micro}", f"train.batch_tokens={options.batch}",
        f"train.seed={options.seed}",
    ]  # fmt: skip


def ours(size: str, length: int, options: argparse.Namespace, pair: int, mode: str) -> dict[str, Any]:
    """Run encodery once for `--seconds` and return its metrics."""
    out = options.work / "runs" / f"{size}-{length}-{pair}-{mode}"
    shutil.rmtree(out, ignore_errors=True)
    encodery(
        "pretrain", options.work / "tokens", "--recipe", "modernbert", "--out", out, "--budget", f"{options.seconds}s",
        *settings(size, length, options, mode), "train.evals=0", *options.ours,
    )  # fmt: skip
    keep = ("tokens_per_s", "mfu", "precision", "tokens", "steps", "heldout_loss", "bottleneck", "data_fraction")
    metrics = json.loads((out / "metrics.json").read_text())
    return {"mode": mode, "parameters": metrics["parameters"]} | {key: metrics[key] for key in keep if key in metrics}


def peer(size: str, length: int, options: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Run the peer once for `--seconds` and return its metrics."""
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
    """Run all pairs of one size and length, alternately."""
    depth, width, _, _ = SIZES[size]
    results: dict[str, Any] = {"size": size, "length": length, "encodery": [], "peer": []}
    for pair in range(options.pairs):
        ours_runs = [ours(size, length, options, pair, mode) for mode in options.modes]
        peer_runs = [peer(size, length, options, variant) for variant in options.variants]
        results["parameters"] = ours_runs[0]["parameters"]
        per_token = 6 * results["parameters"] + 12 * depth * width * length
        for side, all_of in (("encodery", ours_runs), ("peer", peer_runs)):
            fastest = max(all_of, key=lambda one: one["tokens_per_s"])
            results[side].append({**fastest, "mfu": per_token * fastest["tokens_per_s"] / peak, "all": all_of})
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(results["encodery"], results["peer"], strict=True)]
    results |= {
        "speedup": float(np.median(ratios)),
        "mfu": float(np.median([one["mfu"] for one in results["encodery"]])),
    }
    if size in TARGETS:
        results["goal"] = {"mfu": TARGETS[size], "speedup": 3.0}
    print(
        f"{size} at {length}: {results['speedup']:.2f} x, {100 * results['mfu']:.1f} % of the matmul peak", flush=True
    )
    return results


def long_run(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one size for `--budget`, evaluate and export it; the run folder contains the report."""
    out = options.work / f"long-{size}"
    shutil.rmtree(out, ignore_errors=True)
    run_settings = [*settings(size, max(options.lengths), options, options.modes[0]), *options.ours]
    encodery(
        "pretrain",
        options.work / "tokens",
        "--recipe",
        "modernbert",
        "--out",
        out,
        "--budget",
        options.budget,
        *run_settings,
    )
    encodery("model", "export", out, "--format", "hf", "--out", out / "export")
    metrics = json.loads((out / "metrics.json").read_text())
    size_mb = sum(p.stat().st_size for p in (out / "export").rglob("*") if p.is_file()) / 1e6
    return {"size": size, "budget": options.budget, "folder": str(out), "export_mb": round(size_mb, 1), **metrics}


def parse_options() -> argparse.Namespace:
    """Parse the options; `--smoke` replaces sizes and budgets by tiny ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Files or folders of text.")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_pretrain_gpu"), help="The folder of the data and the runs."
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=["17M", "32M", "68M", "150M"], help="The model sizes."
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024], help="The sequence lengths.")
    parser.add_argument("--seconds", type=int, default=90, help="The training time of a run.")
    parser.add_argument("--pairs", type=int, default=3, help="The number of paired runs.")
    parser.add_argument("--vocab", type=int, default=50_368, help="The size of the vocabulary.")
    parser.add_argument("--micro", type=int, default=65_536, help="The tokens of a micro-batch, for both.")
    parser.add_argument("--batch", type=int, default=131_072, help="The tokens per step of encodery.")
    parser.add_argument(
        "--variants", nargs="+", default=["compiled", "sparse"], help="The variants of the peer; the fastest counts."
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        default=["compile-bf16", "cuda_graphs-bf16", "cuda_graphs-fp8"],
        help="The modes of encodery; the fastest counts; --long uses the first.",
    )
    parser.add_argument("--long", choices=SIZES, help="Train this size once for --budget instead of comparing.")
    parser.add_argument("--budget", default="20m", help="The budget of --long.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of encodery.")
    parser.add_argument("--ours", nargs="*", default=[], help="Settings of encodery, each written path=value.")
    parser.add_argument(
        "--smoke", action="store_true", help="Run a tiny comparison on any device, to check the script."
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "pretrain_gpu.json", help="The JSON file to write."
    )
    options = parser.parse_args()
    if options.smoke:
        options.sizes, options.lengths, options.seconds, options.pairs = ["smoke"], [64], 4, 1
        options.vocab, options.micro, options.batch, options.variants = 1024, 512, 1024, ["sparse"]
        options.modes = ["static_shapes-fp32", "plain-fp32"]
        options.long, options.budget = options.long and "smoke", "4s"
        options.out = options.work / "smoke.json"
    return options


def main() -> None:
    import torch
    import transformers

    from encodery.base import machine

    options = parse_options()
    if not torch.cuda.is_available() and not options.smoke:
        raise SystemExit("There is no CUDA device. --smoke runs a tiny comparison without one.")
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
